"""Ranks before and after something changed -> what is lost by it, paired by person."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib.evaluation import intervals, retrieval, trials

METRICS = ("rank1", "mAP", "mAP_trapezoid")
SUBSETS = ("all", "far")
KEY = ["test_aspect", "gallery", "subset"]
LOST = [
    "before", "drop", "drop_low", "drop_high",
    "relative_drop", "relative_drop_low", "relative_drop_high", "compared",
]  # fmt: skip
_PLACES = [retrieval.METRICS.index(name) for name in METRICS]


class Sums(NamedTuple):
    """What people's queries scored: pids (P,), sums (P, T, M) of METRICS, counts (P, T)."""

    people: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    def of(self, people: np.ndarray) -> "Sums":
        """Of these people alone, pids in rising order."""
        here = np.searchsorted(self.people, people)
        return Sums(people, self.sums[here], self.counts[here])


Measured = Mapping[tuple[str, str, str], Sums]


def sums(ranks: pd.DataFrame) -> dict[tuple[str, str, str], Sums]:
    """People's sums by test aspect, gallery and subset; queries without a right image are left out.

    Args:
        ranks: `retrieval.Results.ranks` of one kind of weights.
    """
    values = retrieval.query_values(retrieval.parse_ranks(ranks["ranks"]))[:, _PLACES]
    pids, trial = ranks["pid"].to_numpy(), ranks["trial"].to_numpy()
    gap, found = retrieval.gap_column(ranks), {}
    for key, group in retrieval.groups(ranks):
        numbers = np.unique(trial[group])
        for subset in SUBSETS:
            mine = group[trials.in_subset(gap[group], subset) & ~np.isnan(values[group, 0])]
            if len(mine):
                people, person = np.unique(pids[mine], return_inverse=True)
                place = np.searchsorted(numbers, trial[mine])
                shape = len(people), len(numbers)
                each = intervals.person_sums(values[mine], person, place, shape)
                found[key["test_aspect"], key["gallery"], subset] = Sums(people, *each)
    return found


def between(
    before: Measured, after: Measured, resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """What is lost in every group that both have, among the people whom both have queries of.

    Args:
        before: of `sums`.
        after: likewise; its queries may be others.
        resamples: how often people are drawn.
        seed: of that draw.

    Returns:
        KEY, `metric` and LOST: `before` is the value of those people before, `drop` before minus
        after, `relative_drop` its share of before, `compared` the number of those people.
    """
    frames = []
    for key, first, second in _pairs(before, after):
        found = intervals.change(*first[1:], *second[1:], resamples, seed)
        value = intervals.trial_means(*first[1:])
        lost = [np.nanmean(value, axis=0), *found, len(first.people)]
        names = dict(zip(KEY, key, strict=True))
        lost = dict(zip(LOST, lost, strict=True))
        frames.append(pd.DataFrame({**names, "metric": METRICS, **lost}))
    empty = pd.DataFrame(columns=[*KEY, "metric", *LOST]).astype(dict.fromkeys(LOST, float))
    return pd.concat(frames, ignore_index=True) if frames else empty


def area(steps: Sequence[int], measured: Sequence[Measured]) -> dict[tuple[str, str, str], Sums]:
    """People's sums of the area under a curve, as a share of its width: a mean over the steps.

    By the trapezoid rule. The area is a sum of what queries scored at each step, so its interval is
    that of any other mean.

    Args:
        steps: rising, e.g. severities from 0 on.
        measured: of the same queries, at each step.
    """
    wide = np.diff(np.asarray(steps, float)) / (steps[-1] - steps[0])
    weights = (np.r_[wide, 0] + np.r_[0, wide]) / 2
    found = {}
    for key, first in measured[0].items():
        every = [one[key].sums * weight for one, weight in zip(measured, weights, strict=True)]
        found[key] = first._replace(sums=np.sum(every, axis=0))
    return found


def values(measured: Measured, resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Mean over trials with its interval: KEY, `metric, value, sd, low, high, queries, people`."""
    rows = []
    for key, one in measured.items():
        means = intervals.trial_means(one.sums, one.counts)
        means = means[one.counts.any(axis=0)]
        ends = intervals.interval(one.sums, one.counts, resamples, seed)
        spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(len(METRICS), np.nan)
        frame = {"metric": METRICS, "value": means.mean(axis=0), "sd": spread, **ends._asdict()}
        size = {"queries": one.counts.sum(axis=0).mean(), "people": len(one.people)}
        rows.append(pd.DataFrame({**dict(zip(KEY, key, strict=True)), **frame, **size}))
    return pd.concat(rows, ignore_index=True)


def _pairs(before: Measured, after: Measured) -> Iterator[tuple[tuple[str, str, str], Sums, Sums]]:
    for key in after:
        if key in before:
            both = np.intersect1d(before[key].people, after[key].people)
            if len(both):
                yield key, before[key].of(both), after[key].of(both)
