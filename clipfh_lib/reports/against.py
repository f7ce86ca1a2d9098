"""Every run of a plan against one of them: paired over people, corrected for many comparisons.

Runs that differ in their seed alone are one comparison, of their mean. A family is what one table
asks of a data set and direction: all its runs, galleries, `all` and `far`, rank-1 and mAP, each on
the aspects that a thesis prints. A difference stands when Holm's p is at most `holm.LEVEL` and its
95 % interval leaves zero out. One that could not, however clear, since too few people can be
flipped, is neither: it cannot be decided.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clipfh_lib.evaluation import retrieval
from clipfh_lib.reports import differences, holm, tables
from clipfh_lib.reports.differences import Ranked

WHO = ["method", "backbone", "recipe", "overrides", "weights", "seeds"]
VIEW = ["direction", "test_aspect", "gallery", "subset", "metric"]
NUMBERS = ["difference", "low", "high", "p", "p_holm", "comparisons", "stands", "decidable"]
COLUMNS = ["dataset", *WHO, "reference", *VIEW, *NUMBERS, "queries", "people", "remark"]
FAMILY = ["dataset", "split", "direction"]
FLIPS = 10_000  # sign patterns that `retrieval.compare` draws, if there are more
NOTHING = "no run of this plan has another to be tested against"


def of_runs(folders: Iterable[str | Path], chosen: str | Path | None = None) -> pd.DataFrame:
    """What each run gains over the chosen one, or over the zero-shot run of its own backbone.

    Where the chosen run ranked nothing (another data set or split), zero-shot takes its place.

    Args:
        folders: run folders; those that are not complete or ranked nothing are passed over.
        chosen: the folder of one of them, of `plans.against`; none: zero-shot everywhere.

    Returns:
        COLUMNS: `reference` names run and weights, `difference` is that of the run less that of the
        reference, fractions; `p` is from sign flips of people, `p_holm` the same for all
        `comparisons` of the family together, `stands` whether both leave no doubt, `decidable`
        whether so many people could bring `p_holm` down to `holm.LEVEL`.
    """
    frames = []
    for number, methods in enumerate(differences.of_splits(folders)):
        named = _chosen(methods, chosen)
        for same in _groups(methods):
            other = named or differences.zero_shot_of(same[0], methods)
            if other is None or any(one is other for one in same) or _equal(same, other):
                continue
            ranks = [one.ranks for one in same]
            found = retrieval.compare(ranks, other.ranks, FLIPS, subsets=differences.SUBSETS)
            found = found[found["metric"].isin(differences.METRICS)]
            frames.append(found.assign(**_who(same), reference=other.name, split=number))
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    run = [*WHO, "reference", "split"]
    table = pd.concat(frames, ignore_index=True)
    table = tables.chief(
        table.assign(notebook="", run=table[run].astype(str).agg(" ".join, axis=1))
    )
    return corrected(table, FAMILY)[COLUMNS]


def corrected(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """A table of differences with `p_holm`, `comparisons`, `stands`, `decidable` of each family.

    The least that Holm's p can be is Holm's p of the least p values: each difference as clear as
    its number of people lets it be. Where this is above `holm.LEVEL` nothing could have stood.

    Args:
        table: columns `p, low, high, people` and those of the family.
        family: rows that agree in these were asked together.
    """
    groups = table.groupby(family, sort=False)["p"]
    together = groups.transform(holm.adjusted)
    clear = (table["low"] > 0) | (table["high"] < 0)
    stands = clear & (together <= holm.LEVEL)
    least = table.assign(p=table["people"].map(least_p).where(table["p"].notna()))
    least = least.groupby(family, sort=False)["p"].transform(holm.adjusted)
    counted = groups.transform("count")
    return table.assign(
        p_holm=together, comparisons=counted, stands=stands, decidable=least <= holm.LEVEL
    )


def least_p(people: int) -> float:
    """The smallest p that flipping the signs of so many people can give.

    Of all patterns, where they are no more than FLIPS, two reach the sum: the one that was seen and
    its opposite; of drawn ones the one that was seen is counted in any case.
    """
    return 2 / 2**people if 2**people <= FLIPS else 1 / (FLIPS + 1)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """`of_runs` to read: points of percent with intervals, Holm's p, a star where it stands.

    A dagger is set where so few people cannot decide it.
    """
    if table.empty:
        return pd.DataFrame({"tests": [NOTHING]})
    name = {"reference": table["reference"].map(_short), "run": labels(table)}
    rows = ["dataset", "run", "reference", "direction", "test_aspect", "gallery"]
    told = table.assign(**name)
    shown = told[[*rows, "people", "remark"]].drop_duplicates(rows)
    for (subset, metric), part in told.groupby(["subset", "metric"], sort=False):
        head = tables.heading(metric if subset == "all" else f"{subset}_{metric}")
        cells = [
            f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
            f" {p_text(row.p_holm)}{' *' * row.stands}{' †' * (not row.decidable)}"
            for row in part.itertuples()
        ]
        column = head.replace(", %", ", points")
        shown = shown.merge(part[rows].assign(**{column: cells}), on=rows, how="left")
    kept = [name for name in shown if name != "direction" or shown[name].nunique() > 1]
    last = ["people", "remark"]
    shown = shown[[name for name in kept if name not in last] + last].fillna("")
    return shown.rename(columns=tables.WORDS)


def p_text(p: float) -> str:
    """A p value as it is printed: three decimals, or that it is smaller."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def labels(table: pd.DataFrame) -> pd.Series:
    """A run's name: its method, and what tells it from the others of its data set.

    That is the backbone where there are several, the recipe where a method has several on one
    backbone, weights that were not trained, overrides, and how many seeds are taken together.
    """
    text = table["method"].astype(str)
    for name, within in (("backbone", []), ("recipe", ["method", "backbone"])):
        several = table.groupby(["dataset", *within])[name].transform("nunique") > 1
        text = text.where(~several, text + " " + table[name].astype(str))
    text = text.where(table["weights"] == differences.TRAINED, text + " " + table["weights"])
    text = text.mask(table["weights"] == "pixels", "pixels")
    said = table["overrides"].fillna("").astype(str)
    text = text.where(said == "", text + " (" + said + ")")
    several = table["seeds"].astype(str).str.count(" ") + 1
    return text.where(several == 1, text + ", " + several.astype(str) + " seeds")


