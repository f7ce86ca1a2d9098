"""A report as one HTML file: figures and style inside it, nothing loaded from anywhere else."""

import base64
import io
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from clipfh_lib.reports import author, export, photographs
from clipfh_lib.reports.findings import Table
from clipfh_lib.reports.report import Report

TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "report.html.j2"
WIDEST = 1600  # pixels of a figure in the page; the run folders keep the whole
QUALITY = 88  # of a JPEG, 0..100


def page(report: Report) -> str:
    """The HTML of a report: all text escaped, the author's Markdown set without resources."""
    rules = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, **rules)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    tools = {"caption": caption, "columns": columns, "cells": cells, "data_uri": data_uri}
    return template.render(report=report, markdown=author.to_html, **tools)


def caption(table: Table) -> str:
    """What stands above a table, with what all its rows share."""
    said = "; ".join(f"{name}: {text}" for name, text in export.shared(table.shown).items() if text)
    return f"{table.caption} ({said})".strip() if said else table.caption


def columns(table: Table) -> list[str]:
    """The headings of a table."""
    alike = export.shared(table.shown)
    return [str(name) for name in table.shown.columns if name not in alike]


def cells(table: Table) -> list[list[tuple[str, bool, bool]]]:
    """The rows of a table: each cell's text, whether it is bold, whether it is a number."""
    shown = table.shown[columns(table)]
    numeric = [pd.api.types.is_numeric_dtype(shown[name]) for name in shown]
    marks = pd.DataFrame(False, index=shown.index, columns=shown.columns)
    marks = marks if table.marks is None else table.marks[shown.columns]
    rows = []
    for row, bold in zip(shown.to_numpy(object), marks.to_numpy(bool), strict=True):
        text = ["" if pd.isna(cell) else str(cell) for cell in row]
        rows.append(list(zip(text, bold.tolist(), numeric, strict=True)))
    return rows


def data_uri(path: Path) -> str:
    """A figure as a data URI, at most WIDEST pixels wide.

    What may hold photographs becomes a JPEG, a third as large; curves and bars a PNG of 256
    colours, which hold more than the few that they are drawn in.
    """
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        if small.width > WIDEST:
            small = small.resize((WIDEST, round(small.height * WIDEST / small.width)))
        kind = "jpeg" if photographs.shown_in(path.stem) else "png"
        if kind == "png":
            small = small.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        small.save(buffer, kind, optimize=True, quality=QUALITY)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
