"""Yes-or-no questions in numbers -> Figures: errors of pairs and of searches, scores, naming."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

# Ticks on normal-deviate axes: of many errors of very different size, and of a narrow range
DEVIATES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
TENTHS = (1e-3, 0.01, 0.02, 0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.98)
POINTS = {"fnir@1e-2": 0.01, "fnir@1e-1": 0.1}  # metrics of an open set, and their FPIR
TAIL = 0.005  # of the scores of every kind that may lie left of a histogram's axes


@styled
def det(
    curves: pd.DataFrame,
    metrics: pd.DataFrame | None = None,
    dataset: str | None = None,
    limited: bool = False,
    width: float | None = None,
) -> Figure:
    """Detection error trade-off on normal-deviate axes; a marker where both errors are equal.

    Of more curves than colours those of `panels.fewer`. Without any curve the figure says so.

    Args:
        curves: `weights, test_aspect, gallery, threshold, far, frr`, fractions, of one run or many.
        metrics: rows of metrics.csv, whose `eer` is written beside the weights' names.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of panels.
    """
    if curves.empty:
        return style.saying(curves, dataset, limited, "no run compares pairs of images")
    tables.need(curves, ["weights", "test_aspect", "gallery", "far", "frr"], "curves")
    frame, said = panels.fewer(panels.series(tables.ordered(curves)))
    looks = style.looks(list(frame["label"].unique()))
    width = panels.by_content(frame, width)
    lines = panels.lines(frame, width)
    wide = -(-sum(len(panels.galleries(part)) for part, _ in panels.rows(frame)) // lines)
    square = min(width / wide - 0.55, 2.6)  # nearly: a fixed aspect would push legends out
    tall = 0.35 + (square + 1.05 + 0.16 * len(looks)) * lines  # each with its legend
    figure = style.new(frame, dataset, limited, tall, width, said)
    inner = _between(frame, "far", "frr", 0.8)
    least = max(min([*inner["far"], *inner["frr"], 0.01]), 1e-4)
    ends = _deviate([least * 0.8, 0.85])
    drawn = panels.grid(figure, frame)
    for axes, part, _ in drawn:
        for label, rows in part.groupby("label", sort=False):
            x, y = map(_deviate, _between(rows, "far", "frr").T.to_numpy())
            equal = np.abs(x - y).argsort()[:1].tolist()
            mark = {"markevery": equal, "mfc": "white", "ms": 5, "mew": 1.3}
            axes.plot(x, y, label=_with_eer(label, rows, metrics), **mark, **looks[label])
        axes.plot(ends, ends, color="0.75", lw=0.6, zorder=0)
        axes.set(xlim=ends, ylim=ends)
        _in_percent(axes)
        axes.grid(True)
        axes.tick_params(labelbottom=True)
        below = (0.5, -0.38 / square)  # the axis label is between
        axes.legend(loc="upper center", bbox_to_anchor=below, handlelength=3.2)
    panels.label_outer(drawn, "", "false rejects, %")
    for axes, _, _ in drawn:
        axes.set_xlabel("false accepts, %")
    return figure


def _between(frame: pd.DataFrame, x: str, y: str, end: float = 1) -> pd.DataFrame:
    """Two columns of rates, where both are above 0 and below an end, in the order of a curve."""
    rates = frame[[x, y]]
    rates = rates[(rates > 0).all(axis=1) & (rates < end).all(axis=1)]
    return rates.sort_values([x, y], ascending=[True, False])


def _deviate(rates: Sequence[float]) -> np.ndarray:
    return np.array([NormalDist().inv_cdf(rate) for rate in rates])


def _in_percent(axes: Axes) -> None:
    """Ticks of normal deviates as percent, on an axis of less than three deviates more of them."""
    for axis in (axes.xaxis, axes.yaxis):
        ends = axis.get_view_interval()
        low, high = map(NormalDist().cdf, ends)
        ticks = [t for t in (TENTHS if np.ptp(ends) < 3 else DEVIATES) if low <= t <= high]
        axis.set_major_locator(FixedLocator(_deviate(ticks)))
        axis.set_major_formatter(FuncFormatter(lambda d, _: f"{NormalDist().cdf(d) * 100:.3g}"))
        axis.set_minor_formatter(NullFormatter())


def _with_eer(label: str, rows: pd.DataFrame, metrics: pd.DataFrame | None) -> str:
    if metrics is None:
        return label
    same = _same(metrics, rows) & (metrics["metric"] == "eer") & (metrics["subset"] == "all")
    value = metrics.loc[same, "value"]
    return f"{label}, EER {value.iloc[0] * 100:.1f} %" if len(value) == 1 else label


def _same(table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Which rows of a table are of the run, weights and gallery of these rows."""
    same = pd.Series(True, table.index)
    for column in [*tables.RUN, *tables.VIEW]:
        if column in rows and column in table:
            same &= table[column] == rows[column].iloc[0]
    return same


