"""How every figure looks, and what each says of its data set.

Every figure is as wide as one text column or as two, with letters of 7 to 8.5 points there, in
colours that colour-blind readers tell apart, and in line styles, markers and hatches that a grey
copy keeps. A figure names its data set; where the table has no column `dataset` the caller does, so
that none on drawn hands can fail to say "demo figures".
"""

from collections.abc import Sequence
from textwrap import fill

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import (
    PercentFormatter,
)

from clipfh_lib.files import InputError
from clipfh_lib.reports import tables

COLUMN, WIDTH = 88 / 25.4, 180 / 25.4  # inches: one and two text columns of a journal's page
SMALL = 7  # points, of the smallest letters
MOST = 7  # series in one panel, each with a colour of its own
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: alike on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.titlesize": 8.5,
    "figure.titleweight": "normal",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
}
# Okabe and Ito's colours (Color Universal Design, 2008), each with a line and a marker of its own.
# Neighbours in this order differ by at least 11 in lightness (CIE L*), which a grey copy keeps.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
GREY = "#6E6E6E"
LOOKS = [
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (VERMILION, "-.", "^"),
    (SKY, (0, (5, 1, 1, 1, 1, 1)), "v"),
    (GREEN, (0, (7, 2)), "P"),
    ("#000000", (0, (1, 1)), "*"),
    (PURPLE, (0, (3, 1)), "X"),
]
WEIGHTS = {  # the same look in every figure
    "trained": LOOKS[0],
    "pretrained": LOOKS[1],
    "untrained": LOOKS[2],
    "trained_reranked": LOOKS[3],
    "pretrained_reranked": LOOKS[4],
    "untrained_reranked": LOOKS[6],
    "pixels": (GREY, ":", "D"),
}
ASPECTS = {
    "dorsal_r": "dorsal right",
    "dorsal_l": "dorsal left",
    "palmar_r": "palmar right",
    "palmar_l": "palmar left",
    "all": "all aspects together",
}
GALLERIES = {  # beside `default` and `enrolled`, the only ones of their figures
    "same_aspect": "gallery of the same aspect",
    "all_aspects": "gallery of all aspects",
}
KINDS = {  # of comparisons: colour, line, hatch
    "mated": (BLUE, "-", "////"),
    "non-mated": (VERMILION, "--", "\\\\\\\\"),
    "distractor": ("#000000", ":", ""),
}
FARS = {0.01: (0, (6, 2)), 0.001: (0, (1, 1.5))}  # of thresholds: lines
SCORES = {"cosine": "cosine similarity", "euclidean": "minus the Euclidean distance"}
METRICS = {"rank1": "rank-1", "mAP": "mAP", "mAP_trapezoid": "mAP (trapezoid)", "mINP": "mINP"}
PERCENT = PercentFormatter(1, symbol=" %")
INTERVAL = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 1.5}
styled = matplotlib.rc_context(STYLE)


def headline(frame: pd.DataFrame, dataset: str | None, limited: bool = False) -> str:
    """The line above a figure: its data sets, and what must be said of each.

    Raises:
        InputError: nobody says which data set this is.
    """
    if dataset is None and "dataset" not in frame:
        raise InputError("figure: the table has no column dataset; pass dataset=..., as p.dataset")
    names = {dataset: limited}
    if dataset is None:
        of_rows = frame["limited"] if "limited" in frame else pd.Series(limited, frame.index)
        names = of_rows.groupby(frame["dataset"], sort=False).any().to_dict()
    said = {str(name): tables.remark(str(name), of or limited) for name, of in names.items()}
    named = ", ".join(f"{n} ({text})" if text else n for n, text in said.items())
    return f"data set {named}" if named else ""


def new(
    frame: pd.DataFrame,
    dataset: str | None,
    limited: bool,
    height: float,
    width: float = WIDTH,
    said: str = "",
) -> Figure:
    """An empty figure with its headline.

    Args:
        frame: what is drawn; names its data sets where `dataset` does not.
        dataset: its name.
        limited: data.limit was set.
        height: inches, of a headline of one line; each more makes the figure higher.
        width: inches, COLUMN or WIDTH.
        said: what the headline says after the data set, e.g. what was left out.
    """
    text = ", ".join(filter(None, [headline(frame, dataset, limited), said]))
    text = fill(text, round(15.5 * width))
    figure = Figure(figsize=(width, height + 0.13 * text.count("\n")), layout="constrained")
    figure.suptitle(text, x=0.01, ha="left")
    return figure


def saying(frame: pd.DataFrame, dataset: str | None, limited: bool, text: str) -> Figure:
    """A figure that says why there is nothing to draw; without axes Jupyter would not show it."""
    text = fill(text, round(14.5 * COLUMN))
    figure = new(frame, dataset, limited, 0.75 + 0.13 * text.count("\n"), COLUMN)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure


def looks(labels: Sequence[str]) -> dict[str, dict]:
    """Colour, line and marker of each label: fixed for weights, else in turn; pixels are grey."""
    if all(label in WEIGHTS for label in labels):
        return {label: _look(WEIGHTS[label]) for label in labels}
    free = (_nth(number) for number in range(len(labels)))
    return {n: _look(WEIGHTS["pixels"] if n == "pixels" else next(free)) for n in labels}


def _nth(number: int) -> tuple:
    """A look for each of 49 labels: after seven the colours come again, with other lines."""
    turn, place = divmod(number, len(LOOKS))
    return (LOOKS[place][0], *LOOKS[(place + 3 * turn) % len(LOOKS)][1:])


def _look(of: tuple) -> dict:
    return dict(zip(("color", "linestyle", "marker"), of, strict=True))


def legend_below(figure: Figure, columns: int = 4, first: Sequence[str] = ()) -> None:
    """One legend for all panels, below them, those of `first` first; the figure grows by it."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = {n: found[n] for n in dict.fromkeys([*first, *found]) if n in found}
    letters = 17.5 * figure.get_figwidth()
    columns = max(1, min(columns, len(found), int(letters / (max(map(len, found), default=0) + 9))))
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(found) // columns))
    place = "outside lower center"
    figure.legend(found.values(), found.keys(), loc=place, ncols=columns, handlelength=3.2)


def spoken(values: pd.Index) -> list[str]:
    """Names of aspects in words; other names as they are."""
    words = {**ASPECTS, "all": "all"}
    return [words.get(str(value), str(value)) for value in values]
