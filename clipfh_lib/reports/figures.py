"""Tables -> matplotlib Figures at print size; no number is computed again, nothing is saved.

What has no column `dataset` is drawn only when the caller names the data set (`style`).
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from clipfh_lib.files import InputError
from clipfh_lib.reports import style, tables
from clipfh_lib.reports.style import styled

# Ticks on normal-deviate axes: of many errors of very different size, and of a narrow range
DEVIATES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
TENTHS = (1e-3, 0.01, 0.02, 0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.98)
POINTS = {"fnir@1e-2": 0.01, "fnir@1e-1": 0.1}  # metrics of an open set, and their FPIR
TAIL = 0.005  # of the scores of every kind that may lie left of a histogram's axes
# What a column of history.csv may be, a panel each
HISTORY = (
    "training loss",
    "training accuracy",
    "validation loss",
    "validation accuracy",
    "other quantities",
    "learning rate",
)
ACCURACIES = ("accuracy", "mAP", "mINP", "rank", "recall", "hit", "ndcg", "top")  # or other shares
NO_IMAGES = "no run searches images by images"
APART = 15  # times as large: then a linear axis would press the smaller curve flat
AS_THEY_ARE = ("scale", "temperature", "norm", "margin")

# --- retrieval ---------------------------------------------------------------------------------


@styled
def cmc(
    curves: pd.DataFrame, dataset: str | None = None, limited: bool = False, ranks: int = 20
) -> Figure:
    """Cumulative match curves with their 95 % bands, a panel per gallery (and aspect).

    Where aspects are pooled (`all`) only the pooled curve is drawn, here and in other figures.
    Without any curve the figure says so.

    Args:
        curves: `weights, test_aspect, gallery, rank, value, low, high`; of several runs also what
            names them (`method, backbone, recipe, seed`, `run`) or a ready `label`.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        ranks: the last rank that is drawn.
    """
    if curves.empty:
        return style.saying(curves, dataset, limited, NO_IMAGES)
    tables.need(curves, ["weights", "test_aspect", "gallery", "rank", "value"], "curves")
    frame = style.series(tables.ordered(curves[curves["rank"] <= ranks]))
    looks = style.looks(list(frame["label"].unique()))
    figure = style.new(frame, dataset, limited, 0.6 + 2.0 * len(style.rows(frame)))
    panels = style.grid(figure, frame)
    for axes, part, _ in panels:
        for label, rows in part.groupby("label", sort=False):
            rows = rows.sort_values("rank")
            marked = [i for i, rank in enumerate(rows["rank"]) if rank == 1 or rank % 5 == 0]
            axes.plot(rows["rank"], rows["value"], markevery=marked, label=label, **looks[label])
            if "low" in rows and rows["low"].notna().any():
                band = {"color": looks[label]["color"], "alpha": 0.15, "lw": 0}
                axes.fill_between(rows["rank"], rows["low"], rows["high"], **band)
        axes.set(xlim=(0.5, ranks + 0.5), ylim=(0, 1.02))
        axes.set_xticks([1, *range(5, ranks + 1, 5)])
        axes.yaxis.set_major_formatter(style.PERCENT)
        axes.grid(True)
    style.label_outer(panels, "rank k", "right image among the first k")
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
    tables.need(
        metrics, ["dataset", "test_aspect", "gallery", "subset", "metric", "value"], "metrics"
    )
    if "direction" in metrics:
        searched = metrics[metrics["direction"] == "image_image"]
        if searched.empty:
            return style.saying(metrics, None, False, NO_IMAGES)
        metrics = searched
    there = style.galleries(metrics)
    if gallery is not None and gallery not in there:
        raise InputError(f"metrics: no gallery {gallery}; there is {', '.join(there)}")
    firsts = {name: style.galleries(part)[0] for name, part in metrics.groupby("dataset")}
    wanted = metrics["dataset"].map(firsts) if gallery is None else gallery
    frame = metrics[(metrics["gallery"] == wanted) & metrics["subset"].isin(["all", "far"])]
    frame = style.series(tables.ordered(frame[frame["metric"].isin(names)]))
    groups = style.rows(frame)
    sizes = [part["label"].nunique() for part, _ in groups]
    figure = style.new(frame, None, False, 0.7 + 0.3 * sum(sizes) + 0.35 * len(groups))
    shape = {"sharex": True, "squeeze": False, "height_ratios": [size + 0.6 for size in sizes]}
    grid = figure.subplots(len(groups), len(names), **shape)
    for row, (part, name) in enumerate(groups):
        for column, metric in enumerate(names):
            axes = grid[row, column]
            labels = list(part["label"].unique())
            _pairs_of_bars(axes, part[part["metric"] == metric], labels)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels))
            if row == len(groups) - 1:
                axes.set_xlabel(style.METRICS.get(metric, metric))
        title = style.panel_title(name, part["gallery"].iloc[0])
        grid[row, 0].set_title(title.replace("\n", " "), loc="left")
    style.legend_below(figure)
    return figure


def _pairs_of_bars(axes: Axes, part: pd.DataFrame, labels: list[str]) -> None:
    kinds = [("all", "all queries", -0.2, style.BLUE, ""), ("far", "", 0.2, "white", "////")]
    for subset, name, shift, fill, hatch in kinds:
        name = name or "far queries (more than 10 file numbers away)"
        rows = part[part["subset"] == subset]
        places = np.array([labels.index(label) for label in rows["label"]]) + shift
        look = {"color": fill, "edgecolor": style.BLUE, "hatch": hatch, "lw": 0.6}
        axes.barh(places, rows["value"], 0.38, label=name, **look)
        axes.errorbar(rows["value"], places, xerr=_ends(rows, "value"), **style.INTERVAL)
        for place, high, value in zip(places, rows["high"], rows["value"], strict=True):
            edge = value if np.isnan(high) else high
            axes.text(edge + 0.015, place, f"{value * 100:.1f}", va="center", fontsize=6.5)
    axes.set(ylim=(len(labels) - 0.45, -0.55), xlim=(0, 1.16))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(style.PERCENT)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)


def _ends(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Lengths of the interval below and above the value, (2, rows)."""
    return np.maximum([rows[name] - rows["low"], rows["high"] - rows[name]], 0)


