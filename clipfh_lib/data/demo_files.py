"""How drawn data sets come to disk: whole or not at all, drawn by several processes."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Group = TypeVar("Group")


@contextmanager
def appearing(root: Path) -> Iterator[Path]:
    """Fill a temporary sibling folder that becomes root at the end, or is removed."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is there already; remove it first")
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if root.exists():
            root.rmdir()
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def in_processes(
    work: Callable[[Group], int], groups: Sequence[Group], workers: int, total: int, what: str
) -> None:
    """Draw groups of files, with a bar; the first error ends it.

    Args:
        work: draws and writes a group, and says how many files it has; it can be pickled.
        groups: each drawn by one process.
        workers: processes; 1 or less: this one.
        total: files of all groups.
        what: is drawn, for the bar.
    """
    with tqdm(total=total, desc=f"drawing {what}", unit="image") as bar:
        if workers <= 1:
            for group in groups:
                bar.update(work(group))
            return
        # A forked child of a program with threads may hang: start afresh instead.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            jobs = [pool.submit(work, group) for group in groups]
            try:
                for job in as_completed(jobs):
                    bar.update(job.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
