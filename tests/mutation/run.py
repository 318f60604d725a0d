"""Takes each guard away in copies of the sources, two at a time, and says which test notices.

python tests/mutation/run.py            prints the table; ends with 1 when a removal is noticed by nothing
python tests/mutation/run.py --write    puts it into docs/guarantee.md too
python tests/mutation/run.py token tag  only guards whose names contain one of these words
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue

from guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantee.md"
BEGIN, END = "<!-- guards -->", "<!-- end of guards -->"
LIMIT_S = 900
SEED = 1  # of what Hypothesis draws
COPIES = 2


def main(words: list[str]) -> int:
    """Print the table, and write it where asked."""
    named = [word for word in words if not word.startswith("--")]
    chosen = [guard for guard in GUARDS if not named or any(word in guard.name for word in named)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(COPIES) as pool:
        copies: Queue[Path] = Queue()
        for number in range(COPIES):
            copies.put(_copied(Path(folder) / str(number)))
        found = pool.map(lambda guard: _noticed(guard, copies), chosen)
        noticed = dict(zip(chosen, found, strict=True))
    table = _table(noticed)
    print(table)
    if "--write" in words and not named:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.S))
    return 0 if all(noticed.values()) else 1


def _copied(copy: Path) -> Path:
    """What git has, as it stands now."""
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for name in known.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def _noticed(guard: Guard, copies: Queue[Path]) -> str | None:
    """The first test that fails without the guard; None when all pass."""
    copy = copies.get()
    path = copy / guard.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(guard.is_now) != 1:
        raise SystemExit(f"{guard.name}: {guard.file} has {whole.count(guard.is_now)} places like {guard.is_now!r}")
    path.write_text(whole.replace(guard.is_now, guard.without), encoding="utf-8")
    try:
        return _first_failure(guard, copy)
    finally:
        path.write_text(whole, encoding="utf-8")
        copies.put(copy)


def _first_failure(guard: Guard, copy: Path) -> str | None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--hypothesis-seed={SEED}"]
    command += [*shlex.split(guard.tests)]
    # Before the installed package, so that the copy is what is tested; also by what its tests start.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"none: not within {LIMIT_S} s"
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.M)
    if done.returncode not in (0, 1) or (done.returncode == 1 and found is None):
        raise SystemExit(
            f"{guard.name}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    print(f"  {guard.name}: {found[1] if found else 'NOTHING'}", file=sys.stderr)
    return found[1] if found else None


def _table(noticed: dict[Guard, str | None]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    count = sum(found is not None for found in noticed.values())
    lines = [
        f"{count} of {len(noticed)} noticed, on {datetime.now(UTC):%Y-%m-%d} at {commit.strip()}, seed {SEED}.",
        "",
        "| guard taken away | noticed by |",
        "|---|---|",
    ]
    for guard, found in noticed.items():
        by = f"`{found.removeprefix('tests/')}`" if found else "**nothing**"
        lines.append(f"| {guard.name} | {by} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
