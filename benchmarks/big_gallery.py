"""10,000 queries in a gallery of a million, read from a memory map: memory beyond the embeddings.

Memory is the process's anonymous memory (RssAnon of Linux's /proc; pages of the map are not in
it), the most that is seen every 10 ms, minus what there is just before the search.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import common
from clipfh_lib.evaluation import search

DIMENSIONS, TOP, LIMIT = 512, 10, 500
BLOCK = 10_000
STATUS = Path("/proc/self/status")


def write(path: Path, queries: np.ndarray, rows: int) -> np.ndarray:
    """A file of embeddings (rows, D), a right image of every query spread in it, to its map."""
    draw = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIMENSIONS))
    for start in range(0, rows, BLOCK):
        array[start : start + BLOCK] = draw.standard_normal(
            (min(BLOCK, rows - start), DIMENSIONS), np.float32
        )
    for query, row in enumerate(right_rows(len(queries), rows)):
        array[row] = queries[query] + 5 * array[row]
    array.flush()
    return np.load(path, mmap_mode="r")


def right_rows(queries: int, rows: int) -> np.ndarray:
    """The gallery row that is right for each query: (Q,)."""
    return np.arange(queries) * (rows // queries)


def peak_megabytes(run: Callable[[], object]) -> float:
    """The most anonymous memory while `run` works, less what there is before; 10^6 bytes."""
    before, seen, done = anonymous(), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (max(seen, default=before) - before) / 1e6


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def check(queries: np.ndarray, gallery: np.ndarray, ranks: np.ndarray) -> None:
    """Ranks of some queries are those of their scores in float64."""
    some = np.linspace(0, len(queries) - 1, 20).astype(int)
    right = right_rows(len(queries), len(gallery))[some]
    left = queries[some] / np.linalg.norm(queries[some].astype(np.float64), axis=1, keepdims=True)
    own, before = np.full(len(some), np.nan), np.zeros((2, len(some)), int)
    for counting in (False, True):
        for start in range(0, len(gallery), BLOCK):
            rows = gallery[start : start + BLOCK].astype(np.float64)
            scores = left @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
            mine = np.flatnonzero((right >= start) & (right < start + BLOCK))
            if not counting:
                own[mine] = scores[mine, right[mine] - start]
                continue
            scores[mine, right[mine] - start] = -np.inf
            before += [(scores > own[:, None] + far).sum(axis=1) for far in (1e-6, -1e-6)]
    assert ((before[0] < ranks[some]) & (ranks[some] <= before[1] + 1)).all()
    assert (before[1] - before[0]).mean() < 1
    assert len(set(ranks[some])) > 1  # they agree on something


def main() -> None:
    args = common.arguments(__doc__, queries=10_000, rows=1_000_000)
    if not STATUS.is_file():
        sys.exit("RssAnon is known on Linux alone")
    queries = np.random.default_rng(1).standard_normal((args.queries, DIMENSIONS), np.float32)
    trial = search.Trial(
        np.arange(args.queries),
        np.arange(args.rows),
        right_rows(args.queries, args.rows),  # a person's id is the row of the right image
        np.arange(args.rows),
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        gallery = write(Path(folder) / "gallery.npy", queries, args.rows)
        start = time.perf_counter()
        peak = peak_megabytes(
            lambda: found.extend(search.search(queries, gallery, [trial], top=TOP))
        )
        seconds = time.perf_counter() - start
        check(queries, gallery, found[0].ranks[:, 0])
    what = f"{args.queries:,} x {args.rows:,}, searched in {seconds:.1f} s"
    common.report([common.at_most(what, peak, LIMIT, "MB")], args.check)


if __name__ == "__main__":
    main()
