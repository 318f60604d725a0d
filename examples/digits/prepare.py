"""Split scikit-learn's handwritten digits (1,797 images of 8x8 pixels) into a training and a test file.

The same parameters give the same bytes, on every machine: DVC then knows by the hash that nothing has to run again.
`np.savez` helps with that: it stamps its archive members with 1980, not with today.
"""

from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DATA = Path("data/digits")


def main() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())["prepare"]
    images, labels = load_digits(return_X_y=True)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images.astype(np.uint8),
        labels.astype(np.uint8),
        test_size=params["test_fraction"],
        random_state=params["seed"],
        stratify=labels,
    )
    DATA.mkdir(parents=True, exist_ok=True)
    np.savez(DATA / "train.npz", images=train_images, labels=train_labels)
    np.savez(DATA / "test.npz", images=test_images, labels=test_labels)
    print(f"{len(train_labels)} training and {len(test_labels)} test images in {DATA}/")


if __name__ == "__main__":
    main()
