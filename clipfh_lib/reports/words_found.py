"""What texts and images find of each other: metrics to tables to print and a figure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

DIRECTIONS = {"text_image": "text → image", "image_text": "image → text"}
COLUMNS = (
    "recall@1", "recall@5", "recall@10", "hit@1", "hit@5", "hit@10", "mAP",
    "ndcg@1", "ndcg@5", "ndcg@10", "median_rank",
)  # fmt: skip
SHORT = ("recall@1", "recall@5", "recall@10", "hit@1", "mAP", "ndcg@10", "median_rank")
GAINS = ("recall@1", "hit@1", "mAP", "ndcg@10")
KINDS = {
    "recall": "recall@k: share of the right ones found",
    "hit": "hit@k: any right one found",
}
AT = (1, 5, 10)
NONE = "no run searches images by texts"


def comparison(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per run, weights and direction, as `tables.comparison`; an empty table without any.

    Args:
        metrics: rows of metrics.csv, of one run or of many (`tables.read_runs`).
    """
    # other rows have these directions too: naming is of images and texts
    rows = metrics[metrics["direction"].isin(list(DIRECTIONS)) & metrics["metric"].isin(COLUMNS)]
    if rows.empty:
        return pd.DataFrame(columns=[*tables.RUN, *tables.VIEW, *COLUMNS])
    return tables.comparison(rows, COLUMNS, list(DIRECTIONS))


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison to read: percent with 95 % intervals; a line where there is nothing.

    Weights that nobody trained stand once, whichever runs measured them. Of `queries (people)` the
    second number are the units that are resampled, see `text_image.evaluate`.
    """
    if table.empty:
        return pd.DataFrame({"text and image": [NONE]})
    rows = tables.once(table, COLUMNS) if "backbone" in table else table
    order = rows["direction"].map({name: place for place, name in enumerate(DIRECTIONS)})
    rows = rows.assign(place=order).sort_values(["dataset", "place"], kind="stable")
    rows = rows.assign(direction=rows["direction"].map(DIRECTIONS))
    hidden = [name for name in COLUMNS if name not in SHORT]
    rows = rows.drop(columns=["place", "test_aspect", "gallery", *hidden])
    return tables.printed(rows, SHORT).rename(columns={"queries (people)": "queries (units)"})


def summary(metrics: pd.DataFrame) -> pd.DataFrame:
    """Of one run, for the end of a notebook: `printed` of its `comparison`."""
    return printed(comparison(metrics))


def gains(compared: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """Points that the first weights are ahead, with their 95 % intervals.

    Args:
        compared: of `text_image.compare`, the trained weights first.
        dataset: its name; of a drawn one the table says so.

    Returns:
        A row for each direction; a star where zero lies outside.
    """
    sure = (compared["low"] > 0) | (compared["high"] < 0)
    points = 100 * compared[["difference", "low", "high"]]
    said = [
        f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{' *' * star}"
        for (value, low, high), star in zip(points.to_numpy(), sure, strict=True)
    ]
    rows = ["direction", "queries", "people"]
    wide = compared[rows].assign(metric=compared["metric"].replace(tables.WORDS), said=said)
    names = [tables.WORDS.get(name, name) for name in GAINS]
    shown = wide.pivot_table("said", rows, "metric", aggfunc="first", sort=False)[names]
    shown = shown.rename_axis(columns=None).reset_index()
    shown["direction"] = shown["direction"].map(DIRECTIONS)
    shown = shown.astype({"queries": int}).rename(columns={"people": "units"})
    return shown.assign(remark="demo figures") if dataset.startswith("demo") else shown


@styled
def recalls(
    metrics: pd.DataFrame,
    dataset: str | None = None,
    limited: bool = False,
    direction: str = "text_image",
) -> Figure:
    """Recall@k and hit@k with 95 % intervals, a row of panels for each data set.

    Where nothing was searched by words the figure says so.

    Args:
        metrics: rows of metrics.csv, of one run or of many.
        dataset: its name, where the rows do not have it.
        limited: data.limit was set; the figure says so.
        direction: text_image or image_text.
    """
    metrics = metrics if dataset is None else metrics.assign(dataset=dataset)
    tables.need(metrics, ["dataset", "direction", "metric", "value"], "metrics")
    names = metrics["metric"].str.extract(r"^(recall|hit)@(\d+)$")
    frame = metrics.assign(kind=names[0], k=pd.to_numeric(names[1]))
    frame = frame[(frame["direction"] == direction) & frame["k"].isin(AT)]
    if frame.empty:
        return style.saying(metrics, dataset, limited, NONE)
    frame = panels.series(tables.ordered(frame))
    looks = style.looks(list(frame["label"].unique()))
    sets = list(frame.groupby("dataset", sort=False))
    figure = style.new(frame, None, limited, 0.6 + 1.9 * len(sets))
    grid = figure.subplots(len(sets), len(KINDS), sharex=True, sharey=True, squeeze=False)
    for number, (row, (name, part)) in enumerate(zip(grid, sets, strict=True), 1):
        for axes, (kind, title) in zip(row, KINDS.items(), strict=True):
            lines = list(part[part["kind"] == kind].groupby("label", sort=False))
            for place, (label, points) in enumerate(lines, 1):
                points = points.set_index("k").reindex(AT)
                places = np.arange(len(AT)) + 0.5 * (place / (len(lines) + 1) - 0.5)
                ends = np.abs([points["value"] - points["low"], points["high"] - points["value"]])
                thin = {"elinewidth": 0.8, "capsize": 1.5, "label": label, **looks[label]}
                axes.errorbar(places, points["value"], yerr=ends, **thin)
            axes.set_xticks(range(len(AT)), [str(k) for k in AT])
            axes.set(xlim=(-0.5, len(AT) - 0.5), ylim=(-0.02, 1.04))
            axes.yaxis.set_major_formatter(style.PERCENT)
            axes.grid(True, axis="y")
            axes.set_title(title if number == 1 else "")
            axes.set_xlabel("k" if number == len(sets) else "")
        row[0].set_ylabel(DIRECTIONS[direction] + (f"\n{name}" if len(sets) > 1 else ""))
    style.legend_below(figure)
    return figure
