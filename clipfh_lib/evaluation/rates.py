"""Genuine and impostor scores of each trial to EER and TAR, with intervals over people."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from clipfh_lib.evaluation import intervals, metrics

BINS = 2000  # equal bins from the lowest to the highest score, for resampling and for curves
POINTS = 300  # of a curve


class Cell(NamedTuple):
    """A trial's pairs: scores of genuine ones and codes 0..P-1 of their people; impostors too.

    A score of -inf is below every threshold.
    """

    genuine: np.ndarray
    genuine_people: np.ndarray
    impostor: np.ndarray
    impostor_people: np.ndarray


class Column(NamedTuple):
    """One metric of a group: the value of each trial (T,), and the ends of its interval."""

    values: np.ndarray
    low: float
    high: float


def measured(
    cells: list[Cell],
    people: int,
    fars: dict[str, float],
    resamples: int,
    seed: int,
    others: int | None = None,
) -> tuple[dict[str, Column], dict[str, np.ndarray]]:
    """EER and TAR at fixed FAR with intervals, and the curve of all trials together.

    The values are exact. For the intervals a person's scores are counted in `BINS` bins, so that
    a resample is a matrix product; the resampled values are moved by what binning alone changes.
    Where the value is 0 or 1 the interval is that of `intervals.rule_of_three`.

    Args:
        cells: one per trial.
        people: P, of the queries.
        fars: name of each FAR and its value, 0..1.
        resamples: how often people are drawn.
        seed: of that draw.
        others: how many people the impostors are, where they are none of the P: they are then
            drawn apart from these, and `impostor_people` counts them from 0.

    Returns:
        Columns `eer` and `tar@<name>`; and `threshold`, `far`, `frr` of up to `POINTS` points.
    """
    names, levels = ["eer", *(f"tar@{name}" for name in fars)], list(fars.values())
    parts = [part for cell in cells for part in (cell.genuine, cell.impostor)]
    lowest = min(part.min(where=part > -np.inf, initial=np.inf) for part in parts)
    edges = np.linspace(lowest, max(part.max(initial=-np.inf) for part in parts), BINS + 1)
    strangers = people if others is None else others
    weights = intervals.person_weights(people, resamples, seed)
    apart = weights if others is None else intervals.person_weights(others, resamples, seed + 1)
    exact, drawn, binned = (np.full((len(cells), n, len(names)), np.nan) for n in (1, resamples, 1))
    total = np.zeros((2, BINS + 1))
    for t, cell in enumerate(cells):
        own = _at_least(edges, cell.genuine, cell.genuine_people, people)
        wrong = _at_least(edges, cell.impostor, cell.impostor_people, strangers)
        sums = own.sum(axis=0, keepdims=True), wrong.sum(axis=0, keepdims=True)
        total += np.concatenate(sums)
        if len(cell.genuine) and len(cell.impostor):
            tars = [(cell.genuine >= metrics.threshold_at(cell.impostor, f)).mean() for f in levels]
            exact[t] = [metrics.equal_error_rate(cell.genuine, cell.impostor), *tars]
            drawn[t] = _from_bins(weights @ own, apart @ wrong, levels)
            binned[t] = _from_bins(*sums, levels)
    moved = _mean_of_trials(drawn) + _mean_of_trials(exact - binned)
    ends = np.clip(intervals.percentiles(moved, min(people, strangers)), 0, 1)
    columns = {}
    for m, name in enumerate(names):
        value = _mean_of_trials(exact)[0, m]
        low, high = ends[:, m]
        if value in (0, 1):
            low, high = intervals.rule_of_three(value, people)
        columns[name] = Column(exact[:, 0, m], low, high)
    return columns, _curve(edges, *total)


def at_thresholds(
    cells: list[Cell],
    people: int,
    thresholds: dict[str, float],
    resamples: int,
    seed: int,
    others: int | None = None,
) -> dict[str, Column]:
    """TAR and FAR at given thresholds: columns `val_tar@<name>`, `val_far@<name>`."""
    columns = {}
    kinds = {"val_tar": (0, 1, people), "val_far": (2, 3, people if others is None else others)}
    for kind, (scores, who, count) in kinds.items():
        pairs = [np.bincount(cell[who], minlength=count) for cell in cells]
        for name, threshold in thresholds.items():
            accepted = [
                np.bincount(cell[who], weights=cell[scores] >= threshold, minlength=count)
                for cell in cells
            ]
            sums, counts = np.stack(accepted, axis=1)[:, :, None], np.stack(pairs, axis=1)
            low, high = intervals.interval(sums, counts, resamples, seed)
            means = intervals.trial_means(sums, counts)
            columns[f"{kind}@{name}"] = Column(means[:, 0], low[0], high[0])
    return columns


def _at_least(edges: np.ndarray, scores: np.ndarray, who: np.ndarray, people: int) -> np.ndarray:
    """How many scores of each person reach each edge: (P, BINS + 1) float32.

    The first edge stands for no threshold at all: -inf reaches it too.
    """
    place = (scores - edges[0]) * (BINS / max(edges[-1] - edges[0], 1e-12))
    place = np.clip(place, 0, BINS - 1).astype(np.int64)
    counts = np.bincount(who * BINS + place, minlength=people * BINS).reshape(people, BINS)
    out = np.zeros((people, BINS + 1), np.float32)
    out[:, :-1] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    return out


def _from_bins(own: np.ndarray, others: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """EER and TAR at each FAR from counts at rising thresholds, (B, BINS + 1) each: (B, M)."""
    with np.errstate(invalid="ignore"):  # a resample without genuine pairs: NaN
        tar, far = own / own[:, :1], others / others[:, :1]
    rates = [metrics.crossing(far, 1 - tar)]
    for level in levels:
        lowest = (far > level).sum(axis=1)  # FAR falls with the threshold
        rates.append(tar[np.arange(len(tar)), lowest])
    return np.stack(rates, axis=1)


def _curve(edges: np.ndarray, own: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """Thin a curve to `POINTS` that lie evenly on the normal-deviate axes of a DET plot."""
    far, frr = others / max(others[0], 1), 1 - own / max(own[0], 1)
    finest = 0.5 / max(others[0], own[0], 1)
    deviates = stats.norm.ppf(np.clip([far, frr], finest, 1 - finest))
    way = np.r_[0, np.abs(np.diff(deviates, axis=1)).sum(axis=0).cumsum()]
    keep = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)))
    return {"threshold": edges[keep], "far": far[keep], "frr": frr[keep]}


def _mean_of_trials(values: np.ndarray) -> np.ndarray:
    """Mean of (T, ...) over the trials that have a value."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)
