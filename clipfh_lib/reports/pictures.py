"""Pictures with their tables -> Figures: sample sheets, ranked lists, what sentences found.

Pictures are uint8 (N, H, W, 3), one for each row of the table that comes with them.
"""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfh_lib.files import InputError
from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

RIGHT, WRONG = ("✓", style.BLUE, "-"), ("✗", style.VERMILION, (0, (2, 1)))
RANKED = [f"top_{rank}" for rank in range(1, 11)]


@styled
def image_grid(
    table: pd.DataFrame,
    pictures: np.ndarray,
    dataset: str | None = None,
    limited: bool = False,
    group: str | None = "aspect",
    captions: str = "pid",
    columns: int = 8,
) -> Figure:
    """A sample sheet: pictures in rows of groups, each with a short caption.

    Args:
        table: a row for each picture, e.g. of `tables.sample`.
        pictures: (N, H, W, 3) uint8.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        group: the column whose values get rows of their own; none for a plain sheet.
        captions: the column that is written below each picture, in several lines if it is long;
            people read "person 1051".
        columns: pictures side by side.

    Raises:
        InputError: no picture, or not one for each row.
    """
    _check(table, pictures)
    tables.need(table, [captions] + [group] * bool(group), "pictures")
    groups = list(table[group].unique()) if group else [""]
    lines = []  # (name of the group or none, positions of its pictures)
    for name in groups:
        places = np.flatnonzero(table[group] == name) if group else np.arange(len(table))
        for start in range(0, len(places), columns):
            lines.append((name if start == 0 else "", places[start : start + columns]))
    tall = style.WIDTH / (columns + 0.5 * bool(group)) * pictures.shape[1] / pictures.shape[2]
    said = [f"{'person ' * (captions == 'pid')}{value}" for value in table[captions]]
    said = [wrap(text, 136 // columns, max_lines=5, placeholder=" …") or [""] for text in said]
    below = 0.1 + 0.115 * max(len(text) for text in said)
    figure = style.new(table, dataset, limited, 0.35 + (tall + below) * len(lines))
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for row, (name, places) in zip(grid, lines, strict=True):
        for axes in row:
            axes.axis("off")
        for axes, place in zip(row, places, strict=False):
            caption = "\n".join(said[place])
            axes.imshow(pictures[place])
            below = {"ha": "center", "va": "top", "fontsize": style.SMALL}
            axes.text(0.5, -0.04, caption, transform=axes.transAxes, **below)
        if name:
            spoken = style.ASPECTS.get(str(name), str(name)).replace(" ", "\n")
            row[0].text(-0.1, 0.5, spoken, transform=row[0].transAxes, ha="right", va="center")
    return figure


@styled
def ranked_lists(
    ranks: pd.DataFrame,
    images: pd.DataFrame,
    pictures: np.ndarray,
    dataset: str | None = None,
    limited: bool = False,
    shown: int = 6,
) -> Figure:
    """Queries, each followed by what was found, rank 1 first from left to right.

    A right image has a whole blue frame and a tick, a wrong one a dashed red frame and a cross.
    Right is what the ranking counted as right: in the gallery of all aspects the same person's
    other hands are wrong.

    Args:
        ranks: rows of ranks.csv, one line of pictures each, e.g. of `tables.extreme_queries`,
            whose column `kind` is then written beside the query.
        images: `image_id, pid` (and `aspect`) of all queries and gallery images in `ranks`.
        pictures: (N, H, W, 3) uint8, in the order of `images`.
        dataset: its name, where the tables have no such column.
        limited: data.limit was set; the figure says so.
        shown: how many gallery images, at most 10.

    Raises:
        InputError: no query, or a picture is missing.
    """
    _check(images, pictures)
    tables.need(ranks, ["query", "pid", "rank", "ranks", "top_1"], "ranks")
    if ranks.empty:
        raise InputError("ranks: no query to show")
    place = {image: number for number, image in enumerate(images["image_id"])}
    top = [name for name in RANKED[:shown] if name in ranks]
    tall = style.WIDTH / (len(top) + 1.2) * pictures.shape[1] / pictures.shape[2]
    if dataset is None and "dataset" in images:
        dataset = ", ".join(images["dataset"].astype(str).unique())
    below = 0.44 if "kind" in ranks else 0.32
    figure = style.new(ranks, dataset, limited, 0.45 + (tall + below) * len(ranks))
    if {"weights", "test_aspect", "gallery"} <= set(ranks):
        weights, aspect, gallery = ranks[["weights", "test_aspect", "gallery"]].iloc[0]
        where = panels.panel_title(style.ASPECTS.get(aspect, aspect), gallery)
        said = ", ".join(filter(None, [figure.get_suptitle(), weights, where]))
        figure.suptitle(said, x=0.01, ha="left")
    widths = [1, 0.12, *[1] * len(top)]
    mixed = "aspect" in images and "gallery" in ranks and set(ranks["gallery"]) == {"all_aspects"}
    grid = figure.subplots(len(ranks), len(widths), squeeze=False, width_ratios=widths)
    for row, (_, query) in zip(grid, ranks.iterrows(), strict=True):
        row[1].axis("off")
        right = {int(float(rank)) for rank in str(query["ranks"]).split()}
        kind = f"{query['kind']}\n" if "kind" in query else ""
        first = "no right image" if pd.isna(query["rank"]) else f"right at rank {query['rank']:.0f}"
        name = f"{kind}person {query['pid']}\n{first}"
        picture = pictures[_place(place, query["query"])]
        framed(row[0], picture, name, "black", "-")
        for rank, (axes, column) in enumerate(zip(row[2:], top, strict=True), 1):
            if pd.isna(query[column]):  # a gallery smaller than the row
                axes.axis("off")
                continue
            number = _place(place, query[column])
            sign, colour, line = RIGHT if rank in right else WRONG
            found = images.iloc[number]
            side = style.ASPECTS.get(found["aspect"], "") if mixed else ""
            caption = f"{sign} {found['pid']}" + f"\n{side}" * bool(side)
            framed(axes, pictures[number], caption, colour, line)
    grid[0, 0].set_title("query")
    for rank, axes in enumerate(grid[0, 2:], 1):
        axes.set_title(f"rank {rank}")
    return figure


@styled
def searched(
    found: pd.DataFrame,
    pictures: np.ndarray,
    dataset: str | None = None,
    limited: bool = False,
) -> Figure:
    """Sentences, each with the pictures it found, rank 1 first from left to right.

    Below each picture stands its similarity. Where the right answers are known, a right one has a
    whole blue frame and a tick, a wrong one a dashed red frame and a cross.

    Args:
        found: `sentence, rank, similarity` and, where known, `right`, a row for each picture: of
            `text_image.shown`, or of `asking.Gallery.ask`. With a column `kind` (best, worst) it
            is written beside the sentence, and `first`, the rank of the first right answer.
        pictures: (N, H, W, 3) uint8, one for each row.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.

    Raises:
        InputError: no picture, or not one for each row.
    """
    _check(found, pictures)
    tables.need(found, ["sentence", "rank", "similarity"], "found")
    lines = list(found.reset_index(drop=True).groupby("sentence", sort=False))
    most = int(found["rank"].max())
    tall = style.WIDTH / (most + 1.7) * pictures.shape[1] / pictures.shape[2]
    figure = style.new(found, dataset, limited, 0.45 + max(tall + 0.25, 0.75) * len(lines))
    widths = [1.7, *[1] * most]
    grid = figure.subplots(len(lines), len(widths), squeeze=False, width_ratios=widths)
    for row, (sentence, part) in zip(grid, lines, strict=True):
        for axes in row:
            axes.axis("off")
        said = wrap(f"“{sentence}”", 26, max_lines=6, placeholder=" …")
        if "kind" in part:
            said.insert(0, f"{part['kind'].iloc[0]}, right at rank {part['first'].iloc[0]}:")
        text = {
            "ha": "left",
            "va": "center",
            "fontsize": style.SMALL,
            "transform": row[0].transAxes,
        }
        row[0].text(0, 0.5, "\n".join(said), **text)
        for place, one in part.iterrows():
            sign, colour, line = "", "black", "-"
            if "right" in part:
                sign, colour, line = RIGHT if one["right"] else WRONG
            axes = row[int(one["rank"])]
            axes.axis("on")
            caption = f"{sign} {one['similarity']:.2f}".strip()
            framed(axes, pictures[place], caption, colour, line)
    for rank, axes in enumerate(grid[0, 1:], 1):
        axes.set_title(f"rank {rank}")
    return figure


def _place(place: dict[str, int], image: str) -> int:
    if image not in place:
        raise InputError(f"images: no row {image}, which a ranking names; pass all its images")
    return place[image]


def framed(axes: Axes, picture: np.ndarray, caption: str, colour: str, line: object) -> None:
    """A picture in a frame of that colour and line, with its caption below."""
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=colour, linewidth=1.6, linestyle=line, capstyle="butt")
    axes.set_xlabel(caption, fontsize=style.SMALL, color=colour, labelpad=2)


def _check(table: pd.DataFrame, pictures: np.ndarray) -> None:
    if len(table) == 0:
        raise InputError("pictures: none to show; the table is empty")
    if len(pictures) != len(table):
        raise InputError(f"pictures: {len(pictures)} pictures for {len(table)} rows of the table")
