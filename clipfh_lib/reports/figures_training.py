"""What a training saw and did -> Figures: sizes of the split, one history, several overlaid."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipfh_lib.files import InputError
from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

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
APART = 15  # times as large: then a linear axis would press the smaller curve flat
AS_THEY_ARE = ("scale", "temperature", "norm", "margin")


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
    both = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, what in zip(both, shown, strict=True):
        most = max(sizes[f"{role} {what}"].max() for role in roles)
        for number, (role, (name, fill, hatch)) in enumerate(roles.items()):
            values = sizes[f"{role} {what}"]
            places = np.arange(len(sizes)) + (number - (len(roles) - 1) / 2) * tall
            look = {"color": fill, "hatch": hatch, "edgecolor": style.BLUE, "lw": 0.5}
            axes.barh(places, values, tall * 0.9, label=name, **look)
            for place, value in zip(places, values, strict=True):
                axes.text(
                    value + most * 0.01, place, f"{value:.0f}", va="center", fontsize=style.SMALL
                )
        axes.set(xlabel=what, xlim=(0, most * 1.12), ylim=(len(sizes) - 0.5, -0.5))
        axes.set_yticks(range(len(sizes)), style.spoken(sizes.index))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.legend_below(figure, columns=5)
    return figure


@styled
def training_curves(
    history: pd.DataFrame,
    dataset: str | None = None,
    limited: bool = False,
    width: float | None = None,
) -> Figure:
    """What a training did, epoch by epoch; what has another unit has a panel of its own.

    Args:
        history: history.csv: `epoch` and a column per quantity; `val/…` is validation, all else
            of training. `lr…` is a rate, beside others that of the encoder; names of `ACCURACIES`
            are shares, 0..1; names that have one of `AS_THEY_ARE` are neither; everything else is
            a loss. Losses or rates of very different sizes stand on a logarithmic axis.
        dataset: its name.
        limited: data.limit was set; the figure says so.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of panels.

    Raises:
        InputError: there is nothing beside the epochs.
    """
    tables.need(history, ["epoch"], "history")
    parts = {title: [] for title in HISTORY}
    for name in history.columns.drop(["epoch", "step", "seconds", "dataset"], errors="ignore"):
        if pd.api.types.is_numeric_dtype(history[name]) and history[name].notna().any():
            parts[_quantity(name)].append(name)
    parts = {title: names for title, names in parts.items() if names}
    if not parts:
        raise InputError("history: no quantity beside epoch; nothing to draw")
    width = width or (style.COLUMN if len(parts) == 1 else style.WIDTH)
    wide = len(parts) if len(parts) < 4 else -(-len(parts) // 2)
    wide = wide if width > style.COLUMN else 1
    tall = -(-len(parts) // wide)
    each = 2.4 if width > style.COLUMN else 1.9
    figure = style.new(history, dataset, limited, 0.3 + each * tall, width)
    grid = list(figure.subplots(tall, wide, squeeze=False).flat)
    for axes, (title, names) in zip(grid, parts.items(), strict=False):
        for name, look in style.looks(names).items():
            rows = history[["epoch", name]].dropna()
            look["markevery"] = max(1, len(rows) // 8)
            own = name == "lr" and len(names) > 1
            said = "encoder" if own else name.split("/", 1)[-1]
            axes.plot(rows["epoch"], rows[name], label=said, **look)
        axes.set(title=title, xlabel="epoch")
        _upright(axes, history[names].max(), history[names].min().min(), title)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.35 / (each - 0.9))}
        axes.legend(ncols=2 if len(names) > 2 else 1, handlelength=3, **below)
    for axes in grid[len(parts) :]:
        axes.remove()
    return figure


@styled
def histories(
    histories: pd.DataFrame,
    names: Sequence[str] = ("train/loss", "val/loss", "val/mAP"),
    width: float | None = None,
) -> Figure:
    """What several trainings did, one over the other: a row for each data set, a panel a quantity.

    Losses of two methods are sums of different terms: compare their course, not their height. Of
    more runs than colours those of `panels.fewer`. Where no run kept such a quantity the figure
    says so.

    Args:
        histories: of `tables.read_curves(folders, "history")`.
        names: columns of history.csv; what no run has is left out.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of quantities.
    """
    names = [name for name in names if name in histories and histories[name].notna().any()]
    if not names:
        return style.saying(histories, None, False, "no run of these was trained")
    tables.need(
        histories, ["dataset", "epoch", "method", "backbone", "recipe", "seed"], "histories"
    )
    labelled = histories.assign(weights="trained")
    labelled["label"] = tables.labels(labelled).str.replace(r" ?\btrained$", "", regex=True)
    labelled["label"] = labelled["label"].replace("", "the run")
    frame, said = panels.fewer(labelled)
    frame["label"] = frame["label"].str.replace(r" ?\btrained\b", "", regex=True)
    looks = style.looks(list(frame["label"].unique()))
    frame = frame[frame[names].notna().any(axis=1)]
    sets = list(frame.groupby("dataset", sort=False))
    width = width or (style.COLUMN if len(names) == 1 else style.WIDTH)
    wide = len(names) if width > style.COLUMN else 1
    tall = -(-len(names) // wide) * len(sets)
    figure = style.new(frame, None, False, 0.5 + 1.9 * tall, width, said)
    grid = list(figure.subplots(tall, wide, squeeze=False).flat)
    wanted = [(dataset, part, name) for dataset, part in sets for name in names]
    for number, (axes, (dataset, part, name)) in enumerate(zip(grid, wanted, strict=True)):
        for label, rows in part.groupby("label", sort=False):
            rows = rows[["epoch", name]].dropna().sort_values("epoch")
            if len(rows):
                every = max(1, len(rows) // 8)
                axes.plot(rows["epoch"], rows[name], markevery=every, label=label, **looks[label])
        if part[name].isna().all():
            axes.remove()
            continue
        front = f"{dataset}, " if len(sets) > 1 else ""
        axes.set_title(front + _spoken(name))
        axes.set_xlabel("epoch" if number >= len(wanted) - wide else "")
        _upright(axes, part.groupby("label")[name].max(), part[name].min(), _quantity(name))
    style.legend_below(figure)
    return figure


def _spoken(name: str) -> str:
    """A column of history.csv in words: "val/mAP" is "mAP of validation"."""
    front, _, what = name.rpartition("/")
    of = {"train": " of training", "val": " of validation"}.get(front, "")
    return style.METRICS.get(what, what) + of


def _upright(axes: Axes, highest: pd.Series, lowest: float, title: str) -> None:
    """Ends and scale of the upright axis: of shares 0..1, of very different sizes logarithmic."""
    if title.endswith("accuracy"):
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(style.PERCENT)
    elif lowest >= 0 and highest.max() > APART * highest.min() > 0:
        axes.set_yscale("log")
        axes.set_ylim(max(lowest * 0.7, highest.min() / 100), highest.max() * 1.5)
    else:
        low = axes.get_ylim()[0] if lowest < 0 else 0
        axes.set_ylim(min(0, low), max(highest.max() * 1.06, 1e-12))
        if title == "learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(True)


def _quantity(name: str) -> str:
    """The panel of a column of history.csv."""
    what, front = name.rsplit("/", 1)[-1], "validation" if name.startswith("val") else "training"
    if what.startswith("lr") or name.startswith("lr"):
        return "learning rate"
    if any(part in what for part in AS_THEY_ARE):
        return "other quantities"
    return f"{front} accuracy" if what.startswith(ACCURACIES) else f"{front} loss"
