"""Intervals and paired tests over people: images of one person are not independent."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

CELLS = 2**24  # resamples x people whose draw is held at once: some 400 MB


class Interval(NamedTuple):
    """Ends of a 95 % interval, each (M,) for M metrics; NaN where there is but one person."""

    low: np.ndarray
    high: np.ndarray


class Comparison(NamedTuple):
    """First minus second, its 95 % interval, and the two-sided p value, each (M,)."""

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


class Change(NamedTuple):
    """Before minus after, and that as a share of before, with 95 % intervals, each (M,)."""

    drop: np.ndarray
    low: np.ndarray
    high: np.ndarray
    relative: np.ndarray
    relative_low: np.ndarray
    relative_high: np.ndarray


def person_sums(
    values: np.ndarray, people: np.ndarray, trials: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Add up per-query values by person and trial.

    Args:
        values: (Q, M) float.
        people: (Q,) integer, 0..P-1.
        trials: (Q,) integer, 0..T-1.
        shape: (P, T).

    Returns:
        Sums (P, T, M) and numbers of queries (P, T).
    """
    cell, cells = people * shape[1] + trials, shape[0] * shape[1]
    sums = [np.bincount(cell, weights=column, minlength=cells) for column in values.T]
    counts = np.bincount(cell, minlength=cells)
    return np.stack(sums, axis=-1).reshape(*shape, -1), counts.reshape(shape)


def trial_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the queries of each trial: (T, M); NaN for a trial without queries."""
    queries = counts.sum(axis=0)[:, None]
    return np.where(queries > 0, sums.sum(axis=0) / np.maximum(queries, 1), np.nan)


@lru_cache(maxsize=8)  # groups of as many people share one draw
def person_weights(people: int, resamples: int, seed: int) -> np.ndarray:
    """How often each person is drawn: (B, P) float32, every row adds up to P; read-only."""
    weights = _drawn(np.random.default_rng(seed), people, resamples)
    weights.flags.writeable = False
    return weights


def _drawn(draw: np.random.Generator, people: int, resamples: int) -> np.ndarray:
    drawn = draw.integers(people, size=(resamples, people))
    cell = drawn + people * np.arange(resamples)[:, None]
    weights = np.bincount(cell.ravel(), minlength=resamples * people).astype(np.float32)
    return weights.reshape(resamples, people)


def weight_parts(people: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """`person_weights` in parts (b, P) of no more than `CELLS`, one where that is enough."""
    if resamples * people <= CELLS:
        yield person_weights(people, resamples, seed)
        return
    draw, several = np.random.default_rng(seed), max(CELLS // people, 1)
    for start in range(0, resamples, several):
        yield _drawn(draw, people, min(several, resamples - start))


def interval(
    sums: np.ndarray, counts: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """95 % interval of the mean over trials of each trial's mean over queries.

    People are drawn with replacement, with all their queries in all trials, and the reported
    value is computed again: a ratio of weighted sums per trial, then the mean over the trials
    that have queries (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8.6 on
    resampling units that hold several measurements).

    If every single person has 0, or 1, the interval is that of the `rule_of_three`.

    Args:
        sums: (P, T, M) sums of per-query values, see `person_sums`.
        counts: (P, T) numbers of queries.
        resamples: B.
        seed: of the draw.
    """
    people = len(sums)
    parts = weight_parts(people, resamples, seed)
    value = np.concatenate([_resampled(weights, sums, counts) for weights in parts])
    low, high = percentiles(value, people)
    for end in (0.0, 1.0):
        constant = (sums == end * counts[:, :, None]).all(axis=(0, 1))
        low[constant], high[constant] = rule_of_three(end, people)
    return Interval(low, high)


def _resampled(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The reported value of drawn people (b, P): (b', M), without draws that have no query."""
    people, trials, metrics = sums.shape
    queries = weights @ counts.astype(np.float32)  # (b, T)
    there = queries > 0
    share = np.where(there, 1 / np.maximum(queries, 1), 0) / np.maximum(
        there.sum(axis=1, keepdims=True), 1
    )
    total = weights @ sums.reshape(people, -1).astype(np.float32)
    value = np.einsum("btm,bt->bm", total.reshape(len(weights), trials, metrics), share)
    return value[there.any(axis=1)]


