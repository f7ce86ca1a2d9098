r"""A report as a folder for LaTeX: tables, figures, their captions, a short main.tex around them.

`latexmk -pdf main.tex` in it makes the document; a thesis takes single files by \input.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipfh_lib import files
from clipfh_lib.files import InputError
from clipfh_lib.reports import author, export
from clipfh_lib.reports.findings import Table
from clipfh_lib.reports.pictured import Picture
from clipfh_lib.reports.report import Report, Section

ROWS = 28  # of a table on one page
WIDE = 170  # letters in a row; a wider table has a page on its side
PREAMBLE = r"""\documentclass[a4paper,11pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{\usepackage{mathptmx}}
\usepackage{textcomp,microtype}
\usepackage[margin=22mm]{geometry}
\usepackage{array,booktabs,graphicx,siunitx}
\usepackage{float,pdflscape}
\usepackage[hidelinks]{hyperref}
\floatplacement{table}{H}\floatplacement{figure}{H}
\setlength{\parindent}{0pt}\setlength{\parskip}{0.6em}
\setlength{\emergencystretch}{3em}
"""


def write(folder: Path, report: Report) -> Path:
    """Write the report into a folder, in place of all that stood there.

    Args:
        folder: made anew, so that no figure of an earlier report stays in it.
        report: of `report.of_plan`.

    Returns:
        main.tex.

    Raises:
        InputError: something in the folder cannot be removed.
    """
    _clear(folder)
    captions = []
    for section in report.sections:
        for table in section.tables:
            files.write_text(folder / "tables" / f"{name_of(table.name)}.tex", of_table(table))
            captions.append(f"- tables/{name_of(table.name)}.tex: {table.title}. {table.caption}")
        for picture in section.pictures:
            name = name_of(picture.name)
            content = picture.pdf.read_bytes()
            files.write(folder / "figures" / f"{name}.pdf", lambda p, c=content: p.write_bytes(c))
            files.write_text(folder / "figures" / f"{name}.tex", of_picture(picture))
            captions.append(f"- figures/{name}.pdf: {picture.caption}")
    files.write_text(folder / "captions.md", "# Captions\n\n" + "\n".join(captions) + "\n")
    return files.write_text(folder / "main.tex", document(report))


def _clear(folder: Path) -> None:
    """Remove a folder with all in it: no photograph stays in it that may stand no more."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be removed ({error.strerror or error}): close what "
            "has it open, or remove the folder yourself, then run again"
        ) from None


def name_of(name: str) -> str:
    """A file name that LaTeX reads as it stands: letters, digits and hyphens."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)


def of_table(table: Table) -> str:
    """A table for each data set, in parts that fit on a page each; the label is that of the first.

    What stands in every row of a part goes into its caption.
    """
    parts = []
    for place, rows in enumerate(_parts(table.shown)):
        shown = table.shown.loc[rows]
        shown = shown[[name for name in shown if shown[name].astype(str).str.strip().any()]]
        marks = None if table.marks is None else table.marks.loc[rows, shown.columns]
        more = " (continued)" if place else ""
        caption = f"{table.title}{more}. {'' if place else table.caption}".strip()
        label = "" if place else f"tab:{name_of(table.name)}"
        text = export.to_latex(shown, caption, label, marks)
        turned = f"\\begin{{landscape}}\n{text}\\end{{landscape}}\n"
        parts.append(turned if _width(shown) > WIDE else text)
    return "\n".join(parts)


def _parts(shown: pd.DataFrame) -> list[pd.Index]:
    """The rows of each part."""
    by = shown["data set"] if "data set" in shown and len(shown) > ROWS else None
    groups = [shown.index] if by is None else shown.groupby(by, sort=False).groups.values()
    return [rows[at : at + ROWS] for rows in groups for at in range(0, len(rows), ROWS)]


def _width(shown: pd.DataFrame) -> int:
    """Letters that the widest cells of a table's columns have together, wrapped and left out."""
    widest = 0
    for name in shown:
        cells = shown[name].astype(str)
        if len(shown) == 1 or cells.nunique() > 1:
            widest += min(max(cells.str.len().max(), len(str(name))), export.WRAPPED) + 2
    return widest


def of_picture(picture: Picture) -> str:
    """A figure with its caption; the file is named from the folder of main.tex on."""
    name = name_of(picture.name)
    return "\n".join(
        [
            r"\begin{figure}",
            r"\centering",
            r"\includegraphics[width=\textwidth,height=0.8\textheight,keepaspectratio]"
            f"{{figures/{name}.pdf}}",
            rf"\caption{{{export.latex(picture.caption)}}}",
            rf"\label{{fig:{name}}}",
            r"\end{figure}",
            "",
        ]
    )


def document(report: Report) -> str:
    """main.tex: title, contents, a section for each of the report's."""
    parts = [PREAMBLE, rf"\title{{{export.latex(report.title)}}}", r"\author{}", r"\date{}"]
    parts += [r"\begin{document}", r"\maketitle", export.latex(report.subtitle)]
    parts += [r"\tableofcontents", *map(_section, report.sections), r"\end{document}"]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [rf"\section{{{export.latex(section.title)}}}\label{{sec:{section.name}}}"]
    parts += [export.latex(paragraph) + "\n" for paragraph in section.text]
    parts += _items([*section.points, *section.folded])
    if section.markdown:
        parts.append(author.to_latex(section.markdown))
    elif section.empty:
        parts.append(rf"\textit{{{export.latex(section.empty)}}}")
    parts += [rf"\input{{tables/{name_of(t.name)}.tex}}" for t in section.tables]
    parts += [rf"\input{{figures/{name_of(picture.name)}.tex}}" for picture in section.pictures]
    if section.commands:
        lines = [rf"\texttt{{{export.latex(line)}}}" for line in section.commands]
        lines = [line.replace("'", r"\textquotesingle{}") for line in lines]
        parts += [r"\begin{flushleft}\footnotesize", "\\\\\n".join(lines), r"\end{flushleft}"]
    return "\n".join(parts)


def _items(points: Sequence[str]) -> list[str]:
    if not points:
        return []
    lines = [rf"\item {export.latex(point)}" for point in points]
    return [r"\begin{itemize}\small\raggedright", *lines, r"\end{itemize}"]
