"""Ranked lists in numbers -> Figures: match curves, rank-1 and mAP by run, the gap of bursts.

No number is computed again, nothing is saved. What has no column `dataset` is drawn only when the
caller names the data set (`style`).
"""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfh_lib.files import InputError
from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

NO_IMAGES = "no run searches images by images"
LABEL = 34  # letters in a line of a run's name
BANDS = 4  # curves at the most that keep their bands: more of them would lie on each other
FAR = "far queries (more than 10 file numbers away)"


@styled
def cmc(
    curves: pd.DataFrame,
    dataset: str | None = None,
    limited: bool = False,
    ranks: int = 20,
    width: float | None = None,
) -> Figure:
    """Cumulative match curves with their 95 % bands, a panel per gallery (and aspect).

    Where aspects are pooled (`all`) only the pooled curve is drawn, here and in other figures. Of
    more curves than colours those of `panels.fewer`, and the headline says so; of many the bands
    are left out. Without any curve the figure says so.

    Args:
        curves: `weights, test_aspect, gallery, rank, value, low, high`; of several runs also what
            names them (`method, backbone, recipe, seed`, `run`) or a ready `label`.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        ranks: the last rank that is drawn.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of panels.
    """
    if curves.empty:
        return style.saying(curves, dataset, limited, NO_IMAGES)
    tables.need(curves, ["weights", "test_aspect", "gallery", "rank", "value"], "curves")
    frame, said = panels.fewer(panels.series(tables.ordered(curves[curves["rank"] <= ranks])))
    labels = list(frame["label"].unique())
    looks, width = style.looks(labels), panels.by_content(frame, width)
    tall = 0.6 + 2.0 * panels.lines(frame, width)
    figure = style.new(frame, dataset, limited, tall, width, said)
    drawn = panels.grid(figure, frame)
    banded = len(labels) <= BANDS
    low = max(0, np.floor(10 * frame["value"].min() - 1) / 10)  # high curves need the room
    for axes, part, _ in drawn:
        for label, rows in part.groupby("label", sort=False):
            rows = rows.sort_values("rank")
            marked = [i for i, rank in enumerate(rows["rank"]) if rank == 1 or rank % 5 == 0]
            axes.plot(rows["rank"], rows["value"], markevery=marked, label=label, **looks[label])
            if banded and "low" in rows and rows["low"].notna().any():
                band = {"color": looks[label]["color"], "alpha": 0.15, "lw": 0}
                axes.fill_between(rows["rank"], rows["low"], rows["high"], **band)
        axes.set(xlim=(0.5, ranks + 0.5), ylim=(low, 1.02))
        axes.set_xticks([1, *range(5, ranks + 1, 5)])
        axes.yaxis.set_major_formatter(style.PERCENT)
        axes.grid(True)
    panels.label_outer(drawn, "rank k", "right image among the first k")
    style.legend_below(figure)
    return figure


@styled
def bars(
    metrics: pd.DataFrame, gallery: str | None = None, names: Sequence[str] = ("rank1", "mAP")
) -> Figure:
    """Bars with 95 % intervals: all queries, and the far ones; a row per run and weights.

    Args:
        metrics: rows of metrics.csv, of one run or of many; images that search images alone.
        gallery: which one; by default each data set's first (`same_aspect`, or its only one). A
            panel never holds two.
        names: metrics, a column of panels each.

    Raises:
        InputError: that gallery is not there.
    """
    frame = _of_a_gallery(metrics, gallery, names)
    if frame.empty:
        return style.saying(metrics, None, False, NO_IMAGES)
    groups = panels.rows(frame)
    sizes = [part["label"].nunique() for part, _ in groups]
    figure = style.new(frame, None, False, 0.7 + 0.3 * sum(sizes) + 0.35 * len(groups))
    shape = {"sharex": True, "squeeze": False, "height_ratios": [size + 0.6 for size in sizes]}
    grid = figure.subplots(len(groups), len(names), **shape)
    for row, (part, name) in enumerate(groups):
        for column, metric in enumerate(names):
            axes = grid[row, column]
            labels = list(part["label"].unique())
            _pairs_of_bars(axes, part[part["metric"] == metric], labels)
            said = [fill(label, LABEL) for label in labels]
            axes.set_yticks(range(len(labels)), said if column == 0 else [""] * len(labels))
            if row == len(groups) - 1:
                axes.set_xlabel(style.METRICS.get(metric, metric))
        title = panels.panel_title(name, part["gallery"].iloc[0])
        grid[row, 0].set_title(title.replace("\n", " "), loc="left")
    style.legend_below(figure)
    return figure


