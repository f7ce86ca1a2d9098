"""The pairs of each trial to error rates: is this the same person, yes or no?"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib.evaluation import intervals, metrics, rates, search, trials

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
ERRORS = 30  # errors that a rate must rest on: rule of 30 (Mansfield & Wayman, 2002, section 2)
METRICS = (
    "eer",
    *(f"tar@{name}" for name in FARS),
    *(f"{rate}@{name}" for rate in ("val_tar", "val_far") for name in FARS),
)
NEAR = 10  # file numbers; pairs of val images no further apart are left out
KINDS = ("mated", "non-mated", "distractor")  # comparisons, see `Results.scores`
SCORE_BINS = 150  # of the histogram of a group's scores


class Results(NamedTuple):
    """`trials` and `metrics` have the columns of `retrieval.Results`.

    `notes` says why a value is empty: `weights, test_aspect, gallery, metric, reason`. The others
    are for figures, all trials together, and begin with `weights, test_aspect, gallery`:

    - `curves`: `threshold, far, frr`;
    - `scores`: `kind, low, high, count`, a histogram of the scores from `low` to `high`. A query is
      compared with its own person's gallery images (`mated`), with those of people who have
      queries too (`non-mated`), and with those of people who have none (`distractor`);
    - `thresholds`: `far, threshold` that val people set, where there are pairs enough.
    """

    trials: pd.DataFrame
    metrics: pd.DataFrame
    notes: pd.DataFrame
    curves: pd.DataFrame
    scores: pd.DataFrame
    thresholds: pd.DataFrame


class Pairs(NamedTuple):
    """Scores of a trial's queries against one gallery: (Q, G), with what is known of the queries.

    `genuine` (Q, G) bool: pairs of one person. `people` (Q,): pids. `gap` (Q,): file numbers to
    the nearest right gallery image, NaN for none. `distractor` (G,) bool: its person has no query.
    """

    scores: np.ndarray
    genuine: np.ndarray
    people: np.ndarray
    gap: np.ndarray
    distractor: np.ndarray

    def of(self, queries: np.ndarray) -> "Pairs":
        """Only these queries, (Q,) bool."""
        return Pairs(*(field[queries] for field in self[:4]), self.distractor)


class Impostors(NamedTuple):
    """Scores (n,) of pairs of two val people, or why there are none."""

    scores: np.ndarray
    reason: str


def evaluate(
    array: np.ndarray,
    table: pd.DataFrame,
    split: pd.DataFrame,
    weights: str,
    distance: search.Distance = "cosine",
    resamples: int = 1_000,
    seed: int = 0,
) -> Results:
    """Measure EER, TAR at fixed FAR, and both rates at thresholds that val people set.

    A pair is a query and a gallery image of its trial; pairs of one person are genuine, all others
    impostors. Who is who is as the split says: in `all_aspects` a person's other hands are
    impostors, as published. `eer` is where FAR and FRR cross. `tar@F` is the share of genuine
    pairs accepted at the lowest threshold whose FAR is at most F. `val_tar@F` and `val_far@F` are
    the rates at the threshold that has FAR F on pairs of val people (of the same aspect, for
    either gallery), as a deployed system would choose it. Each is computed per trial, then
    averaged. With several test aspects, rows with `test_aspect` "all" take their pairs together,
    under one threshold.

    A rate is empty, with a note, where the rule of 30 forbids it: with fewer than 30 / F impostor
    pairs, in the trial or among val people.

    Intervals come from resampling the people of the queries. For `eer` and `tar@F` their scores
    are kept in `rates.BINS` bins from the lowest to the highest score of the group, so a resampled
    threshold is only as fine as that; the reported values are exact, and the interval is moved by
    what binning changes in them.

    Memory: the scores of an aspect's test images against its gallery images at once (4 bytes
    each), and those among its val images.

    Args:
        array: (N, D) float embeddings, one row per row of the table.
        table: `image_id` and, where known, `file_number`.
        split: the split manifest.
        weights: what made the embeddings, for the column of that name.
        distance: `cosine` or `euclidean`.
        resamples: how often people are drawn for an interval.
        seed: of that draw.

    Raises:
        InputError: as `trials.searches`.
    """
    found = trials.searches(array, table, split)
    crowds = distractors(split)
    numbers = trials.file_numbers(table)
    val = {
        aspect: val_impostors(array, table, split, aspect, distance)
        for aspect in dict.fromkeys(one.test_aspect for one in found)
    }
    groups: dict[tuple[str, str], dict[int, list[Pairs]]] = {}
    for _, group in itertools.groupby(found, key=lambda one: one.test_aspect):
        for one, pairs in _pairs(array, list(group), crowds, numbers, distance):
            for aspect in (one.test_aspect, trials.POOLED)[: 1 + (len(val) > 1)]:
                by_trial = groups.setdefault((aspect, one.gallery), {})
                by_trial.setdefault(one.trial, []).append(pairs)
    if len(val) > 1:
        val[trials.POOLED] = Impostors(
            np.concatenate([each.scores for each in val.values()]),
            "; ".join(dict.fromkeys(each.reason for each in val.values() if each.reason)),
        )
    long, notes, curves, scores, marks = trials.LongTables(), [], [], [], []
    for (aspect, gallery), by_trial in groups.items():
        key = {"weights": weights, "test_aspect": aspect, "gallery": gallery}
        every = list(by_trial.values())
        thresholds, reasons = _thresholds(every, val[aspect])
        measured, curve = _measure(every, thresholds, reasons, resamples, seed)
        for subset, (columns, counts) in measured.items():
            names = METRICS if subset == "all" else tuple(columns)
            empty = rates.Column(np.full(len(by_trial), np.nan), np.nan, np.nan)
            filled = [columns.get(name, empty) for name in names]
            means, low, high = (np.stack(parts, axis=-1) for parts in zip(*filled, strict=True))
            long.add(
                {**key, "direction": "image_image", "subset": subset},
                np.array(list(by_trial)),
                names,
                means,
                intervals.Interval(low, high),
                counts,
            )
        notes += [{**key, "metric": name, "reason": reasons[name]} for name in reasons]
        curves.append(pd.DataFrame({**key, **curve}))
        scores.append(_histogram(every).assign(**key))
        marks += [{**key, "far": FARS[name], "threshold": thresholds[name]} for name in thresholds]
    front = ["weights", "test_aspect", "gallery"]
    return Results(
        *long.frames(),
        pd.DataFrame(notes, columns=[*front, "metric", "reason"]),
        pd.concat(curves, ignore_index=True),
        pd.concat(scores, ignore_index=True)[[*front, "kind", "low", "high", "count"]],
        pd.DataFrame(marks, columns=[*front, "far", "threshold"]),
    )


def distractors(split: pd.DataFrame) -> dict[tuple[str, str, int], np.ndarray]:
    """Gallery people without a query, by test aspect, gallery and trial: pids."""
    rows = split[(split["role"] == "gallery") & split["distractor"].eq(True)]
    groups = rows.groupby(["test_aspect", "gallery", "trial"])["pid"]
    return {key: pids.unique() for key, pids in groups}


def val_impostors(
    array: np.ndarray,
    table: pd.DataFrame,
    split: pd.DataFrame,
    test_aspect: str,
    distance: search.Distance,
) -> Impostors:
    """Scores of all pairs of two val people, both of the test aspect ("all": of one aspect).

    Pairs of images within `NEAR` file numbers are left out where numbers are known.
    """
    val, reason = val_images(array, table, split, test_aspect)
    if reason:
        return Impostors(np.empty(0, np.float32), reason)
    number, scores = trials.file_numbers(table), []
    for _, part in val.groupby("aspect", dropna=False):
        rows, pair = part["row"].to_numpy(), np.triu(strangers(part, number), 1)
        scores.append(search.similarity(array[rows], array[rows], distance)[pair])
    return Impostors(np.concatenate(scores), "")


def val_images(
    array: np.ndarray, table: pd.DataFrame, split: pd.DataFrame, test_aspect: str
) -> tuple[pd.DataFrame, str]:
    """Val images of the test aspect ("all": of every one), or why they can set no threshold.

    Returns:
        Rows of the split with a column `row`, of the embeddings; and the reason, empty if they can.
    """
    val = split[split["role"] == "val"]
    if test_aspect != trials.POOLED:
        val = val[val["aspect"] == test_aspect]
    if val["pid"].nunique() < 2:
        return val, "there are no val people of this aspect"
    train = split[split["role"] == "train"]
    if val["pid"].isin(train["pid"][train["aspect"].isin(val["aspect"])]).any():
        return val, "val people also train (data.val: published)"
    if not val["image_id"].isin(table["image_id"]).all():
        return val, "val images have no embedding"
    return val.assign(row=trials.image_rows(array, table, val["image_id"])), ""


def strangers(val: pd.DataFrame, numbers: np.ndarray) -> np.ndarray:
    """Which val images (V, V) are of two people, and not within `NEAR` file numbers."""
    pids, number = val["pid"].to_numpy(), numbers[val["row"].to_numpy()]
    near = np.abs(number[:, None] - number) <= NEAR
    return (pids[:, None] != pids) & ~near


def _pairs(
    array: np.ndarray,
    of_aspect: list[trials.Search],
    crowds: dict[tuple[str, str, int], np.ndarray],
    numbers: np.ndarray,
    distance: search.Distance,
) -> Iterator[tuple[trials.Search, Pairs]]:
    """Score every test image of an aspect once, and cut the trials out of that."""
    queries = np.unique(np.concatenate([one.rows.queries for one in of_aspect]))
    gallery = np.unique(np.concatenate([one.rows.gallery for one in of_aspect]))
    scores = search.similarity(array[queries], array[gallery], distance)
    for one in of_aspect:
        rows, key = one.rows, (one.test_aspect, one.gallery, one.trial)
        yield (
            one,
            Pairs(
                scores[
                    np.searchsorted(queries, rows.queries)[:, None],
                    np.searchsorted(gallery, rows.gallery),
                ],
                rows.query_pids[:, None] == rows.gallery_pids,
                rows.query_pids,
                trials.gaps(rows, numbers),
                np.isin(rows.gallery_pids, crowds.get(key, [])),
            ),
        )


def _thresholds(
    by_trial: list[list[Pairs]], val: Impostors
) -> tuple[dict[str, float], dict[str, str]]:
    """Thresholds of a group by name of the FAR that they have on val people; `_reasons`."""
    pairs = [sum((~part.genuine).sum() for part in one) for one in by_trial]
    reasons = _reasons(min(pairs), val)
    free = {name: far for name, far in FARS.items() if f"val_tar@{name}" not in reasons}
    return {name: metrics.threshold_at(val.scores, far) for name, far in free.items()}, reasons


def _measure(
    by_trial: list[list[Pairs]],
    thresholds: dict[str, float],
    reasons: dict[str, str],
    resamples: int,
    seed: int,
) -> tuple[dict[str, tuple[dict[str, rates.Column], np.ndarray]], dict[str, np.ndarray]]:
    """Measure a group of T trials: per subset columns and counts (P, T); the curve."""
    cells, counts = _separate(by_trial)
    fars = {name: far for name, far in FARS.items() if f"tar@{name}" not in reasons}
    columns, curve = rates.measured(cells, len(counts), fars, resamples, seed)
    columns |= rates.at_thresholds(cells, len(counts), thresholds, resamples, seed)
    measured = {"all": (columns, counts)}
    far_pairs = [
        [pairs.of(trials.in_subset(pairs.gap, "far")) for pairs in one] for one in by_trial
    ]
    cells, counts = _separate(far_pairs)
    if len(counts):
        measured["far"] = rates.measured(cells, len(counts), {}, resamples, seed)[0], counts
    return measured, curve


def _histogram(by_trial: list[list[Pairs]]) -> pd.DataFrame:
    """Count scores of each kind in equal bins from the lowest to the highest of the group."""
    every = [pairs for one in by_trial for pairs in one]
    ends = min(float(p.scores.min()) for p in every), max(float(p.scores.max()) for p in every)
    edges = np.histogram_bin_edges([], SCORE_BINS, ends)
    counts = np.zeros((len(KINDS), SCORE_BINS), np.int64)
    for pairs in every:
        kinds = np.where(pairs.genuine, 0, 1 + pairs.distractor)
        for kind, row in enumerate(counts):
            row += np.histogram(pairs.scores[kinds == kind], SCORE_BINS, ends)[0]
    bins = {"low": edges[:-1], "high": edges[1:]}
    there = zip(KINDS, counts, strict=True)
    return pd.concat(
        [pd.DataFrame({"kind": k, **bins, "count": row}) for k, row in there if row.any()]
    )


def _separate(by_trial: list[list[Pairs]]) -> tuple[list[rates.Cell], np.ndarray]:
    """Part genuine from impostor pairs of every trial; numbers of queries (P, T)."""
    everyone = np.unique(np.concatenate([pairs.people for one in by_trial for pairs in one]))
    cells, counts = [], []
    for one in by_trial:
        who = [np.searchsorted(everyone, pairs.people) for pairs in one]
        parts = []
        for genuine in (True, False):
            keep = [pairs.genuine == genuine for pairs in one]
            parts.append(np.concatenate([p.scores[k] for p, k in zip(one, keep, strict=True)]))
            each = [np.repeat(w, k.sum(axis=1)) for w, k in zip(who, keep, strict=True)]
            parts.append(np.concatenate(each))
        cells.append(rates.Cell(*parts))
        counts.append(np.bincount(np.concatenate(who), minlength=len(everyone)))
    return cells, np.stack(counts, axis=1)


def _reasons(impostors: int, val: Impostors) -> dict[str, str]:
    """Which rates the rule of 30 forbids: metric -> why."""
    reasons = {}
    for name, far in FARS.items():
        need = round(ERRORS / far)
        if impostors < need:
            reasons[f"tar@{name}"] = (
                f"{impostors} impostor pairs in a trial; the rule of 30 asks for {need}"
            )
        why = val.reason
        if not why and len(val.scores) < need:
            why = f"{len(val.scores)} impostor pairs of val people; the rule of 30 asks for {need}"
        if why:
            reasons |= {f"val_tar@{name}": why, f"val_far@{name}": why}
    return reasons
