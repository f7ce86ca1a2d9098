"""The list of flipped signs fits the code, and names every metric, loss and corruption."""

import ast
from functools import cache

import mutate
import pytest

from clipfh_lib.data import corruptions

# Files whose functions and classes must each have a row, but for those that have no sign: they
# hold fields, hand over to others, or choose one of them.
FILES = {
    "data/masks.py": set(),
    "evaluation/drops.py": {"Sums"},
    "evaluation/intervals.py": {"Interval", "Comparison", "Change"},
    "evaluation/metrics.py": set(),
    "evaluation/mining.py": set(),
    "evaluation/open_set.py": {"Results", "Searches", "Probes"},
    "evaluation/person_texts.py": set(),
    "evaluation/rates.py": {"Cell", "Column"},
    "evaluation/reranking.py": {"rank"},
    "evaluation/retrieval.py": {
        "Results", "Weighted", "evaluate", "of_run", "query_values", "sums_of", "gap_column",
    },
    "evaluation/search.py": {"Trial", "Matched", "Found"},
    "evaluation/text_image.py": {"names", "listed", "shown", "texts_of"},
    "evaluation/validation.py": set(),
    "evaluation/verification.py": {"Results", "Pairs", "Impostors"},
    "models/branches.py": {"Branches", "Seen", "look", "keep_last_size"},
    "models/heads.py": {"Classifier", "Neck", "BNNeck", "Projection"},
    "models/image_text_losses.py": {"of"},
    "models/losses.py": set(),
    "models/objective.py": {"reopen", "Embedder", "embedder"},
    "methods/mba_net.py": {"Embedder", "reopen", "make"},
    "reports/holm.py": set(),
    "studies/faithfulness.py": {"Checked", "checks", "random_maps"},
    "studies/groups.py": {"Threshold", "Pairs", "labelled"},
    "studies/maps.py": {"Place", "attention", "enlarged", "attends"},
    "studies/robustness.py": {
        "Robustness", "Changed", "Bench", "bench", "changed", "identity", "examples", "kind_of",
    },
    "studies/thresholds.py": {"load"},
}  # fmt: skip
LOSSES = [  # where a method adds up what it is trained by
    f"methods/{name}.py"
    for name in (
        "clip_reid", "contrastive", "fine_tuning", "joint", "mba_net", "prompt_sg", "text_to_image",
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def project():
    """Only text is read: no project's folder is needed."""


@cache
def text_of(path):
    return (mutate.ROOT / path).read_text(encoding="utf-8")


def public(path):
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = ast.parse(text_of(path)).body
    return {n.name for n in nodes if isinstance(n, kinds) and not n.name.startswith("_")}


def named(*paths):
    """What the rows of some files are about."""
    every = [row["function"] for row in mutate.rows() if row["file"] in paths]
    return {name.split(".")[0] for name in ", ".join(every).split(", ")}


def letters(text):
    """What is left of a line without its signs, in any order."""
    return sorted(character for character in text if character.isalnum())


def test_a_row_flips_a_sign_that_stands_once_in_its_file():
    for row in mutate.rows():
        text, before, after = text_of(row["file"]), row["before"], row["after"]
        assert text.count(before) == 1, f"{row['file']}: {before!r} stands {text.count(before)} x"
        ast.parse(text.replace(before, after))
        assert before != after and letters(before) == letters(after), f"{before!r} -> {after!r}"
        assert all((mutate.ROOT / f"tests/{name}.py").is_file() for name in row["tests"].split())


@pytest.mark.parametrize("path", FILES)
def test_every_metric_and_loss_has_a_row(path):
    assert named(f"clipfh_lib/{path}") == public(f"clipfh_lib/{path}") - FILES[path]


def test_every_corruption_has_a_row():
    files = [f"clipfh_lib/data/{name}.py" for name in ("corruptions", "occlusions")]
    assert named(*files) == set(corruptions.CONDITIONS)


@pytest.mark.parametrize("path", LOSSES)
def test_what_every_method_is_trained_by_has_a_row(path):
    rows = [row for row in mutate.rows() if row["file"] == f"clipfh_lib/{path}"]
    assert any(row["before"].split("#")[0].strip().startswith(("loss", "terms")) for row in rows)
