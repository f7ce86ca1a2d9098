"""A split to trials of embedding rows, and what trials measured to long tables."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from clipfh_lib.evaluation import intervals, search
from clipfh_lib.files import InputError

# Subsets of the queries by the distance in file numbers to the nearest right gallery image.
SUBSETS = {
    "all": None,
    "far": (11, np.inf),
    "gap_1": (0, 1),
    "gap_2": (2, 2),
    "gap_3_5": (3, 5),
    "gap_6_10": (6, 10),
    "gap_11_50": (11, 50),
    "gap_51_up": (51, np.inf),
}
POOLED = "all"  # test_aspect of the queries of all aspects together
_STATISTICS = ["value", "sd", "low", "high"]
_TRIAL = ["test_aspect", "trial"]
Tables = TypeVar("Tables", bound=tuple)  # named, of DataFrames


class Search(NamedTuple):
    """A gallery of a trial: its names in the split, and the rows of the embeddings."""

    test_aspect: str
    gallery: str
    trial: int
    rows: search.Trial


def searches(array: np.ndarray, table: pd.DataFrame, split: pd.DataFrame) -> list[Search]:
    """Look up the rows of every trial and gallery of a split, and check them.

    Raises:
        InputError: if the split tests nobody or has no query, an image is a query in its own
            gallery, or an image has no finite embedding.
    """
    if len(array) != len(table):
        raise ValueError(f"{len(array)} embeddings for a table of {len(table)} rows")
    test = split[split["role"].isin(["query", "gallery"])]
    if test.empty:
        raise InputError("the split has no query and gallery rows: it tests nobody (data.cut)")
    if not (test["role"] == "query").any():
        raise InputError(
            "the split has no query: the images of this data set are searched by words; "
            "08_text_to_image is the notebook for it"
        )
    rows = image_rows(array, table, test["image_id"])
    test = test.assign(row=rows, trial=test["trial"].astype(int), pid=test["pid"].astype(int))
    queries = {key: part for key, part in test[test["role"] == "query"].groupby(_TRIAL)}
    found = []
    for (aspect, trial, gallery), part in test[test["role"] == "gallery"].groupby(
        [*_TRIAL, "gallery"]
    ):
        if (aspect, trial) not in queries:
            continue
        own = queries[aspect, trial]
        _check_trial(own, part, f"{aspect}, trial {trial}, gallery {gallery}")
        columns = (own["row"], part["row"], own["pid"], part["pid"])
        pairs = search.Trial(*(column.to_numpy() for column in columns))
        found.append(Search(aspect, gallery, trial, pairs))
    if not found:
        raise InputError("no query of the split has a gallery of its test_aspect and trial")
    return found


def image_rows(array: np.ndarray, table: pd.DataFrame, images: pd.Series) -> np.ndarray:
    """Rows of the embeddings of images named by id: (n,).

    Raises:
        InputError: if one has none, or one that is not finite, or an id stands twice in the table.
    """
    index = pd.Index(table["image_id"])
    if not index.is_unique:
        raise InputError(
            f"image_id {index[index.duplicated()][0]} stands twice in the table of embeddings: "
            "one row per image"
        )
    rows = index.get_indexer(images)
    if (rows < 0).any():
        missing = images[rows < 0].unique()
        raise InputError(
            f"{len(missing)} images of the split have no embedding, first: {missing[0]}; "
            "make split and embeddings from the same images table"
        )
    used = np.unique(rows)
    parts = np.array_split(used, 1 + len(used) // search.GALLERY_BLOCK)
    finite = np.concatenate([np.isfinite(array[part]).all(axis=1) for part in parts])
    if not finite.all():
        raise InputError(
            f"{(~finite).sum()} embeddings are not finite, first that of "
            f"{index[used[~finite][0]]}: check the weights and the precision"
        )
    return rows


def file_numbers(table: pd.DataFrame) -> np.ndarray:
    """File number of every row: (N,) float, NaN where there is none."""
    if "file_number" not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table["file_number"]).to_numpy(np.float64, na_value=np.nan)


def gaps(trial: search.Trial, numbers: np.ndarray) -> np.ndarray:
    """Distance in file numbers to the nearest right gallery image: (Q,) float, NaN for none."""
    right = search.right_images(trial)
    distance = np.abs(numbers[trial.queries][:, None] - numbers[right])
    distance[(right < 0) | np.isnan(distance)] = np.inf
    nearest = distance.min(axis=1)
    return np.where(np.isfinite(nearest), nearest, np.nan)


def in_subset(gap: np.ndarray, subset: str) -> np.ndarray:
    """Which queries belong to a subset of `SUBSETS`: (Q,) bool, from their gap, NaN for none."""
    if SUBSETS[subset] is None:
        return np.ones(len(gap), bool)
    low, high = SUBSETS[subset]
    return (gap >= low) & (gap <= high)


class LongTables:
    """Collects rows of `trials.csv` and `metrics.csv`, one metric of one group per row."""

    def __init__(self) -> None:
        self.trials: list[dict] = []
        self.metrics: list[dict] = []

    def add(
        self,
        key: dict[str, str],
        numbers: np.ndarray,
        names: Sequence[str],
        means: np.ndarray,
        ends: intervals.Interval,
        counts: np.ndarray,
    ) -> None:
        """Add metrics of one group: numbers (T,), names M, means (T, M), ends (M,), counts (P, T).

        Trials without queries get no row and count for nothing but the mean number of queries.
        """
        queries, people = counts.sum(axis=0), (counts > 0).sum(axis=0)
        for m, name in enumerate(names):
            there = np.flatnonzero(queries)
            values = means[there, m]
            self.trials += [
                {
                    **key,
                    "trial": numbers[t],
                    "metric": name,
                    "value": means[t, m],
                    "queries": queries[t],
                    "people": people[t],
                }
                for t in there
            ]
            self.metrics.append(
                {
                    **key,
                    "metric": name,
                    "value": values.mean(),
                    "sd": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "low": ends.low[m],
                    "high": ends.high[m],
                    "queries": queries.mean(),
                    "people": len(counts),
                }
            )

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Trials and metrics, columns in the order of the files."""
        front = ["test_aspect", "weights", "gallery", "subset", "direction"]
        back = ["queries", "people"]
        return (
            pd.DataFrame(self.trials, columns=[*front, "trial", "metric", "value", *back]),
            pd.DataFrame(self.metrics, columns=[*front, "metric", *_STATISTICS, *back]),
        )


def join(*results: Tables) -> Tables:
    """Put evaluations of several weights of one run together, table by table.

    Args:
        results: of one kind, as `retrieval`, `verification` and `open_set` give them.
    """
    tables = zip(*results, strict=True)
    return type(results[0])(*(pd.concat(parts, ignore_index=True) for parts in tables))


def _check_trial(queries: pd.DataFrame, gallery: pd.DataFrame, where: str) -> None:
    twice = gallery["image_id"].duplicated()
    if twice.any():
        raise InputError(f"{where}: image {gallery['image_id'][twice].iloc[0]} stands twice")
    both = queries["image_id"].isin(gallery["image_id"])
    if both.any():
        raise InputError(
            f"{where}: {queries['image_id'][both].iloc[0]} is a query and in the gallery"
        )
