"""What a figure shows of a table: which series, in which panels.

A panel stands for a data set, a test aspect and a gallery; numbers of two are never mixed in one.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfh_lib.reports import style, tables


def series(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column `label`, one per run and weights; what is equal stands once.

    Equal are the `pixels` of all runs, plain rows of recipes that differ in re-ranking, and weights
    that no run trained, which every method that starts from them measures again.
    """
    if "label" not in frame:
        named = "method" in frame or "backbone" in frame
        frame = frame.assign(label=tables.labels(frame) if named else frame["weights"])
    place = ("dataset", "test_aspect", "gallery", "subset", "metric", "rank", "threshold")
    place = ["label", *(column for column in place if column in frame)]
    values = [c for c in ("value", "far", "frr", "fpir", "fnir") if c in frame]
    frame = frame[~frame["label"].isin(_doubles(frame, [*place[1:], *values]))]
    pixels = frame["weights"] == "pixels"
    frame = frame[~(pixels & frame.duplicated([*place, *values]))]
    differ = (frame["weights"] == "pixels") & frame.duplicated(place, keep=False)
    if differ.any() and "run" in frame:  # measured on other images, by a limit or a seed of splits
        frame = frame.assign(label=frame["label"].where(~differ, "pixels (" + frame["run"] + ")"))
    return frame