def sentences(table: pd.DataFrame) -> dict[str, list[str]]:
    """Which differences stand, which do not, which cannot: a line for each run and view of any.

    Returns:
        `stand`, `open` and, with too few people for either, `few`: "demo, all_aspects: fine_tune
        against zero_shot/demo-default-seed0 pretrained: mAP +3.4 [+1.6, +5.1] p = 0.005, far mAP
        ... (points, 50 people)".
    """
    said: dict[str, list[str]] = {"stand": [], "open": [], "few": []}
    kind = table["stands"].map({True: "stand", False: "open"}).where(table["decidable"], "few")
    named = table.assign(run=labels(table) if len(table) else "", kind=kind)
    keys = ["dataset", "test_aspect", "gallery", "direction", "run", "reference", "people"]
    for key, part in named.groupby([*keys, "kind"], sort=False):
        *where, run, reference, people, kind = key
        where = [name for name in where if name not in ("all", "default", "image_image")]
        numbers = [
            f"{'far ' * (row.subset == 'far')}{tables.WORDS.get(row.metric, row.metric)} "
            f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}] "
            f"{p_text(row.p_holm)}"
            for row in part.itertuples()
        ]
        said[kind].append(
            f"{', '.join(where)}: {run} against {_short(reference)}: {', '.join(numbers)} "
            f"(points, {people} people)"
        )
    return said


def _short(reference: str) -> str:
    """`02_zero_shot/demo-default-seed0 pretrained` without its number."""
    return reference[3:] if reference[:2].isdigit() and reference[2:3] == "_" else reference


def _groups(methods: list[Ranked]) -> list[list[Ranked]]:
    """What may be tested: trained weights, and those that a run without a fit was given.

    Runs of the same notebook that differ in their seed alone stand together.
    """
    found: dict[str, list[Ranked]] = {}
    for one in methods:
        if one.weights == differences.TRAINED or (
            one.weights == "pretrained" and "fit" not in one.params
        ):
            who = [one.run.split("/")[0], one.weights]
            who += one.axes("method", "backbone", "recipe", "overrides")
            found.setdefault(str(who), []).append(one)
    return list(found.values())


def _chosen(methods: list[Ranked], chosen: str | Path | None) -> Ranked | None:
    """What the chosen run compares: what it trained, else what it was given."""
    if chosen is None:
        return None
    name = f"{Path(chosen).parent.name}/{Path(chosen).name}"
    for weights in (differences.TRAINED, "pretrained", "untrained"):
        for one in methods:
            if one.run == name and one.weights == weights:
                return one
    return None


def _equal(same: list[Ranked], other: Ranked) -> bool:
    """Whether it is the same embeddings once more, of recipes that differ in re-ranking."""
    return all(one.ranks["ranks"].tolist() == other.ranks["ranks"].tolist() for one in same)


def _who(same: list[Ranked]) -> dict[str, object]:
    first = same[0]
    who = {name: first.params.get(name, "") for name in ("dataset", "method", "backbone", "recipe")}
    who["overrides"] = tables.spoken(first.params.get("overrides"))
    who["weights"] = first.weights
    who["seeds"] = " ".join(str(one.params.get("seed", 0)) for one in same)
    who["remark"] = tables.remark(who["dataset"], differences.limited(first))
    return who