@styled
def burst_gap(metrics: pd.DataFrame, dataset: str | None = None, limited: bool = False) -> Figure:
    """Rank-1 by gap in file numbers, with 95 % intervals and the number of people of each gap.

    Where a data set has no file numbers, the figure says so.

    Args:
        metrics: rows of metrics.csv of one run, with the subsets gap_1 … gap_51_up.
        dataset: its name, where the rows do not have it.
        limited: data.limit was set; the figure says so.
    """
    metrics = metrics if dataset is None else metrics.assign(dataset=dataset)
    if not metrics["subset"].isin(tables.GAPS).any():
        said = "no file numbers in this data set: how near a query lies is not known"
        return style.saying(metrics, dataset, limited, said)
    frame = tables.burst_gaps(metrics)
    gaps = list(tables.GAPS.values())
    weights = list(frame["weights"].unique())
    figure = style.new(metrics, dataset, limited, 0.9 + 2.1 * len(style.rows(frame)))
    looks = style.looks(weights)
    panels = style.grid(figure, frame)
    for axes, part, _ in panels:
        for number, name in enumerate(weights):
            rows = part[part["weights"] == name].set_index("gap").reindex(gaps)  # a gap stays open
            places = np.arange(len(gaps)) + 0.12 * (number - (len(weights) - 1) / 2)
            thin = {"elinewidth": 0.8, "capsize": 1.5, "label": name, **looks[name]}
            axes.errorbar(places, rows["rank1"], yerr=_ends(rows, "rank1"), **thin)
        people = part.groupby("gap")["people"].max()
        texts = [f"{gap.replace(' and more', '+')}\n({people.get(gap, 0):.0f})" for gap in gaps]
        axes.set_xticks(range(len(gaps)), texts)
        axes.tick_params(labelbottom=True)
        axes.set(ylim=(-0.02, 1.04), xlim=(-0.5, len(gaps) - 0.5))
        axes.yaxis.set_major_formatter(style.PERCENT)
        axes.grid(True, axis="y")
    style.label_outer(panels, "gap in file numbers (people)", "rank-1")
    style.legend_below(figure)
    return figure


# --- verification ------------------------------------------------------------------------------