def _doubles(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    """Labels of a run whose every number is that of another recipe with all else alike.

    Of weights that no run trained, neither method nor seed count.
    """
    if "recipe" not in frame:
        return []
    who = frame[[c for c in ("dataset", "method", "backbone", "seed", "weights") if c in frame]]
    who = who.astype(str)
    taught = frame["weights"].str.startswith("trained")
    for column in who.columns.intersection(["method", "seed"]):
        who[column] = who[column].where(taught, "")
    seen, doubled, kept = set(), set(), set()
    names = [frame["recipe"], frame["label"], *(who[column] for column in who)]
    for (_, label, *of), part in frame.groupby(names, sort=False):
        numbers = pd.util.hash_pandas_object(part[columns].round(9), index=False)
        print_ = (*of, tuple(sorted(numbers)))
        (doubled if print_ in seen and len(part) > 1 else kept).add(label)
        seen.add(print_)
    return sorted(doubled - kept)


def fewer(frame: pd.DataFrame, most: int = style.MOST) -> tuple[pd.DataFrame, str]:
    """Series that one panel can hold: of too many the first run of each backbone and method.

    First in the order of the table, which is the plan's: no test number chooses. Of a run its first
    weights are kept, which is what it trained or, of zero-shot, what it took; `pixels` stay. Where
    that is still too much, each backbone has a panel of its own (`rows`).

    Args:
        frame: of `series`; without `backbone` and `method` it comes back whole.
        most: series in a panel.

    Returns:
        The frame, and what a headline must say of it: "" if nothing was left out.
    """
    who = [name for name in ("dataset", "backbone", "method") if name in frame]
    if frame["label"].nunique() <= most or not {"backbone", "method"} <= set(frame):
        return frame, ""
    pixels, before = frame["weights"] == "pixels", frame["label"].nunique()
    first = frame[~pixels].groupby(who, sort=False)["label"].transform("first")
    frame = frame[pixels | (frame["label"] == first.reindex(frame.index))]
    backbones = list(frame.loc[frame["weights"] != "pixels", "backbone"].unique())
    if frame["label"].nunique() > most and len(backbones) > 1:
        pixels = frame["weights"] == "pixels"
        parts = [frame[(frame["backbone"] == one) | pixels].assign(panel=one) for one in backbones]
        frame = pd.concat(parts, ignore_index=True)
    alone = ["backbone"] * ("panel" in frame)  # one run each: its recipe tells nothing apart
    more = [name for name in ("recipe", "seed", "run", "overrides", *alone) if name in frame]
    names = tables.labels(frame.drop(columns=more))
    shown = len(frame.loc[frame["weights"] != "pixels", who].drop_duplicates())
    frame = frame.assign(label=names.where(frame["weights"] != "pixels", frame["label"]))
    return frame, f"the first run of each backbone and method, {shown} of {before} curves"


def rows(frame: pd.DataFrame) -> list[tuple[pd.DataFrame, str]]:
    """A figure's rows of panels: one per data set, backbone (`fewer`) and test aspect, with a name.

    Where aspects are pooled (`all`) that is the only row of its data set.
    """
    parts = [("", frame)]
    for column in ("dataset", "panel"):
        if column in frame and frame[column].nunique() > 1:
            parts = [
                (f"{front}{name}, ", part)
                for front, whole in parts
                for name, part in whole.groupby(column, sort=False)
            ]
    found = []
    for front, part in parts:
        here = tables.aspects(part["test_aspect"])
        for aspect in ["all"] if "all" in here else here:
            name = front + style.ASPECTS.get(aspect, aspect)
            found.append((part[part["test_aspect"] == aspect], name))
    return found


def galleries(frame: pd.DataFrame) -> list[str]:
    """The galleries of a table, in their order."""
    here = list(frame["gallery"].unique())
    known = [name for name in tables.GALLERIES if name in here]
    return known + [name for name in here if name not in known]


def panel_title(name: str, gallery: str) -> str:
    """What a panel shows: its row's name and its gallery, where a data set has more than one."""
    if gallery not in ("default", "enrolled"):
        gap = ",\n" if "," in name else ", "  # with the data set's name it takes two lines
        return f"{name}{gap}{style.GALLERIES.get(gallery, gallery)}"
    return name.removesuffix(style.ASPECTS["all"]).rstrip(", ")


def by_content(frame: pd.DataFrame, width: float | None) -> float:
    """The width that was asked for, else that of one text column for a single panel."""
    alone = sum(len(galleries(part)) for part, _ in rows(frame)) == 1
    return width or (style.COLUMN if alone else style.WIDTH)


def lines(frame: pd.DataFrame, width: float) -> int:
    """Rows of panels that `grid` makes in a figure of this width."""
    several = [len(galleries(part)) for part, _ in rows(frame)]
    return len(several) if width > style.COLUMN else sum(several)


def grid(figure: Figure, frame: pd.DataFrame) -> list[tuple[Axes, pd.DataFrame, str]]:
    """One panel per row (`rows`) and gallery, from the left, with what it shows and its title.

    In a figure of one text column the panels stand below each other.
    """
    parts = []
    for part, name in rows(frame):
        here = [(part[part["gallery"] == one], panel_title(name, one)) for one in galleries(part)]
        if figure.get_figwidth() > style.COLUMN:
            parts.append(here)
        else:
            parts += [[(one, text.replace(", gallery", ",\ngallery"))] for one, text in here]
    wide = max(map(len, parts))
    axes = figure.subplots(len(parts), wide, sharex=True, sharey=True, squeeze=False)
    found = []
    for row, here in zip(axes, parts, strict=True):
        found += [(panel, *shown) for panel, shown in zip(row, here, strict=False)]
        for panel in row[len(here) :]:
            panel.remove()
    return found


def label_outer(found: Sequence[tuple[Axes, pd.DataFrame, str]], x: str, y: str) -> None:
    """Titles for all panels, axis labels for the lowest and the leftmost ones."""
    places = [axes.get_subplotspec() for axes, _, _ in found]
    lowest = {place.colspan.start: place.rowspan.start for place in places}
    for (axes, _, title), place in zip(found, places, strict=True):
        low = lowest[place.colspan.start] == place.rowspan.start
        axes.set_title(title)
        axes.set_xlabel(x if low else "")
        axes.set_ylabel(y if place.is_first_col() else "")
        if low:
            axes.tick_params(labelbottom=True)