def median_interval(
    values: np.ndarray, people: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the median of per-query values, people resampled as in `interval`.

    Args:
        values: (Q,) float, without NaN.
        people: (Q,) integer, 0..P-1, each at least once.
        resamples: B.
        seed: of the draw.
    """
    order, count = np.argsort(values, kind="stable"), people.max(initial=0) + 1
    values, people, medians = values[order], people[order], []
    several = max(2**20 // len(values), 1)  # for the processor's cache
    for weights in weight_parts(count, resamples, seed):
        for start in range(0, len(weights), several):
            passed = np.cumsum(weights[start : start + several, people], axis=1, dtype=np.float64)
            half = passed[:, -1:] / 2
            middle = [np.argmax(side, axis=1) for side in (passed >= half, passed > half)]
            medians.append(values[middle].mean(axis=0))
    low, high = percentiles(np.concatenate(medians)[:, None], count)
    return float(low[0]), float(high[0])


def rule_of_three(end: float, people: int) -> tuple[float, float]:
    """Interval where the value of all people is `end`, 0 or 1, so that resampling cannot vary.

    The exact one-sided 95 % bound for values within 0..1 is 1 - 0.05 ** (1 / P) away from the end,
    about 3 / P (Mansfield & Wayman, NPL report CMSC 14/02, 2002, rule of 3): 4.1 % with 71 people.
    """
    reach = 1 - 0.05 ** (1 / people)
    return (0.0, reach) if end == 0 else (1 - reach, 1.0)


def percentiles(values: np.ndarray, people: int) -> Interval:
    """Expanded percentile interval, 95 %, of resampled values (B, M).

    The levels are widened for few people to Phi(-+ sqrt(n / (n - 1)) t(0.975, n - 1)), since
    plain percentiles are too narrow by just that (Hesterberg, What Teachers Should Know About
    the Bootstrap, The American Statistician 69(4), 2015, section 4.1). With 71 people: 2.2 % and
    97.8 % rather than 2.5 % and 97.5 %.
    """
    values = values[~np.isnan(values).all(axis=1)]
    if people < 2 or not len(values):
        return Interval(*np.full((2, values.shape[1]), np.nan))
    wide = np.sqrt(people / (people - 1)) * stats.t.ppf(0.975, people - 1)
    levels = stats.norm.cdf([-wide, wide])
    return Interval(*np.nanquantile(values, levels, axis=0).astype(np.float64))


def compare(
    first: np.ndarray,
    second: np.ndarray,
    counts: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two methods on the same queries, paired by person.

    The difference of the two reported values is a sum of one number per person. If the methods
    do not differ, each of these might as well have the other sign, so p is the share of sign
    patterns whose sum is at least as far from 0 (Fisher, The Design of Experiments, 1935,
    ch. 21): of all patterns if they are no more than `resamples`, which is up to 13 people for
    10,000, otherwise of as many drawn ones and the observed one. The interval is that of
    `interval`, on the differences; if nobody differs it is the rule of three to both sides.

    Args:
        first: (P, T, M) sums of per-query values of one method.
        second: (P, T, M) those of the other.
        counts: (P, T) numbers of queries, the same for both.
        resamples: of people and of signs.
        seed: of both draws.
    """
    change = first - second
    queries = counts.sum(axis=0)
    used = queries > 0
    by_person = (change[:, used] / queries[used][:, None]).mean(axis=1)  # (P, M)
    low, high = interval(change, counts, resamples, seed)
    same = ~change.any(axis=(0, 1))
    low[same] = -high[same]
    return Comparison(by_person.sum(axis=0), low, high, _sign_flip_p(by_person, resamples, seed))


def change(
    before: np.ndarray,
    before_counts: np.ndarray,
    after: np.ndarray,
    after_counts: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
) -> Change:
    """How much the reported value falls, paired by person: the same people, not the same queries.

    People are drawn as in `interval`, and both values are computed again from each draw. Where
    nobody's values change, the rule of three holds to both sides; where `after` is 0 for all, its
    `rule_of_three` bounds the relative drop.

    Args:
        before: (P, T, M) sums of per-query values, see `person_sums`.
        before_counts: (P, T) numbers of queries; each person has one at least.
        after: (P, T', M) of the same people, in their order.
        after_counts: (P, T'), likewise.
        resamples: B.
        seed: of the draw.

    Raises:
        ValueError: other people, or one without a query.
    """
    people = len(before)
    if len(after) != people or not (before_counts.any(axis=1) & after_counts.any(axis=1)).all():
        raise ValueError("the same people are wanted before and after, each with a query")
    value, left = (
        np.nanmean(trial_means(*each), axis=0)
        for each in ((before, before_counts), (after, after_counts))
    )
    first, second = [], []
    for weights in weight_parts(people, resamples, seed):
        first.append(_resampled(weights, before, before_counts))
        second.append(_resampled(weights, after, after_counts))
    first, second = np.concatenate(first), np.concatenate(second)
    low, high = percentiles(first - second, people)
    none = np.full(value.shape, np.nan)
    relative = np.divide(value - left, value, out=none.copy(), where=value > 0)
    shares = np.divide(first - second, first, out=np.full(first.shape, np.nan), where=first > 0)
    known = ~np.isnan(shares).all(axis=0)  # else nothing was right before
    relative_low, relative_high = none.copy(), none.copy()
    relative_low[known], relative_high[known] = percentiles(shares[:, known], people)
    reach = rule_of_three(0, people)[1]
    bound = np.divide(reach, value, out=none, where=value > 0)
    if before.shape == after.shape:
        same = (before == after).all(axis=(0, 1)) & (before_counts == after_counts).all()
        low[same], high[same] = -reach, reach
        relative_low[same], relative_high[same] = -bound[same], bound[same]
    gone = ~after.any(axis=(0, 1)) & (value > 0)
    relative_low[gone] = np.minimum(relative_low, 1 - np.minimum(bound, 1))[gone]
    drop = np.round(value - left, 12)  # 0 where as much is won as lost
    return Change(drop, low, high, np.round(relative, 12), relative_low, relative_high)


def _sign_flip_p(by_person: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    people, bar = len(by_person), np.abs(by_person.sum(axis=0)) * (1 - 1e-9)
    if 2**people <= resamples:
        flips = np.arange(2**people)[:, None] >> np.arange(people) & 1
        return (np.abs((1.0 - 2.0 * flips) @ by_person) >= bar).sum(axis=0) / len(flips)
    draw, several = np.random.default_rng(seed), max(CELLS // people, 1)
    reached = np.zeros(len(bar), int)
    for start in range(0, resamples, several):
        flips = draw.integers(0, 2, (min(several, resamples - start), people))
        reached += (np.abs((1.0 - 2.0 * flips) @ by_person) >= bar).sum(axis=0)
    return (reached + 1) / (resamples + 1)
