"""Tables of 10_robustness -> Figures and tables in print: what is lost, real conditions, groups.

Curves over severities, of one run or of several, are drawn by `figures_severity`.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipfh_lib.reports import panels, pictures, style, tables
from clipfh_lib.reports.style import styled

CLEAN = "clean"
SIDES = {"query": "queries", "gallery": "gallery images", "both": "queries and gallery images"}
SHEETS = ("lighting", "pose", "occlusion")  # kinds; all others share the sheet `sharpness`
NEED = ["condition", "kind", "severity", "side", "gallery", "subset", "metric", "value", "drop"]
RATES = {"rank1": "rank-1", "eer": "EER", "fmr": "FMR", "fnmr": "FNMR"}
ATTRIBUTES = {"skin_color": "skin tone", "nail_polish": "nail polish"}


def words(name: str) -> str:
    """A condition as it is read: "colour cast"."""
    return str(name).replace("_", " ")


def sheets(
    table: pd.DataFrame, shown: np.ndarray, dataset: str, limited: bool = False
) -> dict[str, Figure]:
    """One photograph under every condition, a sheet for each of SHEETS and one for `sharpness`.

    Args:
        table: `kind, condition, severity`, of `studies.robustness.examples`.
        shown: (N, S, S, 3) uint8, a picture for each row.
        dataset: its name.
        limited: data.limit was set; the figures say so.
    """
    tables.need(table, ["kind", "condition", "severity"], "examples")
    table = table.reset_index(drop=True)
    sheet = table["kind"].where(table["kind"].isin(SHEETS), "sharpness")
    said = "severity " + table["severity"].astype(str)
    said = said.mask(table["severity"] == 0, "as it is")
    frame = table.assign(said=said, words=table["condition"].map(words))
    columns, found = frame["severity"].nunique(), {}
    for name in dict.fromkeys(sheet):
        here = (sheet == name).to_numpy()
        how = {"group": "words", "captions": "said", "columns": columns}
        found[name] = pictures.image_grid(frame[here], shown[here], dataset, limited, **how)
    return found


@styled
def heat(drops: pd.DataFrame, limited: bool = False, metric: str = "rank1") -> Figure:
    """What each condition costs at each severity, in percentage points; a panel for each side.

    Below a drop stands its 95 % interval, paired over people. A number in brackets cannot be told
    from 0: its interval holds it. Each interval is one of its own, whatever the others say; so the
    headline has how many of as many would lie clear of 0 by chance, were nothing lost at all.

    Args:
        drops: robustness.csv of one run.
        limited: data.limit was set; the figure says so.
        metric: a fraction.
    """
    frame, clean = _of_one_gallery(drops, metric)
    if frame.empty:
        return style.saying(drops, None, limited, "no condition was measured")
    conditions = list(dict.fromkeys(frame["condition"]))
    severities, sides = sorted(frame["severity"].unique()), list(dict.fromkeys(frame["side"]))
    name = style.METRICS.get(metric, metric)
    said = f"{name} lost, percentage points; clean: {_percent(clean)} %"
    if intervals := frame["drop_low"].notna().sum():
        said += f"; {by_chance(intervals)}"
    wide = len(sides) < 3  # room for the interval, on a line of its own
    tall = 0.31 if wide else 0.27
    figure = style.new(frame, None, limited, 0.8 + tall * len(conditions), said=said)
    grid = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    most = max(float(frame["drop"].max()), 0.01)
    for axes, side in zip(grid, sides, strict=True):
        part = frame[frame["side"] == side]
        cells = part.pivot(index="condition", columns="severity", values=["drop", *_ENDS])
        value, low, high = (
            cells[column].reindex(index=conditions, columns=severities).to_numpy(float)
            for column in ("drop", *_ENDS)
        )
        axes.imshow(value, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for row, column in np.ndindex(value.shape):
            if np.isnan(value[row, column]):
                continue
            dark = value[row, column] > 0.55 * most
            text = _points(*(each[row, column] for each in (value, low, high)), wide)
            look = {
                "fontsize": style.SMALL,
                "color": "white" if dark else "black",
                "linespacing": 0.95,
            }
            axes.text(column, row, text, ha="center", va="center", **look)
        axes.set_xticks(range(len(severities)), [f"{severity:.0f}" for severity in severities])
        axes.set(xlabel="severity", title=f"{SIDES.get(side, side)} changed")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    grid[0].set_yticks(range(len(conditions)), [words(name) for name in conditions])
    return figure


def by_chance(intervals: int) -> str:
    """How many of so many 95 % intervals miss a truth of 0, one by one and uncorrected."""
    return f"of {intervals} intervals about {intervals * 0.05:.2g} would miss 0 by chance alone"


_ENDS = ("drop_low", "drop_high")


def _points(value: float, low: float, high: float, wide: bool) -> str:
    """A drop in percentage points, with its interval where there is room for it."""
    text = f"{value * 100:.1f}".replace("-0.0", "0.0")
    text = f"({text})" if low <= 0 <= high else text
    if np.isnan(low) or not wide:
        return text
    return f"{text}\n[{low * 100:.0f}, {high * 100:.0f}]"


def summary(
    drops: pd.DataFrame, areas: pd.DataFrame, metric: str = "rank1", subset: str = "all"
) -> pd.DataFrame:
    """In print: percent at each severity with its interval, the area, and the share that is lost.

    Args:
        drops: robustness.csv of one run.
        areas: robustness_areas.csv of the same run.
        metric: a fraction.
        subset: all or far.
    """
    frame, clean = _of_one_gallery(drops, metric, subset)
    under, _ = _of_one_gallery(areas, metric, subset)
    cell = [_interval(*each) for each in frame[["value", "low", "high"]].to_numpy()]
    rows = ["kind", "condition", "side"]
    table = frame.assign(cell=cell, severity="severity " + frame["severity"].astype(str))
    order = table[rows].drop_duplicates()
    table = table.pivot(index=rows, columns="severity", values="cell").reset_index()
    area = [_interval(*each) for each in under[["value", "low", "high"]].to_numpy()]
    ends = ["relative_drop", "relative_drop_low", "relative_drop_high"]
    lost = [_interval(*each) for each in under[ends].to_numpy()]
    under = under[["condition", "side"]].assign(area=area, lost=lost)
    table = order.merge(table, on=rows).merge(under, on=["condition", "side"], how="left")
    table["condition"] = table["condition"].map(words)
    name = style.METRICS.get(metric, metric)
    heading = {"area": f"mean {name} over severities", "lost": "of clean lost"}
    table = table.rename(columns=heading).fillna("")
    table.columns.name = f"{name}, %; clean: {_percent(clean)}"
    return table


@styled
def real(table: pd.DataFrame, limited: bool = False, metric: str = "rank1") -> Figure:
    """What the photographs themselves bring: the value, and the same people's value without it.

    Args:
        table: real_conditions.csv of one run; what has no number is left out.
        limited: data.limit was set; the figure says so.
        metric: a fraction.
    """
    frame = _real_rows(table, metric)
    if frame.empty:
        return style.saying(table, None, limited, "no such photographs in this data set")
    figure = style.new(frame, None, limited, 0.9 + 0.24 * len(frame))
    axes = figure.subplots()
    places = np.arange(len(frame))
    reach = np.maximum([frame["value"] - frame["low"], frame["high"] - frame["value"]], 0)
    look = {"fmt": "o", "color": style.BLUE, "elinewidth": 0.8, "capsize": 1.5}
    axes.errorbar(frame["value"], places, xerr=reach, label="with it", **look)
    open_ = {"marker": "D", "edgecolors": style.VERMILION, "facecolors": "none", "s": 20}
    axes.scatter(frame["before"], places, label="the same people without it", zorder=3, **open_)
    axes.set_yticks(places, frame["label"])
    axes.set(ylim=(len(frame) - 0.5, -0.5), xlim=(-0.02, 1.02))
    axes.set_xlabel(style.METRICS.get(metric, metric))
    axes.xaxis.set_major_formatter(style.PERCENT)
    axes.grid(True, axis="x")
    style.legend_below(figure)
    return figure


def real_printed(table: pd.DataFrame, metric: str = "rank1") -> pd.DataFrame:
    """real_conditions.csv in print: percent with intervals, what is lost, and what is missing."""
    frame = _real_rows(table, metric)
    three = ["value", "low", "high"], ["drop", "drop_low", "drop_high"]
    value, drop = ([_interval(*each) for each in frame[list(some)].to_numpy()] for some in three)
    name = style.METRICS.get(metric, metric)
    shown = pd.DataFrame(
        {
            "condition": frame["label"].to_numpy(),
            f"{name}, %": value,
            "before": [_percent(each) for each in frame["before"]],
            "lost": drop,
            "people": frame["people"].to_numpy(),
            "of these before": frame["compared"].to_numpy(),
            "note": frame["note"].fillna("").to_numpy(),
        }
    )
    absent = table[table["metric"].isna()]
    without = {"condition": absent["detail"].to_numpy(), "note": absent["note"].to_numpy()}
    shown = pd.concat([shown, pd.DataFrame(without)], ignore_index=True)
    counts = {"people": "Int64", "of these before": "Int64"}
    return shown.astype(counts).astype(dict.fromkeys(counts, "str")).replace("<NA>", "").fillna("")


@styled
def groups(table: pd.DataFrame, limited: bool = False) -> Figure:
    """Rates of each group at one threshold, with 95 % intervals; a line marks everybody.

    Groups of too few people stand there by name alone.

    Args:
        table: groups.csv of one run.
        limited: data.limit was set; the figure says so.
    """
    tables.need(table, ["attribute", "group", "metric", "value", "remark"], "groups")
    names = table[["attribute", "group", "images", "people", "remark"]].drop_duplicates()
    names = names.reset_index(drop=True)
    figure = style.new(table, None, limited, 0.8 + 0.24 * len(names), said=_at(table))
    grid = figure.subplots(1, len(RATES), sharey=True)
    for axes, (metric, title) in zip(grid, RATES.items(), strict=True):
        part = names.merge(table[table["metric"] == metric], on=["attribute", "group"], how="left")
        _dots(axes, part)
        axes.set_title(title)
    grid[0].set_yticks(range(len(names)), [_group(row) for _, row in names.iterrows()])
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def groups_printed(table: pd.DataFrame) -> pd.DataFrame:
    """groups.csv in print: percent with intervals; groups of too few people say so."""
    rows = ["attribute", "group"]
    values = table[["value", "low", "high"]].to_numpy(float)
    cell = [_interval(*each) or "too small" for each in values]
    order = table[[*rows, "people", "images", "remark"]].drop_duplicates()
    wide = table.assign(cell=cell).pivot(index=rows, columns="metric", values="cell").reset_index()
    wide = order.merge(wide, on=rows)
    wide["attribute"] = wide["attribute"].replace(ATTRIBUTES)
    few = {"people": wide["remark"].str.removeprefix("too small: "), "images": ""}
    counts = {n: wide[n].astype("Int64").astype("object").fillna(said) for n, said in few.items()}
    wide = wide.assign(**counts)
    wide = wide[[*rows, "people", "images", *RATES]].rename(columns=RATES)
    wide.columns.name = _at(table)
    return wide


def _at(table: pd.DataFrame) -> str:
    """At which threshold a table of groups was measured."""
    far, chosen_on = table[["fmr_of_everybody", "chosen_on"]].iloc[0]
    return f"threshold at {far * 100:g} % false matches of {chosen_on}"


def _group(row: pd.Series) -> str:
    name = ATTRIBUTES.get(row["attribute"], row["attribute"])
    name = row["group"] if row["attribute"] == row["group"] else f"{name}: {row['group']}"
    return name if pd.isna(row["people"]) else f"{name} ({row['people']:.0f} people)"


def _dots(axes: Axes, part: pd.DataFrame) -> None:
    """A dot with its interval for each row, from the top; the first row is everybody."""
    places, value = np.arange(len(part)), part["value"].to_numpy(float)
    reach = [value - part["low"].to_numpy(float), part["high"].to_numpy(float) - value]
    look = {"fmt": "o", "color": style.BLUE, "elinewidth": 0.8, "capsize": 1.5}
    axes.errorbar(value, places, xerr=np.maximum(reach, 0), **look)
    axes.axvline(value[0], color=style.GREY, lw=0.8, ls=":")
    for place in np.flatnonzero(np.isnan(value)):
        middle = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
        plain = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        look = {"fontsize": style.SMALL, "color": style.GREY, "style": "italic", "bbox": plain}
        axes.text(0.5, place, "too small", **look, **middle)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(style.PERCENT)
    axes.grid(True, axis="x")


def _real_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that are shown, all aspects together where they are; with what they are called."""
    tables.need(table, ["condition", "detail", "test_aspect", "metric", "value"], "real conditions")
    frame = table[(table["metric"] == metric) & (table["subset"] == "all")]
    same = [frame["condition"], frame["detail"], frame["gallery"]]
    pooled = (frame["test_aspect"] == "all").groupby(same).transform("any")
    frame = frame[~pooled | (frame["test_aspect"] == "all")]
    place = {name: number for number, name in enumerate(tables.ASPECTS)}
    told = list(dict.fromkeys(zip(frame["condition"], frame["detail"], strict=True)))
    order = [told.index(each) for each in zip(frame["condition"], frame["detail"], strict=True)]
    sides = [frame[name].map(place).fillna(-1) for name in ("test_aspect", "gallery")]
    frame = frame.iloc[np.lexsort((*sides, order))]
    numbers = dict.fromkeys(["value", "low", "high", "before"], float)
    return frame.astype(numbers).assign(label=[_real_name(row) for _, row in frame.iterrows()])


