"""How well people never trained on are found again among each other; quick, after each epoch."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from clipfh_lib.evaluation import metrics, search, trials
from clipfh_lib.files import InputError

BLOCK = 1024  # queries scored at once


def leave_one_out(
    array: np.ndarray, table: pd.DataFrame, distance: search.Distance = "cosine", gap: int = 10
) -> dict[str, float]:
    """Search every image among all others of its aspect; no draw, so epochs can be compared.

    Images of one person and aspect that were taken right after each other are nearly the same
    picture, so those within `gap` file numbers of the query neither count as right nor stand in its
    gallery; without file numbers only the query itself is left out. Queries for which no right
    image is left do not count. An embedding that is not finite is the furthest of all.

    Args:
        array: (N, D) float embeddings of validation images.
        table: their rows: `pid` and, where known, `aspect` and `file_number`.
        distance: `cosine` or `euclidean`.
        gap: file numbers.

    Returns:
        `rank1` and `mAP`, means over the queries, 0..1.

    Raises:
        InputError: no query has a right image.
    """
    if len(array) != len(table):
        raise ValueError(f"{len(array)} embeddings for a table of {len(table)} rows")
    table = table.reset_index(drop=True)
    aspects = table["aspect"] if "aspect" in table else pd.Series("", index=table.index)
    rank1, precision = [], []
    for _, part in table.groupby(aspects, dropna=False):
        pids, numbers = part["pid"].to_numpy(), trials.file_numbers(part)
        ranks = _ranks(array[part.index], pids, numbers, distance, gap)
        rank1.append(metrics.rank_k(ranks, 1))
        precision.append(metrics.average_precision(ranks))
    found = np.concatenate(rank1)
    if np.isnan(found).all():
        raise InputError(
            "data.val: no validation person has two images of an aspect more than "
            f"{gap} file numbers apart, so that one could be searched by another; take more people "
            "or images, or fit.best_by loss or last"
        )
    return {"rank1": float(np.nanmean(found)), "mAP": float(np.nanmean(np.concatenate(precision)))}


def _ranks(
    array: np.ndarray, pids: np.ndarray, numbers: np.ndarray, distance: search.Distance, gap: int
) -> np.ndarray:
    """Ranks of each image's right images among all others: (N, K), ascending, 0 fills up."""
    every = np.arange(len(pids))
    close = np.abs(numbers[:, None] - numbers) <= gap  # False where a number is not known
    close[every, every] = True
    same = pids[:, None] == pids
    left_out = same & close

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(pids), BLOCK):
            here = slice(start, start + BLOCK)
            with np.errstate(invalid="ignore"):
                scores = search.similarity(array[here], array, distance)
            scores = np.where(np.isnan(scores), np.finfo(np.float32).min, scores)
            yield np.where(left_out[here], -np.inf, scores)

    found = search.from_scores(search.Trial(every, every, pids, pids), blocks()).ranks
    # What is left out is right and has the lowest score, so it stands last and moves nothing.
    count = (same & ~close).sum(axis=1)
    return np.where(np.arange(found.shape[1]) < count[:, None], found, 0)
