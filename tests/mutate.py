"""Does the suite notice a flipped sign? `python tests/mutate.py [word]` tries mutations.csv.

Each row is tried in a copy of the project: `before`, which stands once in the file, becomes
`after`, and the named tests must fail, which pass on the code as it is. Prints what the tests said
to each row; ends with 1 if that is not so anywhere. Processes are forked from one that has loaded
what is slow to load, so a row takes little more than its tests; the suite itself only looks that
the list fits the code (`test_mutations.py`).
"""

import contextlib
import csv
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("clipfh_lib", "tests", "params", "notebooks", "benchmarks")
FILES = ("pyproject.toml", "Snakefile", "README.md", "CHANGELOG.md")
LOADED = (
    "pytest", "torch", "lightning", "open_clip", "timm", "pytorch_grad_cam", "pandas",
    "scipy.stats", "scipy.ndimage", "sklearn.manifold", "sklearn.metrics", "cv2", "hypothesis",
)  # fmt: skip
LONGEST = 900  # seconds; tests that do not end have noticed too
SAID = {0: "STAYS GREEN", 1: "red"}  # of pytest's exit codes; any other is no answer


def rows():
    """The mutations, as dictionaries: file, function, before, after, tests."""
    with open(ROOT / "tests" / "mutations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def copy(source, folder):
    """A copy of what the tests need."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source / name, folder / name, ignore=ignored)
    for name in FILES:
        shutil.copy(source / name, folder)


def run_tests(folder, names):
    """Run tests of a copy in this process, and end it with what pytest says."""
    os.chdir(folder)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    tests = [f"tests/{name}.py" for name in names.split()]
    # without the project's options, which start processes of their own
    plain = ["-o", "addopts=", "-q", "-x", "-p", "no:cacheprovider", "--basetemp=temporary"]
    with open("said", "w") as said, contextlib.redirect_stdout(said):
        code = pytest.main([*plain, "-m", "not notebooks", *tests])
    sys.exit(int(code))


def tried(row, source, processes):
    """What the tests say to the changed code, or to the code as it is where nothing is changed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        copy(source, folder)
        if row["before"]:
            path = folder / row["file"]
            text = path.read_text(encoding="utf-8")
            assert text.count(row["before"]) == 1, f"{row['before']!r} must stand there once"
            path.write_text(text.replace(row["before"], row["after"]), encoding="utf-8")
        process = processes.Process(target=run_tests, args=(folder, row["tests"]))
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
            return "red"
        said = folder / "said"
        words = said.read_text(encoding="utf-8")[-1000:] if said.exists() else ""
        return SAID.get(process.exitcode, f"ERROR: {words}")


def main(wanted):
    """Try the rows that hold a word; how many are not red.

    The tests are also run on the code as it is: where they fail there, they would call every
    change noticed.
    """
    chosen = [row for row in rows() if wanted in " ".join(row.values())]
    files = dict.fromkeys(row["tests"] for row in chosen)
    unchanged = [{**dict.fromkeys(chosen[0], ""), "tests": names} for names in files]
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
    kinds = multiprocessing.get_all_start_methods()
    processes = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if "forkserver" in kinds:
        processes.set_forkserver_preload(list(LOADED))
    wrong, tries = 0, [*chosen, *unchanged]
    with (
        tempfile.TemporaryDirectory() as temporary,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(tries), unit="run") as bar,
    ):
        source = Path(temporary)
        copy(ROOT, source)  # once, so that all rows see the same code
        answers = pool.map(lambda row: tried(row, source, processes), tries)
        for row, said in zip(tries, answers, strict=True):
            if not row["before"]:
                said = {"red": "RED BEFORE", "STAYS GREEN": "green"}.get(said, said)
            wrong += said not in ("red", "green")
            what = f"{row['file']:40} {row['function']:24} {row['after']}"
            bar.write(f"{said:12}{what if row['before'] else row['tests'] + ', nothing changed'}")
            bar.update()
    print(f"{len(chosen)} signs, {len(files)} test files: {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])) > 0)
