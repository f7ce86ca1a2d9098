"""The folder for LaTeX: escaped, balanced, nothing missing, nothing left over, and it compiles."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import draw, finished

from clipfh_lib.files import InputError
from clipfh_lib.reports import author, export, findings, report, thesis
from clipfh_lib.reports.findings import Table
from clipfh_lib.reports.report import Report, Section

HOSTILE = r"50 % & $x$ #1 a_b {c} ~ ^ \input{/etc/passwd} -- « ü 中 → ≤ “q” `t` [1] <b> 'o' | *"
MARKDOWN = rf"""{HOSTILE}

*one* **two** `three_4` [link_5](http://a.example/b_c) ![pic](x.png)

### Below

- a & b
  1. deep %

> said

```
code_1 %
```

<script>alert(1)</script>
"""


def hostile(rows=3):
    frame = pd.DataFrame({"data set": HOSTILE, "long": [f"{HOSTILE} {HOSTILE}"] * rows, "n": 1.5})
    frame["run"] = [f"[{n}] {HOSTILE}" for n in range(rows)]
    marks = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    marks.iloc[0, 3] = True
    return Table("a_table", HOSTILE, HOSTILE, frame, frame, marks)


def whole():
    text = [HOSTILE]
    first = Section("one", HOSTILE, text, text, text, [hostile()], (), [HOSTILE])
    said = Section("two", "Said", markdown=MARKDOWN)
    empty = Section("three", "Empty", empty=HOSTILE)
    return Report(HOSTILE, HOSTILE, [first, said, empty])


def balanced(text):
    """Environments close in the order they open, and so do braces; no sign stands unescaped."""
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack and stack.pop() == name, f"\\end{{{name}}}"
    assert not stack, stack
    bare = re.sub(r"\\[\\{}%&$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert "\\input{/etc" not in text and "http://a.example/b_c" not in text


def everything(main: Path) -> str:
    """main.tex with its inputs in place; each must be there."""
    text = main.read_text()
    for name in re.findall(r"\\input\{(.+?)\}", text):
        assert (main.parent / name).is_file(), name
        text = text.replace(rf"\input{{{name}}}", (main.parent / name).read_text())
    for name in re.findall(r"\\includegraphics\[.*?\]\{(.+?)\}", text):
        assert (main.parent / name).is_file(), name
        assert re.fullmatch(r"[A-Za-z0-9/.-]+", name)
    return text


def test_whatever_stands_in_a_report_is_escaped_and_balanced(tmp_path):
    text = everything(thesis.write(tmp_path / "thesis", whole()))
    balanced(text)
    assert r"\textbf{{}[0] 50 \% \& \$x\$ \#1 a\_b \{c\}" in text, "what is best is bold"
    assert "[U+4E2D]" in text and "中" not in text, "a sign without a letter becomes its code"
    assert "-{}- « ü" in text and r"$\rightarrow$ $\leq$" in text
    assert text.count(r"\textquotesingle{}o\textquotesingle{}") == 1, "commands keep their quotes"
    for line in text.splitlines():  # a row's end does not take what follows as its argument
        assert not re.search(r"\\\\\s*[\[*]", line)


def test_the_authors_markdown_becomes_latex():
    text = author.to_latex(MARKDOWN)
    assert r"\emph{one} \textbf{two} \texttt{three\_4}" in text
    assert r"link\_5 (http://a.example/b\_c) pic" in text
    assert r"\paragraph{Below}" in text and r"\texttt{code\_1 \%}" in text
    assert "\\item a \\& b\n\\begin{enumerate}\n\\item deep \\%\n\\end{enumerate}" in text
    assert "\\begin{quote}\nsaid\n\\end{quote}" in text
    assert r"\textless{}script\textgreater{}" in text
    assert author.to_latex("") == ""


def test_a_report_of_runs_is_whole_and_leaves_nothing_of_an_older_one(project):
    jobs = finished(project)
    folder = project / "outputs/tiny/20_compare"
    draw(folder, "cmc")
    said = report.of_plan("tiny", jobs, findings.of_plan(jobs), folder)
    old = folder / "thesis/figures/of-a-person.pdf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    main = thesis.write(folder / "thesis", said)
    assert not old.exists(), "photographs that may stand no more are gone"
    text = everything(main)
    balanced(text)
    inputs = set(re.findall(r"(tables/[\w-]+\.tex|figures/[\w-]+\.pdf)", text + main.read_text()))
    held = {path.relative_to(main.parent).as_posix() for path in main.parent.rglob("*.*")}
    assert inputs <= held and {"tables/tests.tex", "figures/cmc.pdf"} <= inputs
    captions = (main.parent / "captions.md").read_text()
    assert "- figures/cmc.pdf: Cumulative match curves" in captions
    assert captions.count("\n- ") == sum(
        name.startswith("tables/") or name.endswith(".pdf") for name in held
    )
    labels = re.findall(r"\\label\{(.+?)\}", text)
    assert len(labels) == len(set(labels)) and "tab:comparison" in labels


def test_a_file_that_cannot_be_removed_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    """An older report's photograph, held open by another program: Windows refuses to remove it."""
    old = tmp_path / "thesis" / "figures" / "of-a-person.pdf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    remove = os.unlink

    def held(path, *args, **kwargs):
        if Path(path).name == old.name:
            raise PermissionError(errno.EACCES, "in use", str(old))
        return remove(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", held)
    with pytest.raises(InputError, match=r"of-a-person\.pdf cannot be removed \(in use\)"):
        thesis.write(tmp_path / "thesis", whole())
    assert not (tmp_path / "thesis" / "main.tex").exists()
    monkeypatch.undo()
    assert thesis.write(tmp_path / "thesis", whole()).is_file() and not old.exists()


def test_long_tables_are_parted_and_wide_ones_turned():
    shown = pd.DataFrame({"data set": ["a"] * 40 + ["b"] * 3, "n": [str(n) for n in range(43)]})
    text = thesis.of_table(Table("t", "T", "C.", shown, shown))
    assert text.count(r"\begin{tabular}") == 3 and text.count("(continued)") == 2
    assert text.count(r"\label") == 1 and text.count("C.") == 1 and "landscape" not in text
    assert [f"{n} \\\\" in text for n in range(43)] == [True] * 43
    wide = pd.DataFrame({f"column {n}": ["x" * 30, "y" * 30] for n in range(6)})
    turned = thesis.of_table(Table("t", "T", "C.", wide, wide))
    assert turned.startswith("\\begin{landscape}\n\\begin{table}") and "{landscape}\n" in turned
    balanced(turned)


def test_marks_are_bold_in_markdown_and_latex_and_nothing_else_is():
    frame = pd.DataFrame({"a": ["1.0", "2.0"], "b": ["x", "y"], "same": "s"})
    marks = pd.DataFrame({"a": [False, True], "b": False, "same": False})
    assert "| **2.0** | y | s |" in export.to_markdown(frame, marks)
    assert export.to_markdown(frame, marks).count("**") == 2
    text = export.to_latex(frame, marks=marks)
    assert text.count(r"\textbf") == 1 and r"\textbf{2.0} & y" in text
    assert export.to_latex(frame, marks=marks & False) == export.to_latex(frame)


@pytest.mark.latex
def test_latexmk_compiles_the_folder(tmp_path, project):
    if shutil.which("latexmk") is None or shutil.which("pdflatex") is None:
        pytest.skip("latexmk and pdflatex are not installed (Debian: latexmk, texlive-latex-extra)")
    jobs = finished(project)
    folder = project / "outputs/tiny/20_compare"
    draw(folder, "cmc")
    (project / "params/plans/tiny.md").write_text(f"## Observations\n\n{MARKDOWN}")
    said = report.of_plan("tiny", jobs, findings.of_plan(jobs), folder)
    said.sections.extend(whole().sections)
    main = thesis.write(tmp_path / "thesis", said)
    how = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", main.name]
    answer = subprocess.run(how, cwd=main.parent, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout[-3000:]
    log = (main.parent / "main.log").read_text(errors="replace")
    assert "undefined references" not in log and "Missing character" not in log
    assert (main.parent / "main.pdf").read_bytes().startswith(b"%PDF")
