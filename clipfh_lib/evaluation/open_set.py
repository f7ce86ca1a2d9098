"""Searches for people who may not be enrolled: who is missed, and who is found in vain.

The terms are those of ISO/IEC 19795-1:2021, clause 3, and of NIST's FRVT 1:N: a mated search is for
somebody in the gallery, a non-mated one for somebody who is not. FPIR is the share of non-mated
searches that return anybody, FNIR the share of mated ones that do not return the right person.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib.evaluation import intervals, rates, search, trials, verification

FPIRS = {"1e-1": 1e-1, "1e-2": 1e-2}
MEAN, POINT = ["value", "sd", "low", "high", "queries"], ["threshold", "fpir", "fnir"]  # numbers
GALLERY = "enrolled"  # in results: those people of gallery `default` who have queries


class Results(NamedTuple):
    """`trials` and `metrics` have the columns of `retrieval.Results`, with gallery `enrolled`.

    `queries` and `people` there are those of the mated searches; for `val_fpir@F`, of the
    non-mated. `notes` says on what too few searches or errors a value rests, or why it is empty:
    `weights, test_aspect, gallery, metric, reason`. `curves` is for figures, all trials together:
    `weights, test_aspect, gallery, threshold, fpir, fnir`.
    """

    trials: pd.DataFrame
    metrics: pd.DataFrame
    notes: pd.DataFrame
    curves: pd.DataFrame


class Searches(NamedTuple):
    """Scores of a trial's searches, and of whom they are.

    `mated` (Q,): highest score of the own person, -inf where that is not at rank 1; `people` (Q,):
    pids. `non_mated` (S,): highest score of anybody; `strangers` (S,): pids. `enrolled` (E,): pids
    of the images that are searched.
    """

    mated: np.ndarray
    people: np.ndarray
    non_mated: np.ndarray
    strangers: np.ndarray
    enrolled: np.ndarray


class Probes(NamedTuple):
    """Scores (V, V) of val images among themselves, or why they can set no threshold.

    -inf where two images are of one person, or too near in file numbers. `first` (M,): where the
    columns of each person begin.
    """

    scores: np.ndarray
    first: np.ndarray
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
    """Measure FNIR at fixed FPIR, where people without a query are searched for in vain.

    Enrolled are the images in gallery `default` of people who have queries. The trial's queries
    are the mated searches. The other images of that gallery, which `retrieval` has as distractors,
    are the non-mated searches. FPIR(T) is the share of non-mated searches with an enrolled image at
    or above T; FNIR(T) the share of mated ones whose person is not at rank 1 with a score at or
    above T (R = 1). A wrong image as near as the right one (`search.TIE`) stands before it.

    `fnir@F` is FNIR at the lowest threshold whose FPIR is at most F. `val_fnir@F` and `val_fpir@F`
    are both rates at the threshold where F is expected of val people, see `threshold_at`. Each is
    computed per trial, then averaged.

    Intervals come from resampling the people of the mated and of the non-mated searches apart, as
    in `verification`; who is enrolled stays, and so does a threshold of val people. A value is
    given also where the rule of 30 asks for more than there is, 30 / F non-mated searches and 30
    errors, with a note. Where no search fails the note has the bound of the rule of 3 (both rules:
    Mansfield & Wayman, NPL report CMSC 14/02, 2002).

    Where no gallery `default` has people without a query, the tables are empty, with one note.

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
    crowds = verification.distractors(split)
    groups: dict[str, dict[int, Searches]] = {}
    for one in trials.searches(array, table, split):
        crowd = crowds.get((one.test_aspect, one.gallery, one.trial), [])
        if one.gallery == "default" and len(crowd):
            found = _searched(array, one.rows, crowd, distance)
            if len(found.mated):
                groups.setdefault(one.test_aspect, {})[one.trial] = found
    long, notes, curves = trials.LongTables(), [], []
    for aspect, by_trial in groups.items():
        key = {"weights": weights, "test_aspect": aspect, "gallery": GALLERY}
        found = list(by_trial.values())
        val = probes(array, table, split, aspect, distance)
        if any(len(np.unique(one.enrolled)) < len(one.enrolled) for one in found):
            val = val._replace(reason="people have several images enrolled (data.gallery: rest)")
        measured, curve = _measure(found, val, resamples, seed)
        for name, (column, counts, reason) in measured.items():
            long.add(
                {**key, "direction": "image_image", "subset": "all"},
                np.array(list(by_trial)),
                [name],
                column.values[:, None],
                intervals.Interval(np.array([column.low]), np.array([column.high])),
                counts,
            )
            notes += [{**key, "metric": name, "reason": reason}] if reason else []
        curves.append(pd.DataFrame({**key, **curve}))
    front = ["weights", "test_aspect", "gallery"]
    if not groups:
        nobody = "gallery default has no people without a query to search for in vain"
        empty = {"weights": weights, "test_aspect": trials.POOLED, "gallery": GALLERY}
        notes = [{**empty, "metric": "fnir", "reason": nobody}]
        curves = [pd.DataFrame(columns=[*front, *POINT])]
    values, means = long.frames()
    return Results(
        values.astype({"trial": int, "value": float, "queries": int, "people": int}),
        means.astype({**dict.fromkeys(MEAN, float), "people": int}),
        pd.DataFrame(notes, columns=[*front, "metric", "reason"]),
        pd.concat(curves, ignore_index=True).astype(dict.fromkeys(POINT, float)),
    )


