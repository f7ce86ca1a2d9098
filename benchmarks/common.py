"""What all benchmarks share: paired timing, a row with its target, the table and `--check`."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from clipfh_lib.data import demo_drawing, demo_hands, demo_people


class Row(NamedTuple):
    """A figure: ours and its reference or limit in one unit, their ratio, and its target."""

    what: str
    ours: float
    reference: float
    unit: str
    ratio: float
    target: str
    passed: bool


def at_most(what: str, ours: float, limit: float, unit: str, times: float = 1) -> Row:
    """Ours may be so many times the limit; the ratio is ours / limit."""
    ratio = ours / limit if limit else float("inf") if ours else 0.0
    return Row(what, ours, limit, unit, ratio, f"<= {times:g}", ours <= times * limit)


def faster(what: str, ours: float, reference: float, unit: str, times: float) -> Row:
    """Ours shall take so many times less than the reference; the ratio is reference / ours."""
    ratio = reference / ours
    return Row(what, ours, reference, unit, ratio, f">= {times:g}", ratio >= times)


def paired(
    ours: Callable[[], object],
    reference: Callable[[], object],
    repeats: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Minimum seconds of ours and of the reference, run in turn after one run of each.

    In turn, so that both meet the machine at the same speeds; the minimum, since other work on
    the machine only ever adds.

    Args:
        clock: `time.process_time` counts what this process (all threads, no children) used of
            the processors; `time.perf_counter` the time that passed.
    """
    best = [float("inf")] * 2
    for repeat in range(repeats + 1):
        for which, run in enumerate((ours, reference)):
            start = clock()
            run()
            if repeat:
                best[which] = min(best[which], clock() - start)
    return best[0], best[1]


def arguments(doc: str, **sizes: int) -> argparse.Namespace:
    """Command line of a benchmark: `--check`, and an option with its default for each size."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"{size} unless told")
    return parser.parse_args()


def report(rows: Sequence[Row], check: bool) -> None:
    """Print the machine and the table; exit 1 if told to check and a row misses its target."""
    print(machine())
    wide = max(len(row.what) for row in rows)
    print(f"{'':{wide}}  {'ours':>10} {'reference':>10} {'':4} {'ratio':>8} {'target':>8}")
    for row in rows:
        print(
            f"{row.what:{wide}}  {row.ours:10.4g} {row.reference:10.4g} {row.unit:4} "
            f"{row.ratio:8.3g} {row.target:>8}  {'yes' if row.passed else 'MISSED'}",
            flush=True,
        )
    if check and not all(row.passed for row in rows):
        sys.exit(1)


def machine() -> str:
    """Processor, cores, threads, memory, load and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        names[0] if names else platform.processor() or platform.machine(),
        f"{cores} cores",
        f"OMP_NUM_THREADS {os.environ['OMP_NUM_THREADS']}",
    ]
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts += [f"{memory / 1e9:.0f} GB", f"load {os.getloadavg()[0]:.1f}"]
    parts += [f"Python {platform.python_version()}"]
    return ", ".join(parts + [f"{name} {version(name)}" for name in ("numpy", "torch")])


@contextmanager
def project() -> Iterator[Path]:
    """A temporary folder that is the project as long as it lasts: its caches start empty."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        root = Path(name)
        (root / "params").mkdir()
        (root / "pyproject.toml").touch()
        yield root


def photographs(root: Path, people: int, images: int, width: int) -> pd.DataFrame:
    """JPEG files of drawn hands, four aspects of each person, and their images table.

    Only the first picture of a hand is drawn; the others are that one, moved and darker or
    brighter, so that each is a file of its own.

    Args:
        width: pixels; files of 1600 x 1200 have 100 to 300 kB.
    """
    rows, draw = [], np.random.default_rng(0)
    for shot in demo_hands.table_11k(people, 2, 0):
        if shot.session or shot.worn:
            continue
        who = demo_people.person(0, shot.pid)
        taken = demo_people.shot(who, shot.aspect, 0, 0)
        pixels = demo_drawing.draw(who, shot.aspect, taken, width).astype(np.float32)
        for number in range(images):
            moved = np.roll(pixels, draw.integers(-width // 8, width // 8, 2), axis=(0, 1))
            moved = (moved * draw.uniform(0.5, 1.0)).astype(np.uint8)
            name = f"{shot.pid:04d}_{shot.aspect}_{number:02d}"
            Image.fromarray(moved).save(root / f"{name}.jpg", quality=95)
            rows.append((name, f"{name}.jpg", shot.pid, shot.aspect))
    return pd.DataFrame(rows, columns=["image_id", "path", "pid", "aspect"])
