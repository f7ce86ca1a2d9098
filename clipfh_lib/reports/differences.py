"""Which run is better, and is it more than chance? Paired over people, from ranks.csv alone."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clipfh_lib import runs
from clipfh_lib.evaluation import retrieval

FLOORS = ("untrained", "untrained_reranked", "pixels")
METRICS = ("rank1", "mAP")
COLUMNS = [
    "dataset", "test_aspect", "gallery", "subset", "metric", "first", "second",
    "difference", "low", "high", "p", "queries", "people", "remark",
]  # fmt: skip


def of_runs(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Differences of rank-1 and mAP, `all` and `far`, between methods that ranked the same queries.

    Compared are the runs of one split with each other, and each with its own floors.

    Args:
        folders: run folders; those that are not complete or ranked nothing are passed over.

    Returns:
        COLUMNS; `first` and `second` name run and weights, `difference` is first minus second.
    """
    splits: dict[tuple[str, str], list[tuple[str, pd.DataFrame]]] = {}
    for folder in map(Path, folders):
        if runs.is_complete(folder) and (folder / "ranks.csv").is_file():
            made, text = runs.manifest(folder), {"test_aspect": str, "ranks": str}
            ranks = pd.read_csv(folder / "ranks.csv", dtype=text, keep_default_na=True)
            where = made["params"]["dataset"], str(made.get("split_sha256"))
            for weights, rows in ranks.groupby("weights", sort=False):
                splits.setdefault(where, []).append((f"{folder.name} {weights}", rows))
    frames = []
    for (dataset, _), methods in splits.items():
        for (first, one), (second, other) in itertools.combinations(methods, 2):
            same_run = first.rsplit(" ", 1)[0] == second.rsplit(" ", 1)[0]
            floors = [name.endswith(FLOORS) for name in (first, second)]
            if all(floors) or (any(floors) and not same_run):
                continue
            if one["ranks"].tolist() == other["ranks"].tolist():
                continue  # the same embeddings, in recipes that differ in re-ranking
            found = retrieval.compare(one, other)
            found = found[found["metric"].isin(METRICS) & found["subset"].isin(["all", "far"])]
            remark = "demo figures" if dataset.startswith("demo") else ""
            names = {"dataset": dataset, "first": first, "second": second, "remark": remark}
            frames.append(found.assign(**names)[COLUMNS])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def gains(compared: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """What training changed, for reading: points of rank-1 and mAP with their 95 % intervals.

    Args:
        compared: of `retrieval.compare`, the trained weights first.
        dataset: its name; of drawn hands the figures say so.

    Returns:
        A row for each test aspect, gallery, `all` and `far`; a star where zero lies outside.
    """
    kept = compared[compared["metric"].isin(METRICS) & compared["subset"].isin(["all", "far"])]
    sure = (kept["low"] > 0) | (kept["high"] < 0)
    points = 100 * kept[["difference", "low", "high"]]
    said = [
        f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{' *' * star}"
        for (value, low, high), star in zip(points.to_numpy(), sure, strict=True)
    ]
    rows = ["test_aspect", "gallery", "subset", "queries", "people"]
    wide = kept[rows].assign(metric=kept["metric"], said=said)
    shown = wide.pivot_table("said", rows, "metric", aggfunc="first", sort=False)[list(METRICS)]
    shown = shown.rename_axis(columns=None).reset_index()
    return shown.assign(remark="demo figures") if dataset.startswith("demo") else shown