def probes(
    array: np.ndarray,
    table: pd.DataFrame,
    split: pd.DataFrame,
    test_aspect: str,
    distance: search.Distance,
) -> Probes:
    """Score each val image against those of the other val people, all of the test aspect.

    Of aspect "all" that is against images of every aspect.
    """
    val, reason = verification.val_images(array, table, split, test_aspect)
    if reason:
        return Probes(np.empty((0, 0), np.float32), np.empty(0, np.int64), reason)
    val = val.sort_values("pid", kind="stable")
    rows, pair = val["row"].to_numpy(), verification.strangers(val, trials.file_numbers(table))
    scores = np.where(pair, search.similarity(array[rows], array[rows], distance), -np.inf)
    first = np.unique(val["pid"], return_index=True)[1]
    return Probes(scores, first, "" if pair.any() else "all val images are near one another")


def expected_fpir(val: Probes, people: float, threshold: float) -> float:
    """FPIR to expect of val people, searched for in a gallery with one image each of `people`.

    A search compares a val image with one random image of each enrolled person, and is right where
    all of them stay below the threshold: the mean over the M val people's images of

        1 - prod_j (1 - share of person j's images at or above the threshold) ** (people / (M - 1))

    over the M - 1 others. With as many enrolled as others that is the exact mean over all galleries
    of one image each. With more it assumes that they are the same M - 1 kinds of people, in equal
    numbers; few people show few kinds, so FPIR comes out too low then (simulated people, where 10 %
    was expected: 10 % with 50 val people and 49 enrolled, 14 % with 50 and 250, 20 % with 6 and
    30), though by less than if a gallery of M - 1 were taken for the larger one. `val_fpir` says
    what became of it. Others who are too near in file numbers with all images count for nobody.
    """
    compared = np.add.reduceat(val.scores > -np.inf, val.first, axis=1, dtype=np.float64)
    reached = np.add.reduceat(val.scores >= threshold, val.first, axis=1, dtype=np.float64)
    with np.errstate(divide="ignore"):  # a person whose every image reaches it: log 0
        below = np.log1p(-reached / np.maximum(compared, 1)).sum(axis=1)
    others = (compared > 0).sum(axis=1)
    seen = others > 0
    return float((1 - np.exp(below[seen] * people / others[seen])).mean())


def threshold_at(val: Probes, people: float, fpir: float) -> float:
    """Smallest float32 threshold at which `expected_fpir` is at most `fpir`, by bisection."""
    scores = np.unique(val.scores[val.scores > -np.inf])
    above = np.nextafter(scores, np.float32(np.inf))  # FPIR only falls just above a score
    enough = bisect_left(above, True, key=lambda t: expected_fpir(val, people, t) <= fpir)
    return float(above[enough])


def _searched(
    array: np.ndarray, rows: search.Trial, crowd: np.ndarray, distance: search.Distance
) -> Searches:
    away = np.isin(rows.gallery_pids, crowd)
    enrolled, pids = rows.gallery[~away], rows.gallery_pids[~away]
    mated = np.isin(rows.query_pids, pids)
    people, strangers = rows.query_pids[mated], rows.gallery_pids[away]
    own, other = _best(array, rows.queries[mated], people, enrolled, pids, distance)
    _, anybody = _best(array, rows.gallery[away], strangers, enrolled, pids, distance)
    margin = search.TIE if distance == "cosine" else search.TIE * np.abs(own)
    first = other < own - margin
    return Searches(np.where(first, own, -np.inf), people, anybody, strangers, pids)


