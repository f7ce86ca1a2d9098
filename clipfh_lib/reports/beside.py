"""Recipes of text to image beside each other, to read."""

import pandas as pd

from clipfh_lib.reports import tables, words_found

ABOUT = ["recipe", "loss", "negatives"]
SAID = {"gain": "gained over its start", "lead": "this run ahead by"}


def printed(compared: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """Points that each run gained and that this one is ahead, text to image; why others are not.

    Args:
        compared: of `evaluation.beside.compare`.
        dataset: its name; of a drawn one the table says so.

    Returns:
        Two lines for each other recipe and one for the run itself, with 95 % intervals and a star
        where zero lies outside; one line with the reason for a run that cannot be compared.
    """
    tables.need(compared, [*ABOUT, "compared", "why"], "compared")
    lines = []
    for about, part in compared.groupby([*ABOUT, "compared", "why"], sort=False):
        *about, kind, why = about
        line = dict(zip(ABOUT, about, strict=True)) | {"points": SAID.get(kind, why)}
        if kind not in SAID:
            lines.append(pd.DataFrame([line]))
            continue
        part = part[part["direction"] == "text_image"]
        gains = words_found.gains(part, dataset).drop(columns=["direction", "queries", "units"])
        lines.append(gains.assign(**line))
    table = pd.concat(lines, ignore_index=True).fillna("")
    first = [*ABOUT, "points"]
    return table[first + [name for name in table if name not in first]]
