"""The tables of a report: numbers of all runs as mean, standard deviation over trials, interval.

Numbers stay fractions until `printed`; a cell that is printed reads "64.5 ± 1.2 [60.8, 68.2]".
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from clipfh_lib.reports import against, tables

STUDIES = "10"  # notebooks from here on look into runs; their rows are no runs of a method
VERIFICATION = ["eer", "tar@1e-1", "tar@1e-2", "tar@1e-3", "val_far@1e-2", "val_tar@1e-2"]
OPEN_SET = ["fnir@1e-1", "fnir@1e-2", "val_fpir@1e-1", "val_fnir@1e-1"]
HEADS = {  # an error rate and what it is held at
    "tar@1e-1": "TAR at FAR 10 %, %",
    "tar@1e-2": "TAR at FAR 1 %, %",
    "tar@1e-3": "TAR at FAR 0.1 %, %",
    "val_far@1e-2": "FAR, val threshold for 1 %, %",
    "val_tar@1e-2": "TAR there, %",
    "fnir@1e-1": "FNIR at FPIR 10 %, %",
    "fnir@1e-2": "FNIR at FPIR 1 %, %",
    "val_fpir@1e-1": "FPIR, val threshold for 10 %, %",
    "val_fnir@1e-1": "FNIR there, %",
}
FAR = ["rank1", "far_rank1", "mAP", "far_mAP"]
ASPECTS = ["rank1", "mAP"]
NAMES = ["data set", "run", "gallery", "direction"]


def measured(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of runs that measure a method; studies of a run and reports are left out."""
    return [Path(folder) for folder in folders if Path(folder).parent.name < STUDIES]


def with_spread(table: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """A comparison with the standard deviation over trials of each number, `rank1_sd`.

    Args:
        table: of `tables.comparison`.
        metrics: the rows that it was made of.
    """
    keys = [name for name in (*tables.RUN, *tables.VIEW) if name in table]
    rows = metrics.assign(
        name=metrics["metric"].where(
            metrics["subset"] == "all", metrics["subset"] + "_" + metrics["metric"]
        )
    )
    for name in [name for name in table if name in set(rows["name"])]:
        part = rows.loc[rows["name"] == name, [*keys, "sd"]].rename(columns={"sd": f"{name}_sd"})
        table = table.merge(part, on=keys, how="left")
    return table


def cell(value: float, sd: float, low: float, high: float, scale: float = 100) -> str:
    """A number as it is printed, without what is not known: "64.5 ± 1.2 [60.8, 68.2]"."""
    if pd.isna(value):
        return ""
    text = f"{value * scale:.1f}"
    text += "" if pd.isna(sd) else f" ± {sd * scale:.1f}"
    return text if pd.isna(low) else f"{text} [{low * scale:.1f}, {high * scale:.1f}]"


def heading(name: str) -> str:
    """How a column of numbers is headed."""
    return HEADS.get(name) or tables.heading(name)


def printed(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A comparison to read: what names each row, its numbers, queries and people.

    Args:
        table: of `with_spread`; the index is kept, so that `best.marks` fits.
        columns: the metrics to show, where the table has any.
    """
    shown = pd.DataFrame(index=table.index)
    shown["data set"] = table["dataset"]
    shown["run"] = names(table)
    for name, word in (("direction", "direction"), ("test_aspect", "aspect")):
        if table[name].nunique() > 1:
            shown[word] = table[name]
    if set(table["gallery"]) != {"default"}:
        shown["gallery"] = table["gallery"]
    for name in columns:
        if name in table and table[name].notna().any():
            scale = 1 if name in tables.RANKS else 100
            parts = [table.get(f"{name}{end}", pd.Series(float("nan"), table.index))
                     for end in ("", "_sd", "_low", "_high")]  # fmt: skip
            shown[heading(name)] = [cell(*row, scale) for row in zip(*parts, strict=True)]
    counted = zip(table["queries"], table["people"], strict=True)
    shown["queries (people)"] = [
        "" if pd.isna(q) else f"{q:.0f} ({people:.0f})" for q, people in counted
    ]
    return shown.assign(remark=table["remark"]) if "remark" in table else shown


def names(table: pd.DataFrame) -> pd.Series:
    """A short name for each row's run and weights, from what tells them apart."""
    axes = ["dataset", "method", "backbone", "recipe", "overrides", "seed"]
    told = table.reindex(columns=axes).fillna("").astype(str)
    return against.labels(told.assign(weights=table["weights"], seeds="0").drop(columns="seed")) + (
        ", seed " + told["seed"] if told["seed"].nunique() > 1 else ""
    )


def far_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have both: all queries, and those far from their nearest right image."""
    have = [name for name in FAR if name in table]
    return table[table[have].notna().all(axis=1)] if "far_rank1" in table else table.iloc[:0]


def per_aspect(table: pd.DataFrame, metric: str = "rank1") -> pd.DataFrame:
    """A row for each run and gallery, a column for each aspect; percent with intervals.

    Args:
        table: of `with_spread`, pooled rows (`all`) among the others or not.
        metric: a fraction.
    """
    aspects = tables.aspects(table["test_aspect"])
    several = table.groupby(["dataset", "notebook", "run", "direction"])["test_aspect"]
    rows = table[several.transform("nunique") > 1]
    if rows.empty:
        return pd.DataFrame()
    shown = printed(rows, [metric])
    shown["aspect"] = rows["test_aspect"]
    head = tables.heading(metric)
    keys = [name for name in (*NAMES, "remark") if name in shown]
    wide = shown.pivot_table(head, keys, "aspect", aggfunc="first", sort=False)
    wide = wide[[name for name in aspects if name in wide]].rename_axis(columns=None).reset_index()
    last = [name for name in ("remark",) if name in wide]
    return wide[[name for name in wide if name not in last] + last]
