"""The list of flipped signs fits the code, and names every metric and every loss."""

import ast

import mutate
import pytest

FILES = {  # functions and classes that must each have a row
    "clipfh_lib/evaluation/metrics.py": set(),
    "clipfh_lib/models/losses.py": set(),
    "clipfh_lib/models/image_text_losses.py": {"of"},  # chooses one of the others
    "clipfh_lib/models/heads.py": {"Classifier", "Neck", "BNNeck", "Projection"},  # no sign in it
}


def public(path):
    tree = ast.parse((mutate.ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}


def letters(text):
    """What is left of a line without its signs, in any order."""
    return sorted(character for character in text if character.isalnum())


@pytest.mark.parametrize("row", mutate.rows(), ids=lambda row: f"{row['function']}")
def test_a_row_flips_a_sign_that_stands_once_in_its_file(row):
    text = (mutate.ROOT / row["file"]).read_text(encoding="utf-8")
    assert text.count(row["before"]) == 1
    ast.parse(text.replace(row["before"], row["after"]))
    assert row["before"] != row["after"] and letters(row["before"]) == letters(row["after"])
    assert all((mutate.ROOT / "tests" / f"{name}.py").is_file() for name in row["tests"].split())


@pytest.mark.parametrize("path", FILES)
def test_every_metric_and_loss_has_a_row(path):
    named = ", ".join(row["function"] for row in mutate.rows() if row["file"] == path).split(", ")
    assert public(path) - FILES[path] == set(named)