def _of_a_gallery(metrics: pd.DataFrame, gallery: str | None, names: Sequence[str]) -> pd.DataFrame:
    """Rows of metrics of images that search images, in one gallery of each data set, labelled."""
    need = ["dataset", "test_aspect", "gallery", "subset", "metric", "value"]
    tables.need(metrics, need, "metrics")
    if "direction" in metrics:
        metrics = metrics[metrics["direction"] == "image_image"]
    if metrics.empty:
        return metrics
    there = panels.galleries(metrics)
    if gallery is not None and gallery not in there:
        raise InputError(f"metrics: no gallery {gallery}; there is {', '.join(there)}")
    firsts = {name: panels.galleries(part)[0] for name, part in metrics.groupby("dataset")}
    wanted = metrics["dataset"].map(firsts) if gallery is None else gallery
    frame = metrics[(metrics["gallery"] == wanted) & metrics["subset"].isin(["all", "far"])]
    return panels.series(tables.ordered(frame[frame["metric"].isin(names)]))


def _pairs_of_bars(axes: Axes, part: pd.DataFrame, labels: list[str]) -> None:
    kinds = [("all", "all queries", -0.2, style.BLUE, ""), ("far", FAR, 0.2, "white", "////")]
    for subset, name, shift, colour, hatch in kinds:
        rows = part[part["subset"] == subset]
        places = np.array([labels.index(label) for label in rows["label"]]) + shift
        look = {"color": colour, "edgecolor": style.BLUE, "hatch": hatch, "lw": 0.6}
        axes.barh(places, rows["value"], 0.38, label=name, **look)
        axes.errorbar(rows["value"], places, xerr=_ends(rows, "value"), **style.INTERVAL)
        for place, high, value in zip(places, rows["high"], rows["value"], strict=True):
            edge = value if np.isnan(high) else high
            axes.text(edge + 0.015, place, f"{value * 100:.1f}", va="center", fontsize=style.SMALL)
    axes.set(ylim=(len(labels) - 0.45, -0.55), xlim=(0, 1.22))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)


