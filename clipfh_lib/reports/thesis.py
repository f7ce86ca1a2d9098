r"""A report as a folder for LaTeX: tables, figures, their captions, a short main.tex around them.

`latexmk -pdf main.tex` in it makes the document; a thesis takes single files by \input.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from clipfh_lib import files
from clipfh_lib.reports import author, export
from clipfh_lib.reports.findings import Table
from clipfh_lib.reports.pictured import Picture
from clipfh_lib.reports.report import Report, Section

ROWS = 34  # of a table on one page
PREAMBLE = r"""\documentclass[a4paper,11pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{\usepackage{mathptmx}}
\usepackage{textcomp,microtype}
\usepackage[margin=25mm]{geometry}
\usepackage{booktabs,graphicx,siunitx}
\usepackage{placeins}
\usepackage[hidelinks]{hyperref}
\setlength{\parindent}{0pt}\setlength{\parskip}{0.6em}
\setlength{\emergencystretch}{3em}
\sisetup{detect-all}
"""


def write(folder: Path, report: Report) -> Path:
    """Write the report into a folder, in place of all that stood there.

    Args:
        folder: made anew, so that no figure of an earlier report stays in it.
        report: of `report.of_plan`.

    Returns:
        main.tex.
    """
    shutil.rmtree(folder, ignore_errors=True)
    captions = []
    for section in report.sections:
        for table in filter(_has_rows, section.tables):
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


def name_of(name: str) -> str:
    """A file name that LaTeX reads as it stands: letters, digits and hyphens."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)


def of_table(table: Table) -> str:
    """A table in parts that fit on a page each; the label is that of the first."""
    parts = []
    for start in range(0, len(table.shown), ROWS):
        shown = table.shown.iloc[start : start + ROWS]
        marks = None if table.marks is None else table.marks.iloc[start : start + ROWS]
        more = " (continued)" if start else ""
        caption = f"{table.title}{more}. {'' if start else table.caption}".strip()
        label = "" if start else f"tab:{name_of(table.name)}"
        parts.append(export.to_latex(shown, caption, label, marks))
    return "\n".join(parts)


def of_picture(picture: Picture) -> str:
    """A figure with its caption; the file is named from the folder of main.tex on."""
    name = name_of(picture.name)
    return "\n".join(
        [
            r"\begin{figure}[htbp]",
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
    parts = [r"\clearpage" if section.tables or section.pictures else ""]
    parts += [rf"\section{{{export.latex(section.title)}}}\label{{sec:{section.name}}}"]
    parts += [export.latex(paragraph) + "\n" for paragraph in section.text]
    parts += _items(section.points)
    if section.markdown:
        parts.append(author.to_latex(section.markdown))
    elif section.empty:
        parts.append(rf"\textit{{{export.latex(section.empty)}}}")
    parts += [rf"\input{{tables/{name_of(t.name)}.tex}}" for t in section.tables if _has_rows(t)]
    parts += [rf"\input{{figures/{name_of(picture.name)}.tex}}" for picture in section.pictures]
    if section.commands:
        lines = [rf"\texttt{{{export.latex(line)}}}" for line in section.commands]
        lines = [line.replace(" ", " \\allowbreak{}") for line in lines]
        parts += [r"\begin{flushleft}\footnotesize", "\\\\\n".join(lines), r"\end{flushleft}"]
    return "\n".join([part for part in parts if part] + [r"\FloatBarrier"])


def _items(points: Sequence[str]) -> list[str]:
    if not points:
        return []
    lines = [rf"\item {export.latex(point)}" for point in points]
    return [r"\begin{itemize}\small", *lines, r"\end{itemize}"]


def _has_rows(table: Table) -> bool:
    return len(table.shown) > 0
