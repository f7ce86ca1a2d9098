"""A table -> Markdown or LaTeX, safe to paste and to compile."""

from collections.abc import Iterable

import pandas as pd

LATEX = {  # replaced in one pass, so that nothing is escaped twice
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "…": r"\ldots{}",
    "†": r"\textdagger{}",
    "°": r"\textdegree{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "‘": "`",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00a0": "~",
}
RAGGED = r">{\raggedright\arraybackslash}p{52mm}"
WRAPPED = 44  # letters that a cell may have in one line; 52 mm hold about as many
TYPEABLE = 0x17F  # the last letter that pdflatex has in its T1 fonts: Latin, with its accents


def to_markdown(frame: pd.DataFrame, marks: pd.DataFrame | None = None) -> str:
    """A pipe table; cells as they are, but for the pipe itself and line ends.

    Args:
        marks: booleans of the frame's shape; what is marked is set bold.
    """
    if marks is not None:
        frame = frame.where(~marks, "**" + frame.astype(str) + "**")

    def line(cells: Iterable[object]) -> str:
        text = (str(cell).replace("|", r"\|").replace("\n", " ") for cell in cells)
        return "| " + " | ".join(text) + " |"

    rows = [line(frame.columns), line("---" for _ in frame.columns)]
    return "\n".join(rows + [line(_blank(row)) for row in frame.itertuples(index=False)]) + "\n"


def _blank(row: Iterable[object]) -> list[object]:
    return ["" if pd.isna(cell) else cell for cell in row]


def to_latex(
    frame: pd.DataFrame, caption: str = "", label: str = "", marks: pd.DataFrame | None = None
) -> str:
    r"""A `table` with booktabs rules, the width of the text at most.

    It needs the packages booktabs, graphicx and array.

    Text (cells, headings, caption) is escaped; the label is not. Numbers are set as they are. What
    stands in every row alike ("demo figures", say) goes into the caption, to save width.

    Args:
        marks: booleans of the frame's shape; what is marked is set bold.
    """
    texts = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
    alike = shared(frame)
    said = "; ".join(f"{column}: {text}" for column, text in alike.items())
    caption = f"{caption} ({said})".strip() if said else caption
    shown = frame.drop(columns=list(alike))
    align = "".join(_column(shown[column], column in texts) for column in shown)
    shown = shown.map(lambda cell: latex(cell) if isinstance(cell, str) else cell)
    if marks is not None:
        bold = shown.map(r"\textbf{{{}}}".format)
        shown = shown.where(~marks[shown.columns], bold)
    style = shown.style.hide(axis="index").format(precision=3, na_rep="")
    tabular = style.format_index(latex, axis=1).to_latex(hrules=True, column_format=align)
    lines = [r"\begin{table}", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{latex(caption)}}}"] * bool(caption)
    lines += [rf"\label{{{label}}}"] * bool(label)
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    return "\n".join([*lines, tabular.rstrip() + "}", r"\end{table}"]) + "\n"


def shared(frame: pd.DataFrame) -> dict[str, str]:
    """Text columns that say the same in each of several rows, with what they say."""
    texts = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
    alike = [column for column in texts if len(frame) > 1 and frame[column].nunique() == 1]
    return {column: str(frame[column].iloc[0]) for column in alike if frame[column].notna().all()}


def _column(cells: pd.Series, text: bool) -> str:
    """How a column is set: numbers to the right, long text that has blanks in several lines."""
    if not text:
        return "r"
    said = cells.fillna("").astype(str)
    words = said.str.split().explode().fillna("").str.len().max()
    return RAGGED if said.str.len().max() > WRAPPED >= words else "l"


def latex(text: str) -> str:
    """Text that LaTeX sets as it stands here; a sign that it has no letter for becomes its code."""
    escaped = "".join(_sign(sign) for sign in str(text)).replace("\n", " ")
    escaped = escaped.replace("--", "-{}-")  # or they would be joined to a dash
    # after a row's end LaTeX would read a bracket or star as its argument
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def _sign(sign: str) -> str:
    if sign in LATEX or sign == "\n":
        return LATEX.get(sign, sign)
    if not sign.isprintable():
        return " " if sign.isspace() else ""
    return sign if ord(sign) <= TYPEABLE else f"[U+{ord(sign):04X}]"
