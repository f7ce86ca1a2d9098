"""Is everybody recognised alike? Rates by gender, skin tone, age and nail polish, one threshold."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib.data import origin, splits
from clipfh_lib.evaluation import (
    drops,
    intervals,
    metrics,
    rates,
    retrieval,
    search,
    trials,
    verification,
)
from clipfh_lib.runs import IDENTITY
from clipfh_lib.studies.robustness import identity
from clipfh_lib.study import RobustnessParams

SMALLEST = 10  # people; of fewer nothing is said, since it would speak of single persons
TOO_SMALL = f"too small: fewer than {SMALLEST} people"
EVERYBODY = "everybody"
METRICS = ("rank1", "eer", "fmr", "fnmr")
UNKNOWN = "not said"
NAILS = {0: "without polish", 1: "with polish"}
OWN = ("same_aspect", "default")  # galleries in which an id means the person
COLUMNS = [
    *IDENTITY, "attribute", "group", "gallery", "metric", "value", "low", "high", "images",
    "people", "threshold", "fmr_of_everybody", "chosen_on", "remark",
]  # fmt: skip


class Threshold(NamedTuple):
    """A score from which on two images count as one person, and on whom it was chosen."""

    score: float
    chosen_on: str


class Pairs(NamedTuple):
    """A search's scores (Q, G) with the rows of the embeddings that are its queries."""

    trial: int
    scores: np.ndarray
    genuine: np.ndarray
    queries: np.ndarray
    people: np.ndarray


def evaluate(
    array: np.ndarray,
    table: pd.DataFrame,
    data: splits.Prepared,
    weights: str,
    p: RobustnessParams,
) -> pd.DataFrame:
    """Rank-1, EER, FMR and FNMR of every group's queries, at one threshold for all.

    A pair is a query and a gallery image of its trial; false matches of a group are those of its
    queries with other people's gallery images, whoever these are. The threshold is that at which
    `p.fmr` of everybody's pairs match falsely (`common_threshold`). Aspects are taken together.

    Args:
        array: (N, D) float embeddings of test and val images.
        table: their `image_id`, and `file_number` where it is known.
        data: images with the columns that name groups, and the split.
        weights: for the column of that name.
        p: groups, age_bands, fmr, evaluation.

    Returns:
        COLUMNS, a row for each group and metric, EVERYBODY first. Of a group with fewer than
        SMALLEST people there is the name and the remark TOO_SMALL, and no number at all.
    """
    split = data.split
    own = (split["role"] != "gallery") | split["gallery"].isin(OWN)
    tested = split[own & split["role"].isin(["query", "gallery"])]
    how = p.evaluation.distance
    ranks = retrieval.evaluate(array, table, tested, weights, how, resamples=2).ranks
    found = [_pairs(array, one, how) for one in trials.searches(array, table, tested)]
    barred = origin.no_threshold(origin.of(p, data))
    threshold = common_threshold(array, table, split, found, p, barred)
    labels = labelled(data.images, p).set_index(data.images["image_id"])
    by_query, by_row = labels.loc[ranks["query"]], labels.loc[table["image_id"]]
    rows = []
    for attribute in labels:
        for group in _ordered(labels[attribute], by_query[attribute], p):
            mine = (by_query[attribute] == group).to_numpy()
            here = {"attribute": attribute, "group": group}
            if ranks["pid"][mine].nunique() < SMALLEST:
                rows += [{**here, "metric": name, "remark": TOO_SMALL} for name in METRICS]
                continue
            size = {
                "images": ranks["query"][mine].nunique(),
                "people": ranks["pid"][mine].nunique(),
            }
            asked = (by_row[attribute] == group).to_numpy()
            columns = _rates(found, asked, threshold.score, p)
            columns["rank1"] = _rank1(ranks[mine], p)
            for name in METRICS:
                value = dict(zip(("value", "low", "high"), columns[name], strict=True))
                rows.append({**here, "metric": name, **value, **size, "remark": ""})
    aspects = tested["test_aspect"].unique()
    more = {"test_aspect": aspects[0] if len(aspects) == 1 else trials.POOLED}
    more |= {"gallery": tested["gallery"].dropna().iloc[0], "threshold": threshold.score}
    more |= {"fmr_of_everybody": p.fmr, "chosen_on": threshold.chosen_on}
    frame = pd.DataFrame(rows).assign(**identity(p, weights), **more)
    return frame.reindex(columns=COLUMNS).astype({"images": "Int64", "people": "Int64"})


def common_threshold(
    array: np.ndarray,
    table: pd.DataFrame,
    split: pd.DataFrame,
    found: list[Pairs],
    p: RobustnessParams,
    barred: str = "",
) -> Threshold:
    """The threshold with a false-match rate of `p.fmr` on pairs of val people.

    With fewer pairs than the rule of 30 asks for, or where val people may not choose (`barred`, of
    `origin.no_threshold`), it is that of the test pairs of all trials, which is said in
    `chosen_on`.
    """
    aspects = list(dict.fromkeys(split.loc[split["role"] == "query", "test_aspect"]))
    how = p.evaluation.distance
    val = [verification.val_impostors(array, table, split, aspect, how) for aspect in aspects]
    scores, need = np.concatenate([each.scores for each in val]), verification.ERRORS / p.fmr
    if len(scores) >= need and not barred:
        return Threshold(metrics.threshold_at(scores, p.fmr), f"{len(scores)} pairs of val people")
    reason = barred or next((each.reason for each in val if each.reason), "")
    reason = reason or f"val people have {len(scores)} pairs, the rule of 30 asks for {need:.0f}"
    test = np.concatenate([one.scores[~one.genuine] for one in found])
    return Threshold(metrics.threshold_at(test, p.fmr), f"test people, since {reason}")


