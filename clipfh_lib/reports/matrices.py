"""Square tables: queries of one aspect in galleries of another, trained here and tested there."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from clipfh_lib.data import origin
from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

NUMBERS = ("rank1", "mAP", "far_rank1", "far_mAP")
TRAINED = [
    "train_notebook", "train_run", "train_dataset", "train_aspect", "train_recipe", "train_seed",
]  # fmt: skip


@styled
def across_aspects(
    metrics: pd.DataFrame, dataset: str | None = None, limited: bool = False, metric: str = "rank1"
) -> Figure:
    """Queries of each aspect (rows) in the galleries of each (columns): a panel for each weights.

    Args:
        metrics: of `evaluation.across`; the pooled rows are left out.
        dataset: the data set's name.
        limited: data.limit was set; the figure says so.
        metric: a fraction.
    """
    here = (metrics["metric"] == metric) & (metrics["subset"] == "all")
    frame = metrics[here & (metrics["test_aspect"] != "all")]
    if frame.empty:
        said = "this data set tests fewer than two aspects"
        return style.saying(metrics, dataset, limited, said)
    frame = panels.series(frame)
    names = tables.aspects(frame["test_aspect"])
    words = [style.ASPECTS.get(name, name) for name in names]
    labels = list(frame["label"].unique())
    figure = style.new(frame, dataset, limited, 1.2 + 0.42 * len(names))
    grid = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
    for axes, label in zip(grid, labels, strict=True):
        part = frame[frame["label"] == label]
        cells = part.pivot(index="test_aspect", columns="gallery", values=["value", "low", "high"])
        value, low, high = (
            cells[name].reindex(index=names, columns=names).to_numpy(float)
            for name in ("value", "low", "high")
        )
        axes.imshow(value, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(value.shape):
            if not np.isnan(value[row, column]):
                ends = f"[{low[row, column] * 100:.0f}, {high[row, column] * 100:.0f}]"
                text = f"{value[row, column] * 100:.1f}\n{ends}"
                look = {
                    "fontsize": style.SMALL,
                    "color": "white" if value[row, column] > 0.55 else "black",
                }
                axes.text(column, row, text, ha="center", va="center", **look)
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), words, **turn)
        axes.set(title=label, xlabel="gallery")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    grid[0].set_yticks(range(len(names)), words)
    grid[0].set_ylabel(f"query; {style.METRICS.get(metric, metric)}, %")
    return figure


def train_by_test(folders: Iterable[str | Path]) -> pd.DataFrame:
    """What trained where, tested where: a row for each run's weights, test aspect and gallery.

    Args:
        folders: run folders; those that are not complete are passed over.

    Returns:
        TRAINED (empty for weights that no run of ours trained), what names the run and its test,
        NUMBERS with their 95 % intervals, `queries`, `people`, `test_people` and `seen`: how many
        of these trained in that run too, which makes the test too easy.
    """
    folders = [Path(folder) for folder in folders]
    table = tables.comparison(tables.read_runs(folders), NUMBERS)
    table = table[table["weights"].isin(["trained", "pretrained"])]
    came = []
    for folder in folders:
        who = {"notebook": folder.parent.name, "run": folder.name}
        if not (folder / "manifest.json").is_file():
            continue
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        who["dataset"] = params["dataset"]
        if (folder / "trained_on.csv").is_file():
            came += pd.read_csv(folder / "trained_on.csv").assign(**who).to_dict("records")
        elif "fit" in params:
            own = [folder.parent.name, folder.name, params["dataset"]]
            own += [origin.aspects(params["data"]), params["recipe"], params["seed"]]
            came.append({**who, **dict(zip(TRAINED, own, strict=True)), "seen": 0})
    known = pd.DataFrame(came, columns=["dataset", "notebook", "run", *TRAINED, "seen"])
    table = table.merge(known, on=["dataset", "notebook", "run"], how="left")
    untaught = table["weights"] == "pretrained"
    table.loc[untaught, [*TRAINED, "seen"]] = np.nan
    rest = [name for name in table if name not in TRAINED]
    return table[[*TRAINED, *rest]].astype({"train_seed": "Int64", "seen": "Int64"})


def printed(table: pd.DataFrame, metric: str = "rank1") -> pd.DataFrame:
    """`train_by_test` as a matrix: a row for what trained, a column for each test and gallery.

    Percent with their 95 % interval; `*` where people of the test trained too, `?` where nobody can
    tell. Pooled aspects only, where a run has them. Runs that differ in overrides alone are told
    apart by the end of their folder's name.
    """
    if metric not in table:
        return pd.DataFrame({"trained here, tested there": ["no run searches images by images"]})
    told = tables.chief(table)
    # where a run that trains began is the zero-shot run's row once more, or stands in its place
    start = (told["weights"] == "pretrained") & (told["notebook"] != "02_zero_shot")
    same = ["weights", "backbone", "seed", "dataset", "test_aspect", "gallery"]
    shown = told[~start].set_index(same).index
    told = told[~(start & (told.set_index(same).index.isin(shown) | told.duplicated(same)))]
    told = told.assign(
        by=told["train_notebook"].str[3:] + " " + told["train_recipe"],
        cell=[_cell(row, metric) for _, row in told.iterrows()],
        test=told["dataset"] + ", " + told["test_aspect"] + ", " + told["gallery"],
    )
    told["overrides"] = told["run"].str.extract(r"-([0-9a-f]{8})$")[0]
    told["fit"] = told["train_run"].str.extract(r"-([0-9a-f]{8})$")[0]
    words = {
        "train_dataset": "trained on",
        "train_aspect": "aspect",
        "by": "by",
        "train_seed": "of seed",
    }
    taught = told["train_dataset"].notna().any()
    rows = ["weights", *(words if taught else ()), "backbone", "recipe", "seed"]
    for more in ("fit", "overrides", "notebook"):
        if told.duplicated([*rows, "test"]).any():
            rows.append(more)
    told = told.assign(
        **{name: told[name].astype("str").where(told[name].notna(), "") for name in rows}
    )
    matrix = told.pivot(index=rows, columns="test", values="cell").reset_index().fillna("")
    order = told.drop_duplicates(rows)[rows].merge(matrix, on=rows)  # as the plan lists them
    tests = list(told["test"].unique())
    here = [name for name in ("backbone", "recipe", "seed") if order[name].nunique() == 1]
    return order[[*rows, *tests]].drop(columns=here).rename(columns=words)


def _cell(row: pd.Series, metric: str) -> str:
    if pd.isna(row[metric]):
        return ""
    value, low, high = (row[f"{metric}{end}"] * 100 for end in ("", "_low", "_high"))
    seen = 0 if pd.isna(row["seen"]) else row["seen"]
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" + ("*" if seen > 0 else "?" if seen < 0 else "")
