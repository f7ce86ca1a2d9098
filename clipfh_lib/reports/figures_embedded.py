"""Places of embeddings in a plane -> a Figure: do a person's images lie together?"""

import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.reports import style, tables
from clipfh_lib.reports.style import styled


@styled
def embedded(layout: pd.DataFrame, width: float | None = None) -> Figure:
    """t-SNE of the same images by several runs, side by side; a colour and marker for each person.

    Near is alike, far apart says little, and planes have no scale. Without any run that kept its
    embeddings the figure says so.

    Args:
        layout: of `embedded.lay_out`.
        width: inches, style.COLUMN or style.WIDTH; by default by the number of runs.
    """
    if layout.empty:
        return style.saying(layout, None, False, "no run kept embeddings of these images")
    tables.need(layout, ["label", "pid", "aspect", "x", "y", "of", "perplexity"], "layout")
    runs = list(layout.groupby(["label", "run"], sort=False))
    people = sorted(layout["pid"].unique())
    looks = style.looks([f"person {pid}" for pid in people])
    width = width or (style.COLUMN if len(runs) == 1 else style.WIDTH)
    wide = min(len(runs), 2) if width > style.COLUMN else 1
    tall = -(-len(runs) // wide)
    aspect = layout["aspect"].iloc[0]
    said = f"t-SNE (perplexity {layout['perplexity'].iloc[0]:.0f}) of the test images of "
    said += f"{len(people)} of {layout['of'].iloc[0]} people, those of the lowest ids"
    said += f", {style.ASPECTS.get(aspect, aspect)}" * (aspect != "all")
    height = 0.45 + tall * (0.25 + 0.8 * width / wide)
    figure = style.new(layout, None, False, height, width, said)
    grid = list(figure.subplots(tall, wide, squeeze=False).flat)
    for axes, ((label, _), part) in zip(grid, runs, strict=False):
        for pid, rows in part.groupby("pid"):
            name = f"person {pid}"
            look = {**looks[name], "linestyle": "", "ms": 5, "mew": 0.4, "mec": "white"}
            axes.plot(rows["x"], rows["y"], label=name, **look)
        axes.set_title(label)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.margins(0.06)
    for axes in grid[len(runs) :]:
        axes.remove()
    style.legend_below(figure, 5)
    return figure