def _real_name(row: pd.Series) -> str:
    query, gallery = (style.ASPECTS.get(row[name], "") for name in ("test_aspect", "gallery"))
    if row["condition"] == "mirrored":
        return f"{query}, mirrored, among {gallery}"
    if row["condition"] == "other_aspect":
        asked = "other aspects" if row["test_aspect"] == "all" else query
        return f"{asked} among {gallery}"
    alone = "" if row["test_aspect"] == "all" or not query else f", {query}"
    return f"{row['detail']}{alone}"


def _of_one_gallery(
    table: pd.DataFrame, metric: str, subset: str = "all"
) -> tuple[pd.DataFrame, float]:
    """A metric of a run's conditions in its first gallery, aspects together; its clean value."""
    tables.need(table, [name for name in NEED if name != "severity"], "robustness")
    frame = table[(table["metric"] == metric) & (table["subset"] == subset)]
    if frame.empty:
        return frame, float("nan")
    pooled = frame["test_aspect"] == "all"
    frame = frame[pooled] if pooled.any() else frame
    frame = frame[frame["gallery"] == panels.galleries(frame)[0]]
    clean = frame.loc[frame["condition"] == CLEAN, "value"]
    return frame[frame["condition"] != CLEAN], clean.iloc[0] if len(clean) else float("nan")


def _percent(value: float) -> str:
    return "" if pd.isna(value) else f"{value * 100:.1f}"


def _interval(value: float, low: float, high: float) -> str:
    """Percent with a 95 % interval, "60.3 [54.7, 66.9]"."""
    if pd.isna(value):
        return ""
    ends = "" if pd.isna(low) else f" [{low * 100:.1f}, {high * 100:.1f}]"
    return f"{_percent(value)}{ends}"