@styled
def scores(
    counts: pd.DataFrame,
    thresholds: pd.DataFrame | None = None,
    dataset: str | None = None,
    limited: bool = False,
    distance: str = "cosine",
) -> Figure:
    """How scores of one person and of two are spread; a row per weights, a column per gallery.

    Each kind of comparison has its own 100 %: there are far fewer mated ones. A row begins where
    not more than `TAIL` of any kind lies to the left, so that stray scores leave the others room.

    Args:
        counts: `weights, test_aspect, gallery, kind, low, high, count` of one run, with kinds of
            `style.KINDS`.
        thresholds: `weights, test_aspect, gallery, far, threshold`, drawn for FAR 1 % and 0.1 %.
        dataset: the data set's name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        distance: what the scores are, `cosine` or `euclidean`.
    """
    need = ["weights", "test_aspect", "gallery", "kind", "low", "high", "count"]
    tables.need(counts, need, "scores")
    parts = panels.rows(tables.ordered(counts))
    lines = [
        (part[part["weights"] == weights], f"{name}, " * (len(parts) > 1) + weights)
        for part, name in parts
        for weights in part["weights"].unique()
    ]
    wide = max(len(panels.galleries(part)) for part, _ in lines)
    figure = style.new(counts, dataset, limited, 0.7 + 1.25 * len(lines))
    grid = figure.subplots(len(lines), wide, sharex="row", squeeze=False)
    for row, (part, name) in zip(grid, lines, strict=True):
        here = panels.galleries(part)
        for axes, gallery in zip(row, here, strict=False):
            rows = part[part["gallery"] == gallery]
            _outlines(axes, rows)
            if thresholds is not None:
                _marks(axes, rows, thresholds)
            axes.set_title(panels.panel_title(name, gallery))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:g} %"))
            axes.yaxis.set_major_locator(MaxNLocator(3))
        for axes in row[len(here) :]:
            axes.remove()
        row[0].set(ylabel="share per bin", xlim=_ends_of_scores(part))
    for axes in figure.axes:
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel(style.SCORES.get(distance, distance))
    style.legend_below(figure, first=list(style.KINDS))
    return figure


def _ends_of_scores(part: pd.DataFrame) -> tuple[float, float]:
    starts = []
    for _, rows in part.sort_values("low").groupby(["gallery", "kind"]):
        left = rows["count"].cumsum() <= TAIL * rows["count"].sum()
        starts.append(rows.loc[~left, "low"].iloc[0])
    room = 0.01 * (part["high"].max() - min(starts))
    return min(starts) - room, part["high"].max() + room


def _outlines(axes: Axes, rows: pd.DataFrame) -> None:
    for kind, (colour, line, hatch) in style.KINDS.items():
        part = rows[rows["kind"] == kind].sort_values("low")
        if len(part):
            share = part["count"] / part["count"].sum()
            edges = [*part["low"], part["high"].iloc[-1]]
            look = {"edgecolor": colour, "linestyle": line, "hatch": hatch, "lw": 1.2}
            faint = colors.to_rgba(colour, 0.12 if hatch else 0)
            axes.stairs(share, edges, fill=True, facecolor=faint, label=kind, **look)


def _marks(axes: Axes, rows: pd.DataFrame, thresholds: pd.DataFrame) -> None:
    own = thresholds[_same(thresholds, rows)]
    for far, line in style.FARS.items():
        for threshold in own.loc[np.isclose(own["far"], far), "threshold"]:
            name = f"threshold at FAR {far * 100:g} % of val people"
            axes.axvline(threshold, color="black", linestyle=line, lw=0.8, label=name)


