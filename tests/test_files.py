"""Writes are whole or not at all; a spreadsheet runs nothing of ours; what is read was written."""

import ast
import errno
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipfh_lib
from clipfh_lib import files
from clipfh_lib.files import InputError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "deep" / "a.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        files.write(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


DISK = [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (RuntimeError("I/O error: No space left (os error 28)"), "No space left"),  # as of safetensors
    (
        RuntimeError("[enforce fail at inline_container.cc:671] . x"),
        "the disk takes no more",
    ),  # torch
]


@pytest.mark.parametrize("error, says", DISK)
def test_a_disk_that_takes_no_more_is_one_line_with_the_file_and_the_way_out(tmp_path, error, says):
    path = files.write_text(tmp_path / "a.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(InputError, match=rf"a.txt cannot be written \({says}\).*kept.*room") as why:
        files.write(path, fail)
    assert "\n" not in str(why.value) and why.value.__suppress_context__
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/deeper cannot be written \(Not a directory\)"):
        files.write_text(tmp_path / "file" / "deeper" / "a.txt", "x")


# --- tables ---------------------------------------------------------------------------------------


def test_csv_cells_that_a_spreadsheet_would_run_are_defused_and_numbers_left_alone(tmp_path):
    run = ["=1+1", "+1", "-5 apples", "-1-1", "-", "@x", "\tx", "\rx", "\nx", "'=x", "＝1", "-inf"]
    left = ["-5", "-0.25", "-1e-12", "a=b", "", "'x", "5"]
    numbers = [*range(-9, 9), -1.5]
    table = pd.DataFrame({"=text": run + left, "number": numbers})
    table["mixed"] = pd.Series([-5, -0.25, "-7", *["x"] * 16], dtype=object)
    path = files.write_csv(tmp_path / "t.csv", table)
    back = pd.read_csv(path, keep_default_na=False, dtype=str)
    expected = [f"'{cell}".replace("\r", " ") for cell in run] + left
    assert back["'=text"].tolist() == expected
    assert back["number"].astype(float).tolist() == table["number"].tolist()
    assert back["mixed"].tolist()[:3] == ["-5", "-0.25", "-7"]
    assert table["=text"].tolist() == run + left, "the table itself is not changed"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)
CELLS = st.one_of(TEXT, st.text("'=+-@\t\n＝5.", max_size=4), st.integers().map(str))


@settings(max_examples=200, deadline=None)
@given(cells=st.lists(CELLS, min_size=1, max_size=8))
def test_every_text_comes_back_from_a_table_as_it_was(cells):
    table = pd.DataFrame({"text": cells, "number": range(len(cells))}).astype({"text": "str"})
    with tempfile.TemporaryDirectory() as folder:
        path = files.write_csv(Path(folder) / "t.csv", table)
        again = files.read_csv(path, {"text": "str"})
        shown = pd.read_csv(path, dtype=str)["text"]
        assert not shown.str.match(r"[=+@\t\n＝＋－＠]|-(?!\d+$)", na=False).any()
    pd.testing.assert_frame_equal(again, table)


def test_every_table_of_ours_is_written_by_the_function_that_defuses():
    """But for the table of drawn people, whose words stand in the code that draws."""
    found = set()
    for path in Path(clipfh_lib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (
                node.attr in ("to_csv", "to_excel")
                or (ast.unparse(node) in ("csv.writer", "csv.DictWriter"))
            ):
                found.add(path.name)
    assert found == {"files.py", "demo_hands.py"}


def test_a_name_that_is_not_utf8_can_be_written(tmp_path):
    path = files.write_csv(tmp_path / "t.csv", pd.DataFrame({"path": ["a\udcff.jpg"]}))
    assert path.read_text() == "path\na\\udcff.jpg\n"


# --- hashes ---------------------------------------------------------------------------------------


def test_digest_and_sha256_tell_contents_apart(tmp_path):
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    first, second = files.write_text(tmp_path / "1", "x"), files.write_text(tmp_path / "2", "y")
    assert files.sha256(first) != files.sha256(second)
    assert files.sha256(first) == (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )


def test_a_sealed_file_comes_back_and_each_of_its_bits_counts(tmp_path):
    content = {"b": [1, -2.5, None, True], "a": {"é": "x\ny", "10": "", "9": {}}, "n": 1e-300}
    path = files.write_sealed(tmp_path / "a.json", content)
    assert files.read_sealed(path) == content
    written = path.read_bytes()
    for bit in range(8 * len(written)):
        changed = bytearray(written)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            files.read_sealed(path)
    for other in (b"", b"{}\n", b"[]\n", written[:-1], written + b" ", written.replace(b" ", b"")):
        path.write_bytes(other)
        with pytest.raises(ValueError):
            files.read_sealed(path)


def test_what_json_has_no_kind_for_is_sealed_as_it_is_read_back(tmp_path):
    path = files.write_sealed(tmp_path / "a.json", {"pair": (1, 2), "by number": {10: "a", 9: "b"}})
    assert files.read_sealed(path) == {"pair": [1, 2], "by number": {"10": "a", "9": "b"}}
