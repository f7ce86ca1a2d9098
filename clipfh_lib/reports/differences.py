"""Which run is better, and is it more than chance? Paired over people, from ranks.csv alone."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from clipfh_lib import files, params, runs
from clipfh_lib.evaluation import retrieval
from clipfh_lib.reports import tables

FLOORS = ("untrained", "untrained_reranked", "pixels")
TRAINED = "trained"  # also trained_reranked, trained_fixed: further rows of the same run
STARTS = ("pretrained", "warm_start", "untrained")  # what a run measures before it trains
METRICS = ("rank1", "mAP")
SUBSETS = ("all", "far")
VIEW = ["direction", "test_aspect", "gallery", "subset", "metric"]
COLUMNS = [
    "dataset", *VIEW, "first", "second", "differ", "difference", "low", "high", "p", "queries",
    "people", "remark",
]  # fmt: skip
SEEDS = [
    "dataset", *VIEW, "method", "backbone", "recipe", "overrides", "seeds", "value", "sd", "low",
    "high", "difference", "difference_low", "difference_high", "p", "queries", "people", "remark",
]  # fmt: skip


class Ranked(NamedTuple):
    """What a run ranked with one kind of weights, in one direction."""

    run: str  # notebook/folder
    weights: str
    params: dict
    ranks: pd.DataFrame

    @property
    def name(self) -> str:
        """Run and weights, for a table."""
        return f"{self.run} {self.weights}"

    @property
    def trains(self) -> bool:
        """Whether these are weights that this run trained itself."""
        return "fit" in self.params and self.weights.startswith(TRAINED)

    def axes(self, *names: str) -> list[object]:
        """Some of the axes of the run."""
        return [self.params.get(name) for name in names]


def of_runs(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Differences of rank-1 and mAP, `all` and `far`, between methods that ranked the same queries.

    Rank-1 of texts and images that search each other is what is called hit@1 elsewhere.

    Compared are, within one split: what a run trained with the zero-shot run of the same backbone,
    evaluated in the same way (where there is none, with the `pretrained` row of its own), and with
    its floors; what runs of the same backbone and seed trained, with each other; runs that train
    nothing with each other, and each with its own floors.

    Args:
        folders: run folders; those that are not complete or ranked nothing are passed over.

    Returns:
        COLUMNS; `first` and `second` name run and weights, `differ` what is not the same of them,
        `difference` is first minus second.
    """
    frames = []
    for methods in of_splits(folders):
        for one, other in _pairs(methods):
            if one.ranks["ranks"].tolist() == other.ranks["ranks"].tolist():
                continue  # the same embeddings, in recipes that differ in re-ranking
            found = retrieval.compare(one.ranks, other.ranks, subsets=SUBSETS)
            dataset = one.params["dataset"]
            names = {"first": one.name, "second": other.name, "differ": _differ(one, other)}
            names |= {"dataset": dataset, "remark": tables.remark(dataset, limited(one))}
            frames.append(found[found["metric"].isin(METRICS)].assign(**names)[COLUMNS])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def over_seeds(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Runs that differ in their seed alone, taken together; those of one seed are passed over.

    Args:
        folders: run folders; those that are not complete or ranked nothing are passed over.

    Returns:
        SEEDS: `value` is the mean over the seeds and `sd` their standard deviation (n - 1), `low`
        and `high` the interval of the mean from resampling people; `difference` is the mean over
        the seeds less zero-shot, with its interval, paired over people.
    """
    folders, frames = list(folders), []
    for methods in of_splits(folders):
        groups: dict[str, list[Ranked]] = {}
        for one in methods:
            if one.trains and one.weights == TRAINED:
                own = one.axes("method", "backbone", "recipe", "overrides")
                groups.setdefault(str(own), []).append(one)
        for same in groups.values():
            if len(same) > 1:
                frames.append(_pooled(same, zero_shot_of(same[0], methods)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SEEDS)


def printed_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`over_seeds` to read: percent, pooled aspects only; a line where no run has several seeds."""
    if table.empty:
        return pd.DataFrame({"seeds": ["no run of this plan has several seeds"]})
    names = ["dataset", "method", "backbone", "recipe", "overrides", "seeds", "direction"]
    table = tables.chief(table.assign(notebook="", run=table[names].agg(" ".join, axis=1)))
    rows = table[[*names, "test_aspect", "gallery"]].drop_duplicates()
    for (subset, metric), part in table.groupby(["subset", "metric"], sort=False):
        word = tables.heading(metric if subset == "all" else f"{subset}_{metric}")
        ends = "{:.1f} [{:.1f}, {:.1f}]".format
        mean = [ends(*row) for row in (part[["value", "low", "high"]] * 100).to_numpy()]
        gain = part[["difference", "difference_low", "difference_high"]] * 100
        columns = {
            word: mean,
            f"{word} sd": (part["sd"] * 100).map("{:.1f}".format),
            f"{word} less zero-shot": [ends(*row) for row in gain.to_numpy()],
        }
        keys = [*names, "test_aspect", "gallery"]
        rows = rows.merge(part[keys].assign(**columns), on=keys, how="left")
    alike = [name for name in names[1:] if name != "seeds" and rows[name].nunique() == 1]
    return rows.drop(columns=alike).fillna("")


# --- who is compared with whom -------------------------------------------------------------------


def of_splits(folders: Iterable[str | Path]) -> list[list[Ranked]]:
    """What the runs ranked: those of one data set, split and direction together.

    Where texts are searched or search, the texts must be the same too.
    """
    splits: dict[tuple[str, ...], list[Ranked]] = {}
    for folder in map(Path, folders):
        if runs.is_complete(folder) and (folder / "ranks.csv").is_file():
            made, text = runs.manifest(folder), {"test_aspect": str, "ranks": str}
            ranks = pd.read_csv(folder / "ranks.csv", dtype=text, keep_default_na=True)
            texts = files.digest(sorted(set(ranks["query"][ranks["direction"] == "text_image"])))
            run = f"{folder.parent.name}/{folder.name}"
            for (weights, direction), rows in ranks.groupby(["weights", "direction"], sort=False):
                where = [made["params"]["dataset"], str(made.get("split_sha256")), direction]
                where += [texts] * (direction != "image_image")
                one = Ranked(run, weights, made["params"], rows)
                splits.setdefault(tuple(where), []).append(one)
    return list(splits.values())


def _pairs(methods: list[Ranked]) -> Iterator[tuple[Ranked, Ranked]]:
    """Which ones to compare; what was trained first, in the order of the runs else."""
    for one, other in itertools.combinations(methods, 2):
        if (other.trains and not one.trains) or one.weights in FLOORS:
            one, other = other, one
        floors = [each.weights in FLOORS for each in (one, other)]
        if one.run == other.run and not all(floors):
            if "fit" not in one.params:
                yield one, other
            elif one.trains:  # its other rows are those of zero-shot
                if other.weights != "pretrained" or zero_shot_of(one, methods) is other:
                    yield one, other
        elif one.run != other.run and not any(floors):
            if one.trains and other.trains:
                alike = one.axes("backbone", "seed") == other.axes("backbone", "seed")
                if alike and one.weights == other.weights == TRAINED:
                    yield one, other
            elif one.trains:
                if one.weights == TRAINED and zero_shot_of(one, methods) is other:
                    yield one, other
            elif "fit" not in one.params and "fit" not in other.params:
                yield one, other


def zero_shot_of(one: Ranked, methods: list[Ranked]) -> Ranked | None:
    """The weights that a run began with, as a run that trains nothing has them, else as its own."""
    own = None
    for other in methods:
        if other.weights == "pretrained" and "fit" not in other.params and _alike(one, other):
            return other
        if other.run == one.run and other.weights in STARTS:
            own = other
    return own


def _alike(one: Ranked, other: Ranked) -> bool:
    """Whether two runs begin with the same weights and evaluate in the same way."""
    first, second = (params.flat(each.params) for each in (one, other))
    keys = ("embed.flip", "embed.precision", "evaluation.distance", "data.resize", "data.cut")
    keys += tuple(key for key in {**first, **second} if key.startswith(("model.", "backbone")))
    return all(first.get(key) == second.get(key) for key in keys)


def _differ(one: Ranked, other: Ranked) -> str:
    """What is not the same of two methods: weights, axes, or single overrides with their values."""
    found = ["weights"] if one.weights != other.weights else []
    for axis in ("method", "backbone", "recipe", "seed"):
        if one.params.get(axis) != other.params.get(axis):
            found.append(axis)
    first, second = (params.flat(each.params.get("overrides")) for each in (one, other))
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            said = (
                tables.spoken({"": each[key]})[2:] if key in each else "as it is"
                for each in (first, second)
            )
            found.append(f"{key}: {' against '.join(said)}")
    return ", ".join(found)


def limited(one: Ranked) -> bool:
    """Whether data.limit was set."""
    limit = one.params.get("data", {}).get("limit") or {}
    return any(value is not None for value in limit.values())


def _pooled(same: list[Ranked], zero_shot: Ranked | None) -> pd.DataFrame:
    """One row for each view and metric of runs that differ in their seed."""
    ranks = [one.ranks for one in same]
    found = retrieval.over_seeds(ranks, subsets=SUBSETS)
    each = pd.concat([retrieval.over_seeds([one], 1, subsets=SUBSETS) for one in ranks])
    spread = each.groupby(VIEW)["value"].std().rename("sd").reset_index()
    found = found.merge(spread, on=VIEW)
    if zero_shot is not None:
        gain = retrieval.compare(ranks, zero_shot.ranks, subsets=SUBSETS)
        gain = gain.rename(columns={"low": "difference_low", "high": "difference_high"})
        gain = gain[[*VIEW, "difference", "difference_low", "difference_high", "p"]]
        found = found.merge(gain, on=VIEW)
    first = same[0].params
    who = {name: first.get(name, "") for name in ("dataset", "method", "backbone", "recipe")}
    who["overrides"] = tables.spoken(first.get("overrides"))
    who["seeds"] = " ".join(str(one.params["seed"]) for one in same)
    who["remark"] = tables.remark(who["dataset"], limited(same[0]))
    return found[found["metric"].isin(METRICS)].assign(**who).reindex(columns=SEEDS)
