"""Whether maps explain -> Figures and printed tables: removal, checks, energy on the hand."""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.reports import style, tables
from clipfh_lib.reports.attention import NAMES, named
from clipfh_lib.reports.style import styled

CHECKS = {
    "deletion": "deletion, area",
    "insertion": "insertion, area",
    "random_weights": "correlation, random weights",
    "other_gallery": "correlation, another person",
}


@styled
def removal(
    curves: pd.DataFrame, dataset: str | None = None, limited: bool = False, said: str = ""
) -> Figure:
    """Deletion and insertion: mean similarity by the share of the picture removed or brought in.

    Args:
        curves: `map, check, share, value`; the map `random` is grey.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        said: what else the headline says.
    """
    tables.need(curves, ["map", "check", "share", "value"], "curves")
    figure = style.new(curves, dataset, limited, 2.4, said=said)
    looks = dict(zip(NAMES, style.LOOKS, strict=False)) | {"random": style.WEIGHTS["pixels"]}
    for axes, check in zip(
        figure.subplots(1, 2, sharey=True), ("deletion", "insertion"), strict=True
    ):
        for name, part in curves[curves["check"] == check].groupby("map", sort=False):
            colour, line, _ = looks[name]
            style_ = {"color": colour, "linestyle": line, "label": named(name)}
            axes.plot(part["share"], part["value"], **style_)
        axes.set_title(check)
        words = {"deletion": "removed, the map's highest first", "insertion": "brought in"}
        axes.set_xlabel(f"share of the picture {words[check]}")
        axes.xaxis.set_major_formatter(style.PERCENT)
        axes.grid(True)
    figure.axes[0].set_ylabel("cosine to the gallery image")
    style.legend_below(figure, columns=3)
    return figure


@styled
def energy(
    table: pd.DataFrame, dataset: str | None = None, limited: bool = False, said: str = ""
) -> Figure:
    """Share of the maps' energy on the hand, and the hand's share of the picture as a line.

    Args:
        table: `weights, map, share, low, high, area`.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        said: what else the headline says.
    """
    tables.need(table, ["weights", "map", "share", "low", "high", "area"], "energy")
    figure = style.new(table, dataset, limited, 2.2, said=said)
    axes = figure.subplots()
    names, weights = (list(dict.fromkeys(table[column])) for column in ("map", "weights"))
    wide, looks = 0.8 / len(weights), style.looks(weights)
    for turn, of in enumerate(weights):
        part = table[table["weights"] == of].dropna(subset="share")
        place = [names.index(name) + (turn - (len(weights) - 1) / 2) * wide for name in part["map"]]
        colour = looks[of]["color"]
        hatch = {"facecolor": colour if turn == 0 else "white", "edgecolor": colour}
        axes.bar(place, part["share"], 0.9 * wide, label=of, hatch="////" * turn, **hatch)
        ends = np.abs(part[["low", "high"]].to_numpy().T - part["share"].to_numpy())
        axes.errorbar(place, part["share"], ends, **style.INTERVAL)
    text = {"label": "the hand's share of the picture"}
    axes.axhline(table["area"].mean(), color="black", linestyle="--", linewidth=1, **text)
    axes.set_xticks(range(len(names)), [fill(named(name), 20) for name in names])
    axes.set_ylabel("energy on the hand")
    axes.yaxis.set_major_formatter(style.PERCENT)
    axes.set_ylim(0, 1)
    style.legend_below(figure)
    return figure


def printed(table: pd.DataFrame, says: pd.DataFrame) -> pd.DataFrame:
    """The checks, a row a map: means with 95 % intervals, differences from random, and verdicts.

    Args:
        table: of the checks: `map, check, value, low, high, difference, ..., pairs, flat`.
        says: `map, says`.
    """
    rows = []
    for name, part in table.groupby("map", sort=False):
        row = {"map": named(name)}
        for one in part.to_dict("records"):
            head = CHECKS[one["check"]]
            row[head] = _number(one["value"], one["low"], one["high"])
            if one["check"] in ("deletion", "insertion"):
                ends = one["difference"], one["difference_low"], one["difference_high"]
                row[f"{one['check']}, minus random maps"] = _number(*ends, sign="+")
        row |= {"pairs": part["pairs"].max(), "flat": part["flat"].max()}
        row["the checks say"] = says.set_index("map")["says"].get(name, "")
        rows.append(row)
    return pd.DataFrame(rows)


def printed_energy(table: pd.DataFrame) -> pd.DataFrame:
    """Shares on the hand in percent with 95 % intervals, a row for each weights and map."""
    rows = []
    for one in table.to_dict("records"):
        row = {"weights": one["weights"], "map": named(one["map"])}
        row["on the hand, %"] = _number(*(100 * one[k] for k in ("share", "low", "high")), digits=1)
        row["hand's area, %"] = f"{100 * one['area']:.1f}"
        ends = (100 * one[k] for k in ("difference", "difference_low", "difference_high"))
        row["difference"] = _number(*ends, sign="+", digits=1)
        rows.append(row | {name: one[name] for name in ("images", "people", "flat")})
    return pd.DataFrame(rows)


def _number(value: float, low: float, high: float, sign: str = "", digits: int = 2) -> str:
    if pd.isna(value):
        return ""
    form = f"{{:{sign}.{digits}f}}"
    ends = "" if pd.isna(low) else f" [{form.format(low)}, {form.format(high)}]"
    return form.format(value) + ends
