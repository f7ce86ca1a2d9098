"""Who was named: answers of a gallery as a sheet of pictures and as a table of rates to read."""

from pathlib import PurePath

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.files import InputError
from clipfh_lib.reports import pictures, style, tables
from clipfh_lib.reports.style import styled

ABOVE, BELOW, OPEN = (style.BLUE, "-"), (style.VERMILION, (0, (2, 1))), ("black", "-")
RATES = {
    "rank1": "right person first",
    "fnir": "enrolled person not named",
    "fpir": "stranger named",
}
LETTERS = 16  # of a name below a picture


@styled
def sheet(
    found: pd.DataFrame,
    queries: np.ndarray,
    enrolled: np.ndarray | None = None,
    bar: float | None = None,
    dataset: str | None = None,
    limited: bool = False,
    truth: dict[str, str] | None = None,
) -> Figure:
    """A row for each query: its picture, the answer, and the nearest people with similarity.

    People at or above the threshold have a whole blue frame, those below it a dashed red one;
    without a threshold all are black. A gallery keeps no pictures: where those of enrolled people
    are not at hand their names stand in their place.

    Args:
        found: `query, rank, person, similarity, answer`, of `identify.Identifier`.
        queries: (Q, H, W, 3) uint8, in the order in which the queries first stand in `found`.
        enrolled: (rows of found, H, W, 3) uint8 of the images that were found.
        bar: similarity from which on people are named; none where there is no threshold.
        dataset: its name, where the table has no such column.
        limited: data.limit was set; the figure says so.
        truth: query -> who it is, to be told beside the answer.

    Raises:
        InputError: no answer, or not one picture for each query or row.
    """
    tables.need(found, ["query", "rank", "person", "similarity", "answer"], "answers")
    found = found.reset_index(drop=True)
    lines = list(found.groupby("query", sort=False))
    if not lines:
        raise InputError("answers: none to show; no image could be read")
    for what, shown, need in (("query", queries, len(lines)), ("row", enrolled, len(found))):
        if shown is not None and len(shown) != need:
            raise InputError(f"answers: {len(shown)} pictures, there must be one for each {what}")
    most = int(found["rank"].max())
    tall = style.WIDTH / (most + 2.6) * queries.shape[1] / queries.shape[2]
    figure = style.new(found, dataset, limited, 0.5 + (max(tall, 0.6) + 0.3) * len(lines))
    widths = [1, 1.3, *[1] * most]
    grid = figure.subplots(len(lines), len(widths), squeeze=False, width_ratios=widths)
    for row, picture, (query, part) in zip(grid, queries, lines, strict=True):
        for axes in row[1:]:
            axes.axis("off")
        pictures.framed(row[0], picture, _short(PurePath(str(query)).name), *OPEN)
        row[1].text(0.5, 0.5, _said(part, truth), ha="center", va="center")
        for place, one in part[part["person"] != ""].iterrows():
            look = OPEN if bar is None else ABOVE if one["similarity"] >= bar else BELOW
            axes, name = row[1 + int(one["rank"])], _short(str(one["person"]))
            axes.axis("on")
            number = f"{one['similarity']:.3f}"
            if enrolled is not None:
                pictures.framed(axes, enrolled[place], f"{name}\n{number}", *look)
                continue
            blank = np.full((3, 4, 3), 255, np.uint8)
            pictures.framed(axes, blank, number, *look)
            axes.text(1.5, 1, name, ha="center", va="center", fontsize=7)
    grid[0, 0].set_title("query")
    grid[0, 1].set_title("no threshold" if bar is None else f"named from\n{bar:.3f} on")
    for rank, axes in enumerate(grid[0, 2:], 1):
        axes.set_title(f"rank {rank}")
    return figure


def printed(rates: pd.DataFrame, far: float, dataset: str = "") -> pd.DataFrame:
    """Rates to read, in percent with 95 % intervals, and what was allowed.

    Args:
        rates: of `identify.rates`.
        far: false accepts that the threshold shall allow, 0..1.
        dataset: its name; of a drawn one the table says so.
    """
    if rates.empty:
        return pd.DataFrame({"searches": ["no image has a known answer"]})
    percent = 100 * rates[["value", "low", "high"]]
    shown = pd.DataFrame(
        {
            "searches that end with": rates["metric"].map(RATES) + " (" + rates["metric"] + ")",
            "percent [95 %]": [f"{v:.1f} [{lo:.1f}, {hi:.1f}]" for v, lo, hi in percent.to_numpy()],
            "allowed": [f"{100 * far:g}" if m == "fpir" else "" for m in rates["metric"]],
            "searches (people)": [
                f"{searches} ({people})"
                for searches, people in rates[["searches", "people"]].to_numpy()
            ],
        }
    )
    remark = tables.remark(dataset)
    return shown.assign(remark=remark) if remark else shown


def _said(part: pd.DataFrame, truth: dict[str, str] | None) -> str:
    """The answer in a few lines, and what is right where that is known."""
    answer, query = str(part["answer"].iloc[0]), part["query"].iloc[0]
    said = [_short(answer) if " " in answer else f"person\n{_short(answer)}"]
    if truth is not None and query in truth:
        said.append(f"(is {_short(truth[query])})")
    return "\n".join(said).replace(": ", ":\n")


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