def _ends(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Lengths of the interval below and above the value, (2, rows)."""
    return np.maximum([rows[name] - rows["low"], rows["high"] - rows[name]], 0)


@styled
def by_method(
    metrics: pd.DataFrame,
    metric: str = "mAP",
    gallery: str | None = None,
    width: float | None = None,
) -> Figure:
    """One number of each run with its 95 % interval, a line each: for more runs than bars can hold.

    A full dot is of all queries, an empty square of the far ones. Grey lines part the methods.

    Args:
        metrics: rows of metrics.csv, of one run or of many; images that search images alone.
        metric: a fraction, e.g. mAP.
        gallery: which one; by default each data set's first.
        width: inches, style.COLUMN or style.WIDTH; by default the latter.

    Raises:
        InputError: that gallery is not there.
    """
    frame = _of_a_gallery(metrics, gallery, [metric])
    if frame.empty:
        return style.saying(metrics, None, False, NO_IMAGES)
    frame = frame.sort_values("weights", key=lambda names: names == "pixels", kind="stable")
    width = width or style.WIDTH
    letters = LABEL if width > style.COLUMN else 20
    groups = [
        (part, name, {label: fill(label, letters) for label in part["label"].unique()})
        for part, name in panels.rows(frame)
    ]
    sizes = [sum(1.1 + text.count("\n") for text in said.values()) for _, _, said in groups]
    tall = 0.7 + 0.15 * sum(sizes) + 0.35 * len(groups)
    figure = style.new(frame, None, False, tall, width)
    shape = {"sharex": True, "squeeze": False, "height_ratios": [size + 1 for size in sizes]}
    for axes, (part, name, said) in zip(
        figure.subplots(len(groups), 1, **shape)[:, 0], groups, strict=True
    ):
        _dots(axes, part, said)
        title = panels.panel_title(name, part["gallery"].iloc[0])
        axes.set_title(title.replace("\n", " ") if width > style.COLUMN else title, loc="left")
    axes.set_xlabel(style.METRICS.get(metric, metric))
    axes.tick_params(labelbottom=True)
    style.legend_below(figure, first=["all queries"])
    return figure


def _dots(axes: Axes, part: pd.DataFrame, said: dict[str, str]) -> None:
    tall = np.array([1.1 + text.count("\n") for text in said.values()])
    middles = dict(zip(said, np.cumsum(tall) - tall / 2, strict=True))
    kinds = [("all", "all queries", -0.18, "o", style.BLUE), ("far", FAR, 0.18, "s", "white")]
    several = part["subset"].nunique() > 1
    for subset, name, shift, marker, inside in kinds:
        rows = part[part["subset"] == subset]
        places = rows["label"].map(middles) + shift * several
        dot = {"fmt": marker, "color": style.BLUE, "mfc": inside, "ms": 3.5, "mew": 0.9}
        if len(rows):
            ends = _ends(rows, "value")
            bar = {"ecolor": "black", "elinewidth": 0.8, "capsize": 1.5, "label": name}
            axes.errorbar(rows["value"], places, xerr=ends, **dot, **bar)
    if "method" in part:
        first = part.drop_duplicates("label")
        starts = (
            first["method"]
            .where(first["weights"] != "pixels", "")
            .ne(first["method"].where(first["weights"] != "pixels", "").shift())
        )
        for label, size in zip(first["label"][starts].iloc[1:], tall[starts][1:], strict=True):
            axes.axhline(middles[label] - size / 2, color="0.75", lw=0.5, zorder=0)
    axes.set(xlim=(0, 1.02), ylim=(sum(tall), 0))
    axes.set_yticks(list(middles.values()), list(said.values()))
    axes.xaxis.set_major_formatter(style.PERCENT)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)


@styled
def burst_gap(
    metrics: pd.DataFrame,
    dataset: str | None = None,
    limited: bool = False,
    width: float | None = None,
) -> Figure:
    """Rank-1 by gap in file numbers, with 95 % intervals and the number of people of each gap.

    Where a data set has no file numbers, the figure says so; of more runs than colours those of
    `panels.fewer`.

    Args:
        metrics: rows of metrics.csv of one run or of many, with the subsets gap_1 … gap_51_up.
        dataset: its name, where the rows do not have it.
        limited: data.limit was set; the figure says so.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of panels.
    """
    metrics = metrics if dataset is None else metrics.assign(dataset=dataset)
    if not metrics["subset"].isin(tables.GAPS).any():
        said = "no file numbers in this data set: how near a query lies is not known"
        return style.saying(metrics, dataset, limited, said)
    rank1 = metrics[metrics["subset"].isin(tables.GAPS) & (metrics["metric"] == "rank1")]
    frame, said = panels.fewer(panels.series(tables.ordered(rank1)))
    frame = tables.burst_gaps(frame)
    gaps = list(tables.GAPS.values())
    labels = list(frame["label"].unique())
    looks, width = style.looks(labels), panels.by_content(frame, width)
    tall = 0.9 + 2.1 * panels.lines(frame, width)
    figure = style.new(metrics, None, limited, tall, width, said)
    drawn = panels.grid(figure, frame)
    for axes, part, _ in drawn:
        for number, name in enumerate(labels):
            rows = part[part["label"] == name].set_index("gap").reindex(gaps)  # a gap stays open
            if rows["rank1"].isna().all():
                continue
            apart = min(0.12, 0.8 / len(labels))
            places = np.arange(len(gaps)) + apart * (number - (len(labels) - 1) / 2)
            thin = {"elinewidth": 0.8, "capsize": 1.5, "label": name, **looks[name]}
            axes.errorbar(places, rows["rank1"], yerr=_ends(rows, "rank1"), **thin)
        people = part.groupby("gap")["people"].max()
        texts = [f"{gap.replace(' and more', '+')}\n({people.get(gap, 0):.0f})" for gap in gaps]
        axes.set_xticks(range(len(gaps)), texts)
        axes.tick_params(labelbottom=True)
        axes.set(ylim=(-0.02, 1.04), xlim=(-0.5, len(gaps) - 0.5))
        axes.yaxis.set_major_formatter(style.PERCENT)
        axes.grid(True, axis="y")
    panels.label_outer(drawn, "gap in file numbers (people)", "rank-1")
    style.legend_below(figure)
    return figure
