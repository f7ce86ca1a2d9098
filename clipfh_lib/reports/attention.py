"""Pictures with their maps -> Figures: both sides of pairs, one person, the mean of an aspect.

Pictures are uint8 (N, H, W, 3), maps (N, H, W) from 0 to 1. A map is drawn in colour over the grey
picture, with a line around what is above half of its greatest, which a grey copy keeps. Where a map
is the same everywhere the panel says so and shows the picture alone.
"""

from collections.abc import Sequence
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfh_lib.files import InputError
from clipfh_lib.reports import style, tables
from clipfh_lib.reports.style import styled

# Attention is the same whatever an image is held against; wherever it is drawn, that is said.
NAMES = {
    "grad_cam": "Grad-CAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "rollout": "attention rollout (ignores its target)",
    "class_attention": "last-layer attention (ignores its target)",
    "random": "random maps",
}
NOTHING = "map is flat:\nnothing to draw"
MAP = matplotlib.colormaps["YlOrRd"]
LEVEL = 0.5  # of the greatest: where the line is drawn
SIDES = ("query", "found")


@styled
def pairs(
    table: pd.DataFrame,
    pictures: np.ndarray,
    heat: dict[str, np.ndarray],
    dataset: str | None = None,
    limited: bool = False,
    said: str = "",
) -> Figure:
    """Pairs, both sides one below the other: the pictures, then their maps side by side.

    Args:
        table: a row a pair: `test_aspect, pid, found_pid, similarity`.
        pictures: (2, N, H, W, 3), first the queries.
        heat: by the name that stands above the column, (2, N, H, W).
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        said: what else the headline says.

    Raises:
        InputError: not one picture and map for each row.
    """
    tables.need(table, ["test_aspect", "pid", "found_pid", "similarity"], "pairs")
    _check(table, pictures[0], {name: each[0] for name, each in heat.items()})
    if table.empty:
        return style.saying(table, dataset, limited, "no such pair among these queries")
    names = ["photograph", *map(named, heat)]
    across = 2 if len(names) <= 3 else 1  # sides in a row of panels
    gap = [0.06] if across == 2 else []
    widths = [*[1] * len(names), *gap, *([1] * len(names) if across == 2 else [])]
    tall, lines = _tall(pictures[0], max(sum(widths), 5) + 0.6), 2 * len(table) // across
    figure = style.new(table, dataset, limited, 0.55 + (tall + 0.06) * lines, said=said)
    grid = figure.subplots(lines, len(widths), squeeze=False, width_ratios=widths)
    for number, one in enumerate(table.itertuples()):
        aspect = style.ASPECTS.get(one.test_aspect, one.test_aspect)
        texts = [f"person {one.pid}\n{aspect}", f"person {one.found_pid}"]
        texts[1] += f"\ncosine {one.similarity:.2f}"
        for side in (0, 1):
            row = grid[(2 * number + side) // across]
            row = row[-len(names) :] if side and across == 2 else row[: len(names)]
            _picture(row[0], pictures[side, number])
            for axes, each in zip(row[1:], heat.values(), strict=True):
                _overlaid(axes, pictures[side, number], each[side, number])
            if across == 1:
                _beside(row[0], f"{SIDES[side]}\n{texts[side]}")
        if across == 2:
            grid[number, len(names)].axis("off")
            text = f"query {texts[0]}\nfound {texts[1]}"
            _beside(grid[number, 0], text)
    for axes, name in zip(grid[0], names, strict=False):
        name = fill(name, 110 // len(widths))
        axes.set_title(f"query\n{name}" if across == 2 else name)
    for axes, name in zip(grid[0][len(names) + 1 :], names, strict=False):
        axes.set_title(f"found\n{fill(name, 110 // len(widths))}")
    return figure


@styled
def wrong(
    table: pd.DataFrame,
    pictures: np.ndarray,
    heat: np.ndarray,
    dataset: str | None = None,
    limited: bool = False,
    said: str = "",
) -> Figure:
    """Wrong first matches with the right one beside: the query's map towards each, and theirs.

    Args:
        table: as for `pairs`, with `kind` and `rank`; each row `wrong` has its `missed` behind it.
        pictures: (2, N, H, W, 3), first the queries.
        heat: (2, N, H, W).
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        said: what else the headline says, e.g. which map it is.

    Raises:
        InputError: not one picture and map for each row, or a wrong one without its missed one.
    """
    tables.need(table, ["kind", "pid", "found_pid", "similarity", "rank"], "pairs")
    _check(table, pictures[0], {"": heat[0]})
    if list(table["kind"]) != ["wrong", "missed"] * (len(table) // 2):
        raise InputError("pairs: each wrong match needs its missed one in the next row")
    if table.empty:
        return style.saying(table, dataset, limited, "no query among these has a wrong first match")
    widths = [1, 0.06, 1, 1, 0.06, 1, 1]
    tall = _tall(pictures[0], sum(widths) + 0.2)
    figure = style.new(table, dataset, limited, 0.7 + (tall + 0.2) * len(table) / 2, said=said)
    grid = figure.subplots(len(table) // 2, len(widths), squeeze=False, width_ratios=widths)
    for row, number in zip(grid, range(0, len(table), 2), strict=True):
        first = table.iloc[number]
        _picture(row[0], pictures[0, number], f"person {first['pid']}")
        for start, place in ((2, number), (5, number + 1)):
            one = table.iloc[place]
            texts = (
                f"cosine {one['similarity']:.2f}",
                f"person {one['found_pid']}" + f", rank {one['rank']:.0f}" * (start == 5),
            )
            for side in (0, 1):
                axes = row[start + side]
                _overlaid(axes, pictures[side, place], heat[side, place], texts[side])
        row[1].axis("off")
        row[4].axis("off")
    names = ["query", "", "query, held\nagainst ✗", "✗ first match", "", "query, held\nagainst ✓"]
    for axes, name in zip(grid[0], [*names, "✓ right image"], strict=True):
        axes.set_title(name)
    return figure


@styled
def person(
    lines: Sequence[tuple[str, pd.DataFrame, np.ndarray, np.ndarray]],
    dataset: str | None = None,
    limited: bool = False,
    said: str = "",
) -> Figure:
    """One person over several images: the pictures, below them their maps; a block for each line.

    Args:
        lines: what the map explains, the images (`pid` and, where known, `aspect`), their pictures
            and their maps.
        dataset: its name, where the tables have no such column.
        limited: data.limit was set; the figure says so.
        said: what else the headline says.
    """
    for _, table, pictures, heat in lines:
        _check(table, pictures, {"": heat})
    wide = max(len(table) for _, table, _, _ in lines)
    tall = _tall(lines[0][2], wide + 0.75)
    figure = style.new(
        lines[0][1], dataset, limited, 0.25 + (2 * tall + 0.15) * len(lines), said=said
    )
    grid = figure.subplots(2 * len(lines), wide, squeeze=False)
    for number, (what, table, pictures, heat) in enumerate(lines):
        above, below = grid[2 * number : 2 * number + 2]
        for place in range(wide):
            if place < len(table):
                _picture(above[place], pictures[place])
                _overlaid(below[place], pictures[place], heat[place])
            else:
                above[place].axis("off")
                below[place].axis("off")
        one = table.iloc[0]
        aspect = style.ASPECTS.get(one.get("aspect"), "")
        _beside(above[0], f"person {one['pid']}" + f"\n{aspect}" * bool(aspect))
        _beside(below[0], fill(what, 16))
    return figure


@styled
def mean_maps(
    aspects: Sequence[str],
    pictures: np.ndarray,
    heat: dict[str, np.ndarray],
    dataset: str | None = None,
    limited: bool = False,
    said: str = "",
) -> Figure:
    """The mean map of each aspect over the mean of its pictures; flat maps are left out.

    Args:
        aspects: (N,) the aspect of each picture.
        pictures: (N, H, W, 3).
        heat: by name, (N, H, W).
        dataset: its name; none is refused, since there is no table.
        limited: data.limit was set; the figure says so.
        said: what else the headline says.
    """
    aspects = np.asarray(aspects)
    _check(pd.DataFrame({"aspect": aspects}), pictures, heat)
    names = tables.aspects(pd.Series(aspects))
    table = pd.DataFrame({"aspect": aspects})
    tall = _tall(pictures, max(len(names), 4) + 0.6)
    figure = style.new(table, dataset, limited, 0.5 + (tall + 0.05) * len(heat), said=said)
    grid = figure.subplots(len(heat), max(len(names), 4), squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for line, (row, (name, each)) in enumerate(zip(grid, heat.items(), strict=True)):
        _beside(row[0], fill(named(name), 12))
        for axes, aspect in zip(row, names, strict=False):
            axes.axis("on")
            mine = (aspects == aspect) & (np.ptp(each, axis=(1, 2)) > 0)
            ground = pictures[aspects == aspect].mean(axis=0).astype(np.uint8)
            mean = each[mine].mean(axis=0) if mine.any() else np.zeros(each.shape[1:])
            _overlaid(axes, ground, mean / max(mean.max(), 1e-12))
            if line == 0:
                number = (aspects == aspect).sum()
                axes.set_title(f"{style.ASPECTS.get(aspect, aspect)}\n{number} images")
    return figure


def named(name: str) -> str:
    """How a map is called in print."""
    return NAMES.get(name, name)


def _tall(pictures: np.ndarray, columns: float) -> float:
    """Height in inches of a picture that is one of so many columns."""
    return style.WIDTH / columns * pictures.shape[1] / pictures.shape[2]


def _picture(axes: Axes, picture: np.ndarray, caption: str = "") -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=7, labelpad=2)
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor="0.6", linewidth=0.5)


def _overlaid(axes: Axes, picture: np.ndarray, heat: np.ndarray, caption: str = "") -> None:
    """A map in colour over the grey picture, or the picture and why there is no map."""
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) / 255
    if np.ptp(heat) == 0:
        _picture(axes, 0.5 + 0.5 * grey, caption)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes, "fontsize": 7}
        axes.text(0.5, 0.5, NOTHING, bbox=box, **middle)
        return
    cover = 0.75 * np.sqrt(heat)[:, :, None]
    both = (1 - cover) * grey + cover * MAP(heat)[:, :, :3]
    _picture(axes, both.clip(0, 1), caption)
    axes.contour(heat, [LEVEL], colors="black", linewidths=0.6)


def _beside(axes: Axes, text: str) -> None:
    """What a row is, left of its first picture."""
    place = {"ha": "right", "va": "center", "transform": axes.transAxes, "fontsize": 7}
    axes.text(-0.06, 0.5, text, **place)


def _check(table: pd.DataFrame, pictures: np.ndarray, heat: dict[str, np.ndarray]) -> None:
    for name, each in heat.items():
        if not len(table) == len(pictures) == len(each):
            raise InputError(
                f"maps {name}: {len(each)} maps and {len(pictures)} pictures for {len(table)} rows"
            )
