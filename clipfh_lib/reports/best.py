"""The best number of a column, marked only where it is better beyond doubt."""

import functools
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import pandas as pd

from clipfh_lib.evaluation import retrieval
from clipfh_lib.reports import differences
from clipfh_lib.reports.differences import Ranked

VIEW = ["dataset", "direction", "test_aspect", "gallery"]  # within it numbers may be compared
WHO = ["notebook", "run", "weights", "direction"]


def clear_best(values: pd.Series, lower: Callable[[Hashable, Hashable], float]) -> Hashable | None:
    """The label of the largest value, if it is more than the second largest by more than chance.

    Args:
        values: numbers by label; empty ones do not count.
        lower: of two labels, the lower end of the 95 % interval of the first less the second,
            paired over people; NaN where the two cannot be compared.

    Returns:
        None where fewer than two have a number, where the first two are equal, and where the
        interval does not leave zero out.
    """
    two = values.dropna().sort_values(ascending=False, kind="stable").index[:2]
    if len(two) < 2 or values[two[0]] == values[two[1]]:
        return None
    return two[0] if lower(*two) > 0 else None


def marks(table: pd.DataFrame, folders: Iterable[str | Path]) -> pd.DataFrame:
    """Which numbers of a comparison may be marked as the best of their view.

    Args:
        table: of `tables.comparison`, of many runs.
        folders: their run folders; ranks.csv of the best two is read.

    Returns:
        Booleans: the index of `table`, a column for each metric that a test over people has, of
        `far` too. Runs of another split ask other queries, so none is marked above or below them.
    """
    pairs = Pairs(folders)
    found = pd.DataFrame(index=table.index)
    for subset, front in (("all", ""), ("far", "far_")):
        for metric in retrieval.METRICS:
            if (column := f"{front}{metric}") in table:
                found[column] = False
                for _, rows in table.groupby(VIEW, sort=False):
                    lower = functools.partial(pairs.lower, rows, subset, metric)
                    label = clear_best(rows[column], lower)
                    if label is not None:
                        found.loc[label, column] = True
    return found


class Pairs:
    """Differences between what run folders ranked; each pair is computed once."""

    def __init__(self, folders: Iterable[str | Path]):
        self._ranked: dict[tuple[str, ...], tuple[int, Ranked]] = {}
        for split, methods in enumerate(differences.of_splits(folders)):
            for one in methods:
                direction = one.ranks["direction"].iloc[0]
                self._ranked[(*one.run.split("/"), one.weights, direction)] = split, one
        self._compared: dict[tuple, pd.DataFrame] = {}

    def lower(
        self, rows: pd.DataFrame, subset: str, metric: str, first: Hashable, second: Hashable
    ) -> float:
        """Lower end of the interval of one row's number less another's; NaN for other queries."""
        pair = tuple(tuple(rows.loc[label, WHO]) for label in (first, second))
        (split, one), (other_split, other) = (self._ranked.get(key, (-1, None)) for key in pair)
        if one is None or other is None or split != other_split:
            return float("nan")
        if pair not in self._compared:
            found = retrieval.compare(one.ranks, other.ranks, subsets=differences.SUBSETS)
            self._compared[pair] = found
        found = self._compared[pair]
        here = (found["subset"] == subset) & (found["metric"] == metric)
        for name in ("test_aspect", "gallery"):
            here &= found[name] == rows.loc[first, name]
        return float(found.loc[here, "low"].iloc[0]) if here.any() else float("nan")