def labelled(table: pd.DataFrame, p: RobustnessParams) -> pd.DataFrame:
    """The groups that each image belongs to, a column for each attribute that the table has."""
    found = {EVERYBODY: pd.Series(EVERYBODY, table.index)}
    for name in p.groups:
        if name not in table:
            continue
        column = table[name]
        if name == "age":
            found[name] = banded(pd.to_numeric(column, errors="coerce"), p.age_bands)
        elif name == "nail_polish":
            found[name] = pd.to_numeric(column, errors="coerce").map(NAILS).fillna(UNKNOWN)
        else:
            text = column.fillna("").astype(str).str.strip().str.lower()
            found[name] = text.mask(text == "", UNKNOWN)
    return pd.DataFrame(found)


def banded(ages: pd.Series, begins: list[int]) -> pd.Series:
    """Ages in years to the names of their bands: "under 22", "22 to 24", "25 and more"."""
    names = bands(begins)
    place = np.searchsorted(begins, ages.fillna(0).to_numpy(), side="right")
    return pd.Series(np.array(names, object)[place], ages.index).mask(ages.isna(), UNKNOWN)


def bands(begins: list[int]) -> list[str]:
    """Names of the bands that begin at these years."""
    if not begins:
        return ["all ages"]
    inner = [
        f"{low} to {high - 1}" if high - 1 > low else f"{low}"
        for low, high in zip(begins, begins[1:], strict=False)
    ]
    return [f"under {begins[0]}", *inner, f"{begins[-1]} and more"]


def _ordered(known: pd.Series, asked: pd.Series, p: RobustnessParams) -> list[str]:
    """An attribute's groups that have queries: ages in order, others by name, UNKNOWN last."""
    place = {name: number for number, name in enumerate(bands(p.age_bands))}
    names = [name for name in known.unique() if (asked == name).any()]
    return sorted(names, key=lambda name: (name == UNKNOWN, place.get(name, -1), name))


def _pairs(array: np.ndarray, one: trials.Search, how: search.Distance) -> Pairs:
    rows = one.rows
    scores = search.similarity(array[rows.queries], array[rows.gallery], how)
    genuine = rows.query_pids[:, None] == rows.gallery_pids
    return Pairs(one.trial, scores, genuine, rows.queries, rows.query_pids)


def _rates(
    found: list[Pairs], asked: np.ndarray, threshold: float, p: RobustnessParams
) -> dict[str, tuple[float, float, float]]:
    """EER, FMR and FNMR of the queries among the rows (N,) that are asked for, with intervals."""
    by_trial: dict[int, list[list[np.ndarray]]] = {}
    for one in found:
        keep = asked[one.queries]
        scores, genuine, who = one.scores[keep], one.genuine[keep], one.people[keep]
        parts = by_trial.setdefault(one.trial, [[], [], [], []])
        for number, kind in ((0, genuine), (2, ~genuine)):
            parts[number].append(scores[kind])
            parts[number + 1].append(np.repeat(who, kind.sum(axis=1)))
    every = [[np.concatenate(part) for part in parts] for parts in by_trial.values()]
    people = np.unique(np.concatenate([part for parts in every for part in parts[1::2]]))
    cells = [
        rates.Cell(
            own, np.searchsorted(people, own_who), others, np.searchsorted(people, other_who)
        )
        for own, own_who, others, other_who in every
        if len(own) and len(others)
    ]
    how = max(p.evaluation.resamples // 10, 100), 0  # each counts all pairs anew
    columns = rates.measured(cells, len(people), {}, *how)[0]
    columns |= rates.at_thresholds(cells, len(people), {"common": threshold}, *how)
    eer, far, tar = (columns[name] for name in ("eer", "val_far@common", "val_tar@common"))
    told = {"eer": eer, "fmr": far}
    measured = {name: (np.nanmean(one.values), one.low, one.high) for name, one in told.items()}
    return {**measured, "fnmr": (1 - np.nanmean(tar.values), 1 - tar.high, 1 - tar.low)}


def _rank1(ranks: pd.DataFrame, p: RobustnessParams) -> tuple[float, float, float]:
    """Rank-1 of these queries, of all aspects together, with its interval."""
    one = drops.sums(ranks.assign(test_aspect=trials.POOLED))
    ((_, sums),) = [(key, each) for key, each in one.items() if key[2] == "all"]
    value = intervals.trial_means(sums.sums, sums.counts)[:, 0]
    low, high = intervals.interval(sums.sums, sums.counts, p.evaluation.resamples)
    return np.nanmean(value), low[0], high[0]