@styled
def det(
    curves: pd.DataFrame,
    metrics: pd.DataFrame | None = None,
    dataset: str | None = None,
    limited: bool = False,
) -> Figure:
    """Detection error trade-off on normal-deviate axes; a ring where both errors are equal.

    Args:
        curves: `weights, test_aspect, gallery, threshold, far, frr`, fractions.
        metrics: rows of metrics.csv, whose `eer` is written beside the weights' names.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
    """
    tables.need(curves, ["weights", "test_aspect", "gallery", "far", "frr"], "curves")
    frame = style.series(tables.ordered(curves))
    looks = style.looks(list(frame["label"].unique()))
    tall = 3.2 + 0.17 * len(looks)  # a square with its legend
    figure = style.new(frame, dataset, limited, 0.4 + tall * len(style.rows(frame)))
    inner = _between(frame, "far", "frr", 0.8)
    least = max(min([*inner["far"], *inner["frr"], 0.01]), 1e-4)
    ends = _deviate([least * 0.8, 0.85])
    panels = style.grid(figure, frame)
    for axes, part, _ in panels:
        for label, rows in part.groupby("label", sort=False):
            line = {**looks[label], "marker": "", "label": _with_eer(label, rows, metrics)}
            x, y = map(_deviate, _between(rows, "far", "frr").T.to_numpy())
            axes.plot(x, y, **line)
            equal = np.abs(x - y).argsort()[:1]
            ring = {"mfc": "white", "mec": looks[label]["color"], "ms": 5, "mew": 1.3, "zorder": 3}
            axes.plot(x[equal], y[equal], "o", **ring)
        axes.plot(ends, ends, color="0.75", lw=0.6, zorder=0)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        _in_percent(axes)
        axes.grid(True)
        axes.tick_params(labelbottom=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=3.2)
    style.label_outer(panels, "", "false rejects, %")
    for axes, _, _ in panels:
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
    parts = style.rows(tables.ordered(counts))
    lines = [
        (part[part["weights"] == weights], f"{name}, " * (len(parts) > 1) + weights)
        for part, name in parts
        for weights in part["weights"].unique()
    ]
    wide = max(len(style.galleries(part)) for part, _ in lines)
    figure = style.new(counts, dataset, limited, 0.7 + 1.25 * len(lines))
    grid = figure.subplots(len(lines), wide, sharex="row", squeeze=False)
    for row, (part, name) in zip(grid, lines, strict=True):
        here = style.galleries(part)
        for axes, gallery in zip(row, here, strict=False):
            rows = part[part["gallery"] == gallery]
            _outlines(axes, rows)
            if thresholds is not None:
                _marks(axes, rows, thresholds)
            axes.set_title(style.panel_title(name, gallery))
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
) -> Figure:
    """Misses against false alarms of searches, on normal-deviate axes, with points of metrics.

    Args:
        curves: `weights, test_aspect, gallery, threshold, fpir, fnir`, fractions.
        metrics: rows of metrics.csv, whose `fnir@1e-2` and `fnir@1e-1` are drawn as points with
            their 95 % intervals.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
    """
    tables.need(curves, ["weights", "test_aspect", "gallery", "fpir", "fnir"], "curves")
    frame = style.series(tables.ordered(curves))
    if frame.empty:
        said = "nobody in this data set is searched for in vain: no open set"
        return style.saying(frame, dataset, limited, said)
    looks = style.looks(list(frame["label"].unique()))
    figure = style.new(frame, dataset, limited, 0.5 + 2.8 * len(style.rows(frame)))
    x_ends, y_ends = _ends_of_searches(frame, metrics)
    known = "" if metrics is None else "mean of the trials, with its 95 % interval"
    panels = style.grid(figure, frame)
    for axes, part, _ in panels:
        if known:
            axes.errorbar([], [], [], fmt="o", color="black", mfc="white", capsize=2, label=known)
        for number, (label, rows) in enumerate(part.groupby("label", sort=False)):
            line = {**looks[label], "marker": "", "label": label}
            axes.plot(*map(_deviate, _between(rows, "fpir", "fnir").T.to_numpy()), **line)
            if metrics is not None:
                _points(axes, rows, metrics, looks[label], 0.03 * (number - (len(looks) - 1) / 2))
        axes.set(xlim=x_ends, ylim=y_ends)
        _in_percent(axes)
        axes.xaxis.set_major_locator(FixedLocator(_deviate([1e-3, 0.01, 0.1, 0.3, 0.5, 0.7])))
        axes.grid(True)
    style.label_outer(panels, "false alarms among non-mated searches (FPIR), %", "misses (FNIR), %")
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


# --- naming, splits, training ------------------------------------------------------------------


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
    figure = style.new(counts, dataset, limited, min(1.3 + 0.5 * rows, 8.5))
    axes = figure.subplots()
    image = axes.imshow(rates.fillna(0), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(rows, columns):
        rate = rates.iloc[row, column]
        share = "–" if np.isnan(rate) else f"{rate * 100:.1f} %"
        text = f"{share}\n{counts.iloc[row, column]:.0f}"
        look = {"fontsize": 7, "color": "white" if rate > 0.55 else "black"}
        axes.text(column, row, text, ha="center", va="center", **look)
    shown, named = _spoken(counts.index), _spoken(counts.columns)
    turned = max(map(len, named)) > 66 / columns
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(columns), named, **turn)
    axes.set_yticks(range(rows), shown)
    axes.set(xlabel="named by the prompts", ylabel="shown")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, format=style.PERCENT, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _spoken(values: pd.Index) -> list[str]:
    words = {**style.ASPECTS, "all": "all"}
    return [words.get(str(value), str(value)) for value in values]


