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


def areas(folders: Iterable[str | Path]) -> pd.DataFrame:
    """robustness_areas.csv of all complete runs of 10, one table; empty where there are none."""
    return _of(folders, "robustness_areas")


def printed_robustness(
    table: pd.DataFrame, under: pd.DataFrame, metric: str = "rank1"
) -> pd.DataFrame:
    """A row for each run, side, gallery and condition, a column for each severity.

    Args:
        table: of `robustness`.
        under: of `areas`.
        metric: a fraction.

    Returns:
        Percent with intervals, severity 0 being the untouched images; what is lost at the hardest
        severity in points and as a share of what there was; `area` under the severity curve.
        Pooled aspects only, where a run has them; all queries.
    """
    rows = _pooled(table, metric)
    rows = rows.assign(name=results.names(rows), cell=_cells(rows))
    keys = ["dataset", "name", "side", "gallery", "kind", "condition"]
    wide = rows.pivot_table("cell", keys, "severity", aggfunc="first", sort=False)
    wide = wide[sorted(wide)].rename(columns=lambda severity: f"severity {severity}")
    wide = wide.rename_axis(columns=None).reset_index()
    hardest = rows[rows["severity"] > 0].sort_values("severity", kind="stable")
    hardest = hardest.drop_duplicates(keys, keep="last")
    lost = {
        "lost, points": _cells(hardest, "drop"),
        "lost, % of it": _cells(hardest, "relative_drop"),
    }
    wide = wide.merge(hardest[keys].assign(**lost), on=keys, how="left")
    if len(under):
        under = _pooled(under, metric)
        under = under.assign(name=results.names(under), **{"area, %": _cells(under)})
        wide = wide.merge(under[[*keys, "area, %"]], on=keys, how="left")
    wide = wide.fillna("").assign(remark=wide["dataset"].map(tables.remark))
    return wide.rename(columns={**tables.WORDS, "name": "run"})


def _pooled(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = table[(table["metric"] == metric) & (table["subset"] == "all")]
    return tables.chief(rows.assign(direction="image_image"))


def _cells(rows: pd.DataFrame, name: str = "value") -> list[str]:
    """A number of each row with its interval, percent."""
    ends = ["low", "high"] if name == "value" else [f"{name}_low", f"{name}_high"]
    numbers = rows.reindex(columns=[name, *ends]).to_numpy(float)
    return [results.cell(value, float("nan"), low, high) for value, low, high in numbers]


def other_pixels(folders: Iterable[str | Path]) -> list[str]:
    """Conditions under which runs on one data set did not see the same pixels.

    Such runs are not to be compared.
    """
    found = _of(folders, "robustness_pixels")
    if found.empty:
        return []
    keys = ["dataset", "condition", "severity"]
    several = found.groupby(keys, sort=False)["sha256"].nunique()
    names = several[several > 1].index.to_frame(index=False)
    return [
        f"{dataset}: runs of 10_robustness saw other pixels under {', '.join(dict.fromkeys(part))}"
        for dataset, part in names.groupby("dataset", sort=False)["condition"]
    ]


def printed_groups(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run and group, a column for each metric; "too few people" for a number."""
    rows = tables.chief(table.assign(direction="image_image"))
    told = [cell or FEW for cell in _cells(rows)]
    rows = rows.assign(name=results.names(rows), cell=told)
    for name in ("people", "images"):
        rows[name] = ["" if pd.isna(each) else f"{each:.0f}" for each in rows[name]]
    keys = ["dataset", "name", "gallery", "attribute", "group", "people", "images"]
    heads = [tables.heading(name) for name in dict.fromkeys(rows["metric"])]
    rows["metric"] = rows["metric"].map(tables.heading)
    wide = rows.pivot_table("cell", keys, "metric", aggfunc="first", sort=False)
    wide = wide[heads].rename_axis(columns=None).reset_index()
    wide = wide.assign(remark=wide["dataset"].map(tables.remark))
    return wide.rename(columns={**tables.WORDS, "name": "run"})
