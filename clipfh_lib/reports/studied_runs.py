"""What runs of 10_robustness found, side by side: by condition and severity, and by group."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clipfh_lib.reports import results, tables

ROBUSTNESS = "10_robustness"
FEW = "too few people"


def robustness(folders: Iterable[str | Path]) -> pd.DataFrame:
    """robustness.csv of all complete runs of 10, one table; empty where there are none."""
    return _of(folders, "robustness")


def groups(folders: Iterable[str | Path]) -> pd.DataFrame:
    """groups.csv of all complete runs of 10, one table; empty where there are none."""
    return _of(folders, "groups")


def _of(folders: Iterable[str | Path], name: str) -> pd.DataFrame:
    here = [Path(folder) for folder in folders if Path(folder).parent.name == ROBUSTNESS]
    here = [folder for folder in here if (folder / "manifest.json").is_file()]
    if not any((folder / f"{name}.csv").is_file() for folder in here):
        return pd.DataFrame()
    return tables.read_curves(here, name)


def printed_robustness(table: pd.DataFrame, metric: str = "rank1") -> pd.DataFrame:
    """A row for each run, side, gallery and condition, a column for each severity.

    Args:
        table: of `robustness`.
        metric: a fraction.

    Returns:
        Percent with intervals; `drop` at the hardest severity, in percent of the clean value.
        Pooled aspects only, where a run has them; all queries.
    """
    rows = table[(table["metric"] == metric) & (table["subset"] == "all")]
    rows = tables.chief(rows.assign(direction="image_image"))
    cells = [results.cell(row.value, float("nan"), row.low, row.high) for row in rows.itertuples()]
    shown = rows.assign(name=results.names(rows), cell=cells)
    keys = ["dataset", "name", "side", "gallery", "kind", "condition"]
    wide = shown.pivot_table("cell", keys, "severity", aggfunc="first", sort=False)
    wide = wide[sorted(wide)].rename(columns=lambda severity: f"severity {severity}")
    wide = wide.rename_axis(columns=None).reset_index()
    hardest = shown.sort_values("severity").drop_duplicates(keys, keep="last")
    drop = hardest[[*keys, "drop"]].assign(drop=hardest["drop"].map(_percent))
    wide = wide.merge(drop.rename(columns={"drop": "drop, %"}), on=keys, how="left").fillna("")
    wide = wide.assign(remark=wide["dataset"].map(tables.remark))
    return wide.rename(columns={**tables.WORDS, "name": "run"})


def printed_groups(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run and group, a column for each metric; "too few people" for a number."""
    rows = tables.chief(table.assign(direction="image_image"))
    cells = [
        results.cell(row.value, float("nan"), row.low, row.high) or FEW for row in rows.itertuples()
    ]
    shown = rows.assign(name=results.names(rows), cell=cells)
    by = [name for name in ("gallery", "attribute", "group", "people", "images") if name in shown]
    keys = ["dataset", "name", *by]
    heads = dict.fromkeys(shown["metric"])
    shown["metric"] = shown["metric"].map(tables.heading)
    wide = shown.pivot_table("cell", keys, "metric", aggfunc="first", sort=False)
    wide = wide[list(map(tables.heading, heads))].rename_axis(columns=None).reset_index().fillna("")
    wide = wide.assign(remark=wide["dataset"].map(tables.remark))
    return wide.rename(columns={**tables.WORDS, "name": "run"})


def _percent(value: float) -> str:
    return "" if pd.isna(value) else f"{value * 100:.1f}"
