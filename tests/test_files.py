"""Writes are whole or not at all; a spreadsheet runs nothing of ours."""

import pandas as pd
import pytest

from clipfh_lib import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "deep" / "a.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        files.write(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_csv_cells_that_a_spreadsheet_would_run_are_defused_and_numbers_left_alone(tmp_path):
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=b", ""]
    table = pd.DataFrame({"=text": texts, "number": [-1.5, 2.0, -3.0, 0.1, 1e-12, 5, 6, 7]})
    path = files.write_csv(tmp_path / "t.csv", table)
    back = pd.read_csv(path, keep_default_na=False)
    assert back["'=text"].tolist() == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "' x", "a=b", ""]
    assert back["number"].tolist() == table["number"].tolist()
    assert table["=text"].tolist() == texts, "the table itself is not changed"


def test_a_name_that_is_not_utf8_can_be_written(tmp_path):
    path = files.write_csv(tmp_path / "t.csv", pd.DataFrame({"path": ["a\udcff.jpg"]}))
    assert path.read_text() == "path\na\\udcff.jpg\n"


def test_digest_and_sha256_tell_contents_apart(tmp_path):
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    first, second = files.write_text(tmp_path / "1", "x"), files.write_text(tmp_path / "2", "y")
    assert files.sha256(first) != files.sha256(second)
    assert files.sha256(first) == (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