@styled
def open_set(
    curves: pd.DataFrame,
    metrics: pd.DataFrame | None = None,
    dataset: str | None = None,
    limited: bool = False,
    width: float | None = None,
) -> Figure:
    """Misses against false alarms of searches, on normal-deviate axes, with points of metrics.

    Args:
        curves: `weights, test_aspect, gallery, threshold, fpir, fnir`, fractions.
        metrics: rows of metrics.csv, whose `fnir@1e-2` and `fnir@1e-1` are drawn as points with
            their 95 % intervals.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of panels.
    """
    if curves.empty:
        said = "nobody in this data set is searched for in vain: no open set"
        return style.saying(curves, dataset, limited, said)
    tables.need(curves, ["weights", "test_aspect", "gallery", "fpir", "fnir"], "curves")
    frame, said = panels.fewer(panels.series(tables.ordered(curves)))
    looks, width = style.looks(list(frame["label"].unique())), panels.by_content(frame, width)
    tall = 0.5 + 2.8 * panels.lines(frame, width)
    figure = style.new(frame, dataset, limited, tall, width, said)
    x_ends, y_ends = _ends_of_searches(frame, metrics)
    known = "" if metrics is None else "mean of the trials, with its 95 % interval"
    drawn = panels.grid(figure, frame)
    for axes, part, _ in drawn:
        if known:
            axes.errorbar([], [], [], fmt="o", color="black", mfc="white", capsize=2, label=known)
        for number, (label, rows) in enumerate(part.groupby("label", sort=False)):
            line = {**looks[label], "markevery": [], "mfc": "white", "label": label}
            axes.plot(*map(_deviate, _between(rows, "fpir", "fnir").T.to_numpy()), **line)
            if metrics is not None:
                _points(axes, rows, metrics, looks[label], 0.03 * (number - (len(looks) - 1) / 2))
        axes.set(xlim=x_ends, ylim=y_ends)
        _in_percent(axes)
        axes.xaxis.set_major_locator(FixedLocator(_deviate([1e-3, 0.01, 0.1, 0.3, 0.5, 0.7])))
        axes.grid(True)
    panels.label_outer(drawn, "false alarms of non-mated searches (FPIR), %", "misses (FNIR), %")
    style.legend_below(figure)
    return figure


def _ends_of_searches(
    frame: pd.DataFrame, metrics: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the axes: FPIR to 90 %, and what FNIR and its intervals are there."""
    inner = frame[(frame["fpir"] > 0) & (frame["fpir"] < 0.9)]
    fnir = list(inner["fnir"])
    if metrics is not None:
        points = metrics[metrics["metric"].isin(POINTS)]
        fnir += list(points[["value", "low", "high"]].stack())
    low, high = np.clip([min(fnir, default=0.01), max(fnir, default=0.5)], 1e-3, 0.98)
    left = max(min([*inner["fpir"], 0.009]) * 0.8, 1e-4)
    return _deviate([left, 0.9]), _deviate([low * 0.8, 1 - (1 - high) * 0.8])


def _points(
    axes: Axes, rows: pd.DataFrame, metrics: pd.DataFrame, look: dict, shift: float
) -> None:
    for name, fpir in POINTS.items():
        own = metrics[_same(metrics, rows) & (metrics["metric"] == name)]
        for row in own[["value", "low", "high"]].dropna(subset="value").itertuples():
            value, low, high = _deviate(np.clip(row[1:], 1e-3, 1 - 1e-3))
            ends = [[value - low], [high - value]]
            bar = {"elinewidth": 0.8, "capsize": 2, "ls": "", "zorder": 3, "ms": 4.5}
            point = {"color": look["color"], "marker": look["marker"], "mfc": "white"}
            axes.errorbar(_deviate([fpir]) + shift, [value], yerr=ends, **bar, **point)


@styled
def confusion(counts: pd.DataFrame, dataset: str | None = None, limited: bool = False) -> Figure:
    """A confusion matrix: each row's shares in colour and percent, and under them the counts.

    Args:
        counts: what was shown (index) by what it was named (columns), in pictures; a name that is
            never given still has its column, as in `pd.crosstab(...).reindex(...)`.
        dataset: the data set's name.
        limited: data.limit was set; the figure says so.
    """
    if counts.empty:
        said = "nothing to name: the backbone reads no text, or all pictures are of one kind"
        return style.saying(counts, dataset, limited, said)
    rates = counts.div(counts.sum(axis=1).where(lambda total: total > 0), axis=0)
    rows, columns = counts.shape
    width = style.COLUMN if columns < 4 else style.WIDTH
    figure = style.new(counts, dataset, limited, min(1.3 + 0.5 * rows, 8.5), width)
    axes = figure.subplots()
    image = axes.imshow(rates.fillna(0), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(rows, columns):
        rate = rates.iloc[row, column]
        share = "–" if np.isnan(rate) else f"{rate * 100:.1f} %"
        text = f"{share}\n{counts.iloc[row, column]:.0f}"
        look = {"fontsize": style.SMALL, "color": "white" if rate > 0.55 else "black"}
        axes.text(column, row, text, ha="center", va="center", **look)
    shown, named = style.spoken(counts.index), style.spoken(counts.columns)
    turned = max(map(len, named)) > 10.5 * width / columns
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(columns), named, **turn)
    axes.set_yticks(range(rows), shown)
    axes.set(xlabel="named by the prompts", ylabel="shown")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, format=style.PERCENT, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    return figure
