"""Prompts of images -> tables to read and a Figure: what is said, what was cleaned, who differs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipfh_lib.reports import style, tables
from clipfh_lib.reports.style import styled

LEAST, BARS = 6, 20  # attributes that there is room for, and at the most


def examples(prompts: pd.DataFrame, images: int = 6, each: int = 3) -> pd.DataFrame:
    """Prompts of some images, a row each, images of people spread over the table.

    Args:
        prompts: of `data.wording`: `image_id, pid, prompt`.
        images: at the most.
        each: prompts of an image at the most; `more` counts the others.
    """
    tables.need(prompts, ["image_id", "pid", "prompt"], "prompts")
    first = prompts.drop_duplicates("pid").sort_values("pid")
    chosen = first.iloc[_spread(len(first), images)]["image_id"]
    own = prompts[prompts["image_id"].isin(chosen)]
    place = own.groupby("image_id").cumcount()
    more = own.groupby("image_id")["prompt"].transform("size") - each
    shown = own.assign(more=more.where(place == each - 1, 0).clip(lower=0))[place < each]
    shown = shown if shown["more"].any() else shown.drop(columns="more")
    return shown.sort_values(["pid", "image_id"], kind="stable").reset_index(drop=True)


def _spread(count: int, number: int) -> Sequence[int]:
    """At most so many places of a table, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, number)).round().astype(int))


def cleaning(report: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """What cleaning counted, to read: without lines on what did not occur, but for warnings.

    Args:
        report: of `data.tidying.clean` or `data.agreement.leaks`, or both below each other.
        dataset: the data set's name.
    """
    tables.need(report, ["what", "count", "example"], "report")
    shown = report[(report["count"] > 0) | report["what"].str.startswith("prompts")]
    shown = shown.rename(columns={"example": "for example"}).reset_index(drop=True)
    remark = tables.remark(dataset)
    return shown.assign(remark=remark) if remark else shown


def unlike(people: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """The people whose prompts differ most from image to image.

    Args:
        people: of `data.agreement.consistency`.
        count: rows at the most.
    """
    tables.need(people, ["pid", "images", "prompts", "stable", "conflicts"], "people")
    found = people[~people["stable"].astype(bool)]
    found = found.sort_values("prompts", ascending=False, kind="stable").drop(columns="stable")
    return found.head(count).reset_index(drop=True)


def attributes(found: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """For each attribute in how many people it conflicts, to read.

    Args:
        found: `attributes` of `data.agreement.consistency`.
        dataset: the data set's name.
    """
    tables.need(found, ["attribute", "people", "conflicts", "example"], "attributes")
    share = (found["conflicts"] / found["people"].where(found["people"] > 0)).map(
        lambda value: "–" if pd.isna(value) else f"{value:.1%}"
    )
    shown = found.assign(share=share).rename(columns={"example": "for example"})
    shown = shown[["attribute", "people", "conflicts", "share", "for example"]]
    remark = tables.remark(dataset)
    return shown.assign(remark=remark) if remark else shown


@styled
def consistency(
    people: pd.DataFrame,
    found: pd.DataFrame,
    dataset: str | None = None,
    limited: bool = False,
) -> Figure:
    """How many distinct prompts people have, and which attributes conflict within a person.

    Args:
        people: of `data.agreement.consistency`.
        found: `attributes` of the same.
        dataset: the data set's name.
        limited: data.limit was set; the figure says so.
    """
    tables.need(people, ["pid", "images", "prompts", "stable"], "people")
    tables.need(found, ["attribute", "people", "conflicts"], "attributes")
    if people.empty:
        return style.saying(people, dataset, limited, "no image has a prompt")
    shown = found.assign(share=found["conflicts"] / found["people"].clip(lower=1))
    shown = shown.sort_values("share", ascending=False, kind="stable").head(BARS)
    figure = style.new(people, dataset, limited, 1.7 + 0.14 * max(LEAST, len(shown)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    _distinct(left, people)
    style.legend_below(figure, 2)
    if shown.empty:
        right.set_axis_off()
        right.text(0.5, 0.5, "the prompts say no attribute", ha="center", va="center")
        return figure
    bars = right.barh(range(len(shown)), shown["share"], color=style.VERMILION, hatch="////")
    bars_said = [f"{c} of {p}" for c, p in zip(shown["conflicts"], shown["people"], strict=True)]
    right.bar_label(bars, bars_said, padding=2, fontsize=style.SMALL)
    right.set_yticks(range(len(shown)), shown["attribute"].str.replace("_", " "))
    right.set_ylim(max(LEAST, len(shown)) - 0.5, -0.5)
    right.xaxis.set_major_formatter(style.PERCENT)
    right.set_xlim(0, max(0.05, float(shown["share"].max()) * 1.3))
    right.set(xlabel="people in whom it differs", title="attributes that conflict")
    return figure


def _distinct(axes: Axes, people: pd.DataFrame) -> None:
    """How many people have one prompt, two, ...; the stable ones, of equal images, apart."""
    most = int(people["prompts"].max())
    edges = np.arange(0.5, most + 1) if most <= BARS else np.linspace(0.5, most + 0.5, BARS + 1)
    stable = people["stable"].astype(bool)
    parts = [people.loc[stable, "prompts"], people.loc[~stable, "prompts"]]
    names = ["the same of every image", "not the same"]
    colors = [style.BLUE, style.ORANGE]
    _, _, drawn = axes.hist(
        parts, edges, stacked=True, label=names, color=colors, rwidth=0.85, edgecolor="white"
    )
    for bars, hatch in zip(drawn, ("", "\\\\\\\\"), strict=True):
        for bar in bars:
            bar.set_hatch(hatch)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    rows = "people" if "aspect" not in people else "people, for each aspect"
    title = f"{stable.sum()} of {len(stable)} are stable"
    axes.set(xlabel="distinct prompts", ylabel=rows, title=title)
