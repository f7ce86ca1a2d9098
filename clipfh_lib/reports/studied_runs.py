"""What runs of 10 and 11 found, side by side: conditions, groups, and what maps are worth."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from clipfh_lib.files import InputError
from clipfh_lib.reports import explained, results, tables

ROBUSTNESS, ATTENTION = "10_robustness", "11_attention"
FEW = "too few people"
RUN = ["dataset", "run", "name", "test_aspect"]  # whose rows these are


def robustness(folders: Iterable[str | Path]) -> pd.DataFrame:
    """robustness.csv of all complete runs of 10, one table; empty where there are none."""
    return _of(folders, "robustness")


def groups(folders: Iterable[str | Path]) -> pd.DataFrame:
    """groups.csv of all complete runs of 10, one table; empty where there are none."""
    return _of(folders, "groups")


def attention(folders: Iterable[str | Path]) -> pd.DataFrame:
    """faithfulness.csv of all complete runs of 11, one table, with the verdict on each map.

    Returns:
        The columns of the file and of `tables.read_curves`, and `says`; empty where there are none.
    """
    folders = list(folders)
    checks, says = _of(folders, "faithfulness", ATTENTION), _of(folders, "verdicts", ATTENTION)
    if checks.empty:
        return checks
    keys = ["dataset", "run", "map"]
    says = says[[*keys, "says"]] if len(says) else pd.DataFrame(columns=[*keys, "says"])
    return checks.merge(says, on=keys, how="left")


def energy(folders: Iterable[str | Path]) -> pd.DataFrame:
    """energy.csv of all complete runs of 11, one table; empty where there are none."""
    return _of(folders, "energy", ATTENTION)


def _of(folders: Iterable[str | Path], name: str, notebook: str = ROBUSTNESS) -> pd.DataFrame:
    here = [Path(folder) for folder in folders if Path(folder).parent.name == notebook]
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
    rows = rows.assign(name=_names(rows), cell=_cells(rows))
    keys = [*RUN, "side", "gallery", "kind", "condition"]
    wide = _wide(rows, keys, "severity")
    shown = [name for name in wide if name not in keys]
    wide = wide[[*keys, *sorted(shown)]]
    wide = wide.rename(columns={name: f"severity {name}" for name in shown})
    hardest = rows[rows["severity"] > 0].sort_values("severity", kind="stable")
    hardest = hardest.drop_duplicates(keys, keep="last")
    lost = {
        "lost, points": _cells(hardest, "drop"),
        "lost, % of it": _cells(hardest, "relative_drop"),
    }
    wide = wide.merge(hardest[keys].assign(**lost), on=keys, how="left")
    if len(under):
        under = _pooled(under, metric)
        keys.remove("name")  # of fewer runs a name may be shorter
        under = under.assign(**{"area, %": _cells(under)})
        wide = wide.merge(under[[*keys, "area, %"]], on=keys, how="left")
    return _told(wide.fillna(""))


def _names(rows: pd.DataFrame) -> pd.Series:
    """`results.names`; of runs that these do not tell apart, the folder's name behind.

    Studied runs that differ in their overrides alone are such runs: they have the same method,
    recipe and seed, and the overrides of the study itself are none.
    """
    names = results.names(rows)
    several = rows.assign(name=names).groupby(["dataset", "name"])["run"].transform("nunique") > 1
    return names.where(~several, names + " (" + rows["run"] + ")")


def _wide(rows: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """A column of cells for each value of a column; none of the cells is left out.

    Raises:
        InputError: two cells for one place.
    """
    twice = rows[rows.duplicated([*keys, name])]
    if len(twice):
        first = ", ".join(str(twice.iloc[0][key]) for key in [*keys, name])
        raise InputError(f"a study has two numbers for {first}; run it again, and list it once")
    wide = rows.pivot_table("cell", keys, name, aggfunc="first", sort=False)
    return wide.rename_axis(columns=None).reset_index()


def _told(wide: pd.DataFrame) -> pd.DataFrame:
    """A wide table with the headings that are read; an aspect only where there are several."""
    keys = ["run"] + ["test_aspect"] * (wide["test_aspect"].nunique() == 1)
    wide = wide.drop(columns=keys).assign(remark=wide["dataset"].map(tables.remark))
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
    """A row for each run and group, a column for each metric, and whose threshold it is.

    FEW stands for a number where the study says that the group is too small; what was not measured
    for another reason is empty.
    """
    rows = tables.chief(table.assign(direction="image_image"))
    small = rows["remark"].astype(str).str.startswith("too small")
    told = [FEW if few else cell for few, cell in zip(small, _cells(rows), strict=True)]
    rows = rows.assign(name=_names(rows), cell=told)
    for name in ("people", "images"):
        rows[name] = ["" if pd.isna(each) else f"{each:.0f}" for each in rows[name]]
    rows["FMR of everybody, %"] = [f"{100 * each:g}" for each in rows["fmr_of_everybody"]]
    rows["threshold"] = [f"{each:.4f}" for each in rows["threshold"]]
    rows["chosen on"] = rows["chosen_on"].fillna("")
    whose = ["threshold", "FMR of everybody, %", "chosen on"]
    keys = [*RUN, "gallery", "attribute", "group", "people", "images"]
    rows["metric"] = rows["metric"].map(tables.heading)
    wide = _wide(rows, [*keys, *whose], "metric")
    wide = wide[[*keys, *dict.fromkeys(rows["metric"]), *whose]]
    return _told(wide)


def printed_attention(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run and map: the checks with their intervals, and what they come to.

    Args:
        table: of `attention`.
    """
    return _each_run(table, lambda part: explained.printed(part, part.drop_duplicates("map")))


def printed_energy(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, weights and map: the share of the map on the hand, the hand's area.

    Args:
        table: of `energy`.
    """
    return _each_run(table, explained.printed_energy)


def _each_run(table: pd.DataFrame, make: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """What is printed of each run, below each other, with data set and run in front.

    A run's name is that of the first weights that stand there: what it looks into.
    """
    first = table.drop_duplicates(["dataset", "run"])
    names = _names(first).set_axis(pd.MultiIndex.from_frame(first[["dataset", "run"]]))
    frames = []
    for (dataset, run), part in table.groupby(["dataset", "run"], sort=False):
        shown = make(part)
        shown.insert(0, "data set", dataset)
        shown.insert(1, "run", names[(dataset, run)])
        frames.append(shown.assign(remark=tables.remark(dataset, part["limited"].iloc[0])))
    return pd.concat(frames, ignore_index=True).fillna("")