@styled
def split_sizes(split: pd.DataFrame, dataset: str | None = None, limited: bool = False) -> Figure:
    """People and images of each role, a group of bars per test aspect; of one trial.

    Args:
        split: the split manifest.
        dataset: its name.
        limited: data.limit was set; the figure says so.
    """
    sizes = tables.split_sizes(split)
    roles = {  # column of the table: name, colour, hatch
        "train": ("train", style.BLUE, ""),
        "val": ("validation", style.SKY, "xxx"),
        "query": ("query", "white", "////"),
        "gallery same_aspect": ("gallery, same aspect", style.ORANGE, ""),
        "gallery all_aspects": ("gallery, all aspects", "#F5DFA8", "...."),
        "gallery default": ("gallery", style.ORANGE, ""),
    }
    roles = {role: look for role, look in roles.items() if f"{role} images" in sizes}
    figure = style.new(split, dataset, limited, 0.8 + 0.13 * len(roles) * len(sizes))
    tall = 0.84 / len(roles)
    shown = [what for what in ("people", "images") if any(what in column for column in sizes)]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, what in zip(panels, shown, strict=True):
        most = max(sizes[f"{role} {what}"].max() for role in roles)
        for number, (role, (name, fill, hatch)) in enumerate(roles.items()):
            values = sizes[f"{role} {what}"]
            places = np.arange(len(sizes)) + (number - (len(roles) - 1) / 2) * tall
            look = {"color": fill, "hatch": hatch, "edgecolor": style.BLUE, "lw": 0.5}
            axes.barh(places, values, tall * 0.9, label=name, **look)
            for place, value in zip(places, values, strict=True):
                axes.text(value + most * 0.01, place, f"{value:.0f}", va="center", fontsize=6.5)
        axes.set(xlabel=what, xlim=(0, most * 1.12), ylim=(len(sizes) - 0.5, -0.5))
        axes.set_yticks(range(len(sizes)), _spoken(sizes.index))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.legend_below(figure, columns=5)
    return figure


@styled
def training_curves(
    history: pd.DataFrame, dataset: str | None = None, limited: bool = False
) -> Figure:
    """What a training did, epoch by epoch; what has another unit has a panel of its own.

    Args:
        history: history.csv: `epoch` and a column per quantity; `val/…` is validation, all else
            of training. `lr…` is a rate, beside others that of the encoder; names of `ACCURACIES`
            are shares, 0..1; names that have one of `AS_THEY_ARE` are neither; everything else is
            a loss. Losses or rates of very different sizes stand on a logarithmic axis.
        dataset: its name.
        limited: data.limit was set; the figure says so.

    Raises:
        InputError: there is nothing beside the epochs.
    """
    tables.need(history, ["epoch"], "history")
    panels = {title: [] for title in HISTORY}
    for name in history.columns.drop(["epoch", "step", "seconds", "dataset"], errors="ignore"):
        if pd.api.types.is_numeric_dtype(history[name]) and history[name].notna().any():
            panels[_quantity(name)].append(name)
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise InputError("history: no quantity beside epoch; nothing to draw")
    wide = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    tall = -(-len(panels) // wide)
    figure = style.new(history, dataset, limited, 0.3 + 2.4 * tall)
    grid = list(figure.subplots(tall, wide, squeeze=False).flat)
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for name, look in style.looks(names).items():
            rows = history[["epoch", name]].dropna()
            look["markevery"] = max(1, len(rows) // 8)
            own = name == "lr" and len(names) > 1
            said = "encoder" if own else name.split("/", 1)[-1]
            axes.plot(rows["epoch"], rows[name], label=said, **look)
        axes.set(title=title, xlabel="epoch")
        highest = history[names].max()
        if title.endswith("accuracy"):
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(style.PERCENT)
        elif history[names].min().min() >= 0 and highest.max() > APART * highest.min() > 0:
            axes.set_yscale("log")
            lowest = max(history[names].min().min() * 0.7, highest.min() / 100)
            axes.set_ylim(lowest, highest.max() * 1.5)
        else:
            low = axes.get_ylim()[0] if history[names].min().min() < 0 else 0
            axes.set_ylim(bottom=min(0, low))
            if title == "learning rate":
                axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(True)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "handlelength": 3}
        axes.legend(ncols=2 if len(names) > 2 else 1, **below)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _quantity(name: str) -> str:
    """The panel of a column of history.csv."""
    what, front = name.rsplit("/", 1)[-1], "validation" if name.startswith("val") else "training"
    if what.startswith("lr") or name.startswith("lr"):
        return "learning rate"
    if any(part in what for part in AS_THEY_ARE):
        return "other quantities"
    return f"{front} accuracy" if what.startswith(ACCURACIES) else f"{front} loss"
