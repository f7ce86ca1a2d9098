"""Runs of 10_robustness -> a Figure: how they bear the same graded conditions."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipfh_lib.reports import panels, style, tables
from clipfh_lib.reports.style import styled

COLUMNS = 4  # panels side by side on two text columns
BANDS = 3  # runs at the most that keep their bands
SIDES = {"query": "queries", "gallery": "gallery images", "both": "queries and gallery images"}
CLEAN = "clean"  # kind or condition of rows that nothing was done to, severity 0


@styled
def severity(
    table: pd.DataFrame,
    metric: str = "rank1",
    side: str | None = None,
    gallery: str | None = None,
    dataset: str | None = None,
    width: float | None = None,
) -> Figure:
    """A number of several runs by severity, 0 being the untouched images; a panel per condition.

    Runs are comparable because all saw the same corrupted pixels. Of more than colours those of
    `panels.fewer`. Without any run the figure says so.

    Args:
        table: robustness.csv of several runs, of `tables.read_curves(folders, "robustness")`:
            `condition, kind, severity, side, gallery, subset, metric, value, low, high`.
        metric: a fraction, e.g. rank1 or mAP.
        side: query, gallery or both; by default the first there is.
        gallery: which one; by default the data set's first.
        dataset: which one; by default the first.
        width: inches, style.COLUMN or style.WIDTH; by default the latter.
    """
    none = "no run studies graded conditions"
    if table.empty:
        return style.saying(table, dataset, False, none)
    tables.need(table, ["condition", "kind", "severity", "side", "metric", "value"], "robustness")
    frame = table[(table["metric"] == metric) & (table["subset"] == "all")]
    pooled = frame["test_aspect"] == "all"
    frame = frame[pooled] if pooled.any() else frame
    frame = (
        frame[frame["dataset"] == (dataset or frame["dataset"].iloc[0])] if len(frame) else frame
    )
    if frame.empty:
        return style.saying(table, None, False, none)
    first = panels.galleries(frame)[0]
    frame = frame[frame["gallery"] == (gallery or first)]
    clean = (frame["kind"] == CLEAN) | (frame["condition"] == CLEAN)
    side = side or frame.loc[~clean, "side"].iloc[0]
    untouched = frame[clean].assign(severity=0)
    frame = pd.concat([untouched.assign(side=side), frame[~clean & (frame["side"] == side)]])
    one = ["weights", "condition", "severity", *(c for c in tables.RUN if c in frame)]
    frame, said = panels.fewer(_labelled(frame.drop_duplicates(one)))
    what = f"{style.METRICS.get(metric, metric)}, {SIDES.get(side, side)} corrupted"
    return _drawn(frame, ", ".join(filter(None, [what, said])), width or style.WIDTH)


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(label=tables.labels(frame))


def _drawn(frame: pd.DataFrame, said: str, width: float) -> Figure:
    labels = list(frame["label"].unique())
    looks = style.looks(labels)
    clean = frame[frame["severity"] == 0].drop_duplicates("label")
    conditions = frame.loc[frame["severity"] > 0, ["kind", "condition"]].drop_duplicates()
    wide = COLUMNS if width > style.COLUMN else COLUMNS // 2
    tall = -(-len(conditions) // wide)
    figure = style.new(frame, None, False, 0.55 + 1.15 * tall, width, said)
    grid = list(figure.subplots(tall, wide, sharex=True, sharey=True, squeeze=False).flat)
    low = max(0, np.floor(10 * frame["value"].min() - 1) / 10)
    for number, (axes, (kind, condition)) in enumerate(
        zip(grid, conditions.itertuples(index=False), strict=False)
    ):
        here = frame[(frame["condition"] == condition) & (frame["severity"] > 0)]
        for label in labels:
            rows = pd.concat([clean[clean["label"] == label], here[here["label"] == label]])
            rows = rows.drop_duplicates("severity").sort_values("severity")
            axes.plot(rows["severity"], rows["value"], label=label, **looks[label])
            if len(labels) <= BANDS and "low" in rows and rows["low"].notna().any():
                band = {"color": looks[label]["color"], "alpha": 0.15, "lw": 0}
                axes.fill_between(rows["severity"], rows["low"], rows["high"], **band)
        name = condition.replace("_", " ")
        title = name if kind in (condition, name) else f"{kind}: {name}"
        axes.set_title(title, fontsize=style.SMALL)
        axes.set(ylim=(low, 1.02), xlim=(-0.2, 5.2))
        axes.set_xticks(range(6))
        axes.yaxis.set_major_formatter(style.PERCENT)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(True)
        if number + wide >= len(conditions):
            axes.set_xlabel("severity")
            axes.tick_params(labelbottom=True)
    for axes in grid[len(conditions) :]:
        axes.remove()
    style.legend_below(figure)
    return figure