def _best(
    array: np.ndarray,
    probes: np.ndarray,
    people: np.ndarray,
    enrolled: np.ndarray,
    pids: np.ndarray,
    distance: search.Distance,
) -> np.ndarray:
    """Highest score of each probe's own person and of all others, -inf for none: (2, probes)."""
    best = np.full((2, len(probes)), -np.inf, np.float32)
    for start in range(0, len(probes), search.QUERY_BLOCK):
        block = slice(start, start + search.QUERY_BLOCK)
        scores = search.similarity(array[probes[block]], array[enrolled], distance)
        own = people[block][:, None] == pids
        for kind, there in enumerate((own, ~own)):
            best[kind, block] = scores.max(axis=1, where=there, initial=-np.inf)
    return best


def _measure(
    found: list[Searches], val: Probes, resamples: int, seed: int
) -> tuple[dict[str, tuple[rates.Column, np.ndarray, str]], dict[str, np.ndarray]]:
    """Measure T trials: rates with their numbers of searches (P, T) and doubts; and the curve.

    FNIR at FPIR is 1 - TAR at FAR, where a search and its highest score stand for a pair.
    """
    cells, mated, non_mated = _cells(found)
    people = np.mean([len(np.unique(one.enrolled)) for one in found])
    levels = {} if val.reason else FPIRS
    thresholds = {name: threshold_at(val, people, fpir) for name, fpir in levels.items()}
    how = {"resamples": resamples, "seed": seed, "others": len(non_mated)}
    columns, curve = rates.measured(cells, len(mated), FPIRS, **how)
    columns |= rates.at_thresholds(cells, len(mated), thresholds, **how)
    in_vain = non_mated.sum(axis=0).min(), f"non-mated searches of {len(non_mated)} people"
    of_val = len(val.scores), f"searches of {len(val.first)} val people"
    measured = {}
    for rate, source, counts, of in (
        ("fnir", "tar", mated, in_vain),
        ("val_fnir", "val_tar", mated, of_val),
        ("val_fpir", "val_far", non_mated, of_val),
    ):
        for name, fpir in FPIRS.items():
            if val.reason and rate != "fnir":
                column = rates.Column(np.full(len(found), np.nan), np.nan, np.nan)
                measured[f"{rate}@{name}"] = column, counts, val.reason
                continue
            column = columns[f"{source}@{name}"]
            if rate != "val_fpir":
                column = rates.Column(1 - column.values, 1 - column.high, 1 - column.low)
            measured[f"{rate}@{name}"] = column, counts, _doubts(column, counts, fpir, *of)
    points = {"threshold": curve["threshold"], "fpir": curve["far"], "fnir": curve["frr"]}
    return measured, {name: values[1:] for name, values in points.items()}  # 0: all are accepted


def _cells(found: list[Searches]) -> tuple[list[rates.Cell], np.ndarray, np.ndarray]:
    """The trials with codes for pids; numbers of mated and of non-mated searches, (P, T) each."""
    mated = np.unique(np.concatenate([one.people for one in found]))
    strangers = np.unique(np.concatenate([one.strangers for one in found]))
    cells, own, others = [], [], []
    for one in found:
        people = np.searchsorted(mated, one.people)
        away = np.searchsorted(strangers, one.strangers)
        cells.append(rates.Cell(one.mated, people, one.non_mated, away))
        own.append(np.bincount(people, minlength=len(mated)))
        others.append(np.bincount(away, minlength=len(strangers)))
    return cells, np.stack(own, axis=1), np.stack(others, axis=1)


def _doubts(column: rates.Column, counts: np.ndarray, fpir: float, searches: int, what: str) -> str:
    """What a rate lacks by the rules of 30 and of 3; empty if it lacks nothing.

    Args:
        column: the rate, whose errors must be 30.
        counts: (P, T) numbers of its searches.
        fpir: of its threshold, which must rest on 30 / fpir searches.
        searches: on how many it rests.
        what: searches these are.
    """
    said, need = [], round(verification.ERRORS / fpir)
    if searches < need:
        said.append(f"the threshold rests on {searches} {what}, the rule of 30 asks for {need}")
    errors, people = np.rint(column.values * counts.sum(axis=0)), len(counts)
    if not errors.any():
        most = intervals.rule_of_three(0, people)[1] * 100
        said.append(f"no error of {people} people, so at most {most:.1f} % by the rule of 3")
    elif errors.min() < verification.ERRORS:
        said.append(f"{errors.min():.0f} errors in a trial, the rule of 30 asks for 30")
    return "; ".join(said)
