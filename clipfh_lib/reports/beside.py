"""Recipes of text to image beside each other, to read."""

import pandas as pd

from clipfh_lib.reports import words_found

ABOUT = ["recipe", "loss", "negatives"]


def printed(compared: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """Points that a run is ahead of other recipes, text to image, and how missing ones are made.

    Args:
        compared: of `evaluation.beside.compare`.
        dataset: its name; of a drawn one the table says so.
    """
    lines = []
    for about, part in compared.groupby(ABOUT, sort=False):
        line = dict(zip(ABOUT, about, strict=True))
        part = part[part["direction"] == "text_image"] if "direction" in part else part.head(0)
        if part.empty:
            line["this run ahead by"] = f"not run yet; run this notebook with recipe = {about[0]!r}"
            lines.append(pd.DataFrame([line]))
            continue
        gains = words_found.gains(part, dataset).drop(columns=["direction", "queries", "units"])
        lines.append(gains.assign(**line, **{"this run ahead by": "points:"}))
    table = pd.concat(lines, ignore_index=True).fillna("")
    first = [*ABOUT, "this run ahead by"]
    return table[first + [name for name in table if name not in first]]
