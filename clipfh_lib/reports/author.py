"""What only the author can say: the sections of params/plans/<plan>.md, as HTML and as LaTeX.

Links and pictures are shown by their words, since a report holds nothing that lies outside it; HTML
in the text is shown and not obeyed.
"""

import re

import mistune

from clipfh_lib import files, params
from clipfh_lib.files import InputError
from clipfh_lib.reports import export

SECTIONS = ("Observations", "Conclusions", "Next steps")
HEADING = re.compile(r"^##? +(.+?) *#*$", re.MULTILINE)
AROUND = {"emphasis": r"\emph{%s}", "strong": r"\textbf{%s}", "strikethrough": "%s"}


def sections(plan: str) -> dict[str, str]:
    """The Markdown under each heading of SECTIONS; "" where the author wrote nothing yet.

    Raises:
        InputError: the file has another heading of the first or second level, which no report
            would show.
    """
    path = files.project() / "params" / "plans" / f"{plan}.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = HEADING.split(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    found = dict.fromkeys(SECTIONS, "")
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name not in found:
            raise InputError(
                f"{params.short(path)}: heading {name!r}; a report has {', '.join(SECTIONS)}"
            )
        found[name] = body.strip()
    return found


def missing(plan: str) -> str:
    """What stands in a section that nobody has written."""
    return f"not written yet: params/plans/{plan}.md"


def to_html(text: str) -> str:
    """Markdown as HTML without any resource."""
    return str(mistune.create_markdown(renderer=_Plain(escape=True))(text))


class _Plain(mistune.HTMLRenderer):
    """HTML in which a link and a picture are their words."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = mistune.escape(url)
        return text if text == address else f"{text} ({address})"

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"[{text}]"


def to_latex(text: str) -> str:
    """Markdown as LaTeX: paragraphs, lists, smaller headings, emphasis, code, quotations."""
    tokens = mistune.create_markdown(renderer="ast")(text)
    return "\n\n".join(filter(None, map(_block, tokens)))


def _block(token: dict) -> str:
    kind, inside = token["type"], token.get("children", [])
    if kind == "list":
        name = "enumerate" if token["attrs"]["ordered"] else "itemize"
        items = ["\\item " + "\n".join(map(_block, item["children"])) for item in inside]
        return "\n".join([rf"\begin{{{name}}}", *items, rf"\end{{{name}}}"])
    if kind == "block_quote":
        return "\n".join([r"\begin{quote}", *map(_block, inside), r"\end{quote}"])
    if kind == "block_code":
        lines = [rf"\texttt{{{export.latex(line)}}}" for line in token["raw"].splitlines()]
        return "\n".join([r"\begin{flushleft}", " \\\\\n".join(lines), r"\end{flushleft}"])
    if kind == "heading":
        return rf"\paragraph{{{_inline(inside)}}}"
    if kind == "thematic_break":
        return r"\medskip\hrule\medskip"
    return _inline(inside) if inside else export.latex(token.get("raw", "").strip())


def _inline(tokens: list[dict]) -> str:
    said = []
    for token in tokens:
        kind, inside = token["type"], token.get("children")
        if kind in ("softbreak", "linebreak"):
            said.append("\n" if kind == "softbreak" else r" \newline ")
        elif kind == "codespan":
            said.append(rf"\texttt{{{export.latex(token['raw'])}}}")
        elif kind == "link":
            text, address = _inline(inside), export.latex(token["attrs"]["url"])
            said.append(text if text == address else f"{text} ({address})")
        elif inside is not None:
            said.append(AROUND.get(kind, "%s").replace("%s", _inline(inside)))
        else:
            said.append(export.latex(token.get("raw", "")))
    return "".join(said)
