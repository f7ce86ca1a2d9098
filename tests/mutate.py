"""Does the suite notice a flipped sign? `python tests/mutate.py [word]` tries mutations.csv.

Each row is tried in a copy of the project: `before`, which stands once in the file, becomes
`after`, and the named tests must fail. Prints each row with what the tests said; ends with 1 if any
of them stayed green. About three seconds a row and core; the suite itself only looks that the list
fits the code (`test_mutations.py`).
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("clipfh_lib", "tests", "params", "notebooks", "benchmarks")
FILES = ("pyproject.toml", "Snakefile", "README.md", "CHANGELOG.md")


def rows():
    """The mutations, as dictionaries: file, function, before, after, tests."""
    with open(ROOT / "tests" / "mutations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def copy(folder):
    """A copy of what the tests need."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


def survives(folder, row):
    """Whether the tests pass on the changed code; an error of theirs is no failure."""
    path = folder / row["file"]
    text = path.read_text(encoding="utf-8")
    assert text.count(row["before"]) == 1, f"{row['file']}: {row['before']!r} must stand there once"
    path.write_text(text.replace(row["before"], row["after"]), encoding="utf-8")
    tests = [f"tests/{name}.py" for name in row["tests"].split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not notebooks", *tests]
    own = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        answer = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    finally:
        path.write_text(text, encoding="utf-8")
    assert answer.returncode in (0, 1), answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.returncode == 0


def main(wanted):
    """Try the rows that hold a word; how many survived."""
    chosen = [row for row in rows() if wanted in " ".join(row.values())]
    workers = max(1, min(os.cpu_count() or 1, len(chosen)))
    with tempfile.TemporaryDirectory() as temporary:
        copies = Queue()
        for number in range(workers):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            copies.put(copy(folder))

        def tried(row):
            folder = copies.get()
            try:
                return survives(folder, row)
            finally:
                copies.put(folder)

        with ThreadPoolExecutor(workers) as pool:
            green = list(tqdm(pool.map(tried, chosen), total=len(chosen), unit="sign"))
    for row, alive in zip(chosen, green, strict=True):
        said = "STAYS GREEN" if alive else "red"
        print(f"{said:12}{row['file']:45}{row['function']:32}{row['after']}")
    print(f"{len(chosen) - sum(green)} of {len(chosen)} turn the tests red")
    return sum(green)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])) > 0)
