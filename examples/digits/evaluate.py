"""Look at the trained model once with the images it has never seen, and write down what it confuses."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from train import build_model

DATA = Path("data/digits/test.npz")


def main() -> None:
    with np.load(DATA) as data:
        images, actual = data["images"], data["labels"]
    predicted = predict(images)
    right = predicted == actual
    per_digit = {str(digit): float(right[actual == digit].mean()) for digit in range(10)}
    evaluation = {"accuracy": float(right.mean()), "per_digit": per_digit}
    Path("evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    write_confusion(actual, predicted)
    print(f"accuracy {evaluation['accuracy']:.3f} on {len(actual)} test images")


def predict(images: np.ndarray) -> np.ndarray:
    saved = torch.load("model.pt", map_location="cpu")
    model = build_model(saved["hidden"])
    model.load_state_dict(saved["weights"])
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(images).float() / 16).argmax(1).numpy()


def write_confusion(actual: np.ndarray, predicted: np.ndarray) -> None:
    """One row per image: `dvc plots show confusion.csv` counts them into a matrix."""
    with open("confusion.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["actual", "predicted"])
        rows.writerows(zip(actual.tolist(), predicted.tolist(), strict=True))


if __name__ == "__main__":
    main()
