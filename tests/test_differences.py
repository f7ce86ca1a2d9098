"""Differences between runs: paired over people, from run folders alone."""

import numpy as np
import pandas as pd
import pytest

from clipfh_lib import files
from clipfh_lib.evaluation import retrieval
from clipfh_lib.reports import differences


def ranks(weights: str, hits: float, seed: int) -> pd.DataFrame:
    """Ranks of 20 people, 6 queries each, in one trial: right with a given chance, else third."""
    draw = np.random.default_rng(seed)
    pids = np.repeat(np.arange(20), 6)
    found = np.where(draw.random(120) < hits, 1, 3)
    return pd.DataFrame(
        {
            "weights": weights,
            "direction": "image_image",
            "test_aspect": "all",
            "trial": 0,
            "gallery": "default",
            "query": [f"q{number:03}" for number in range(120)],
            "pid": pids,
            "rank": found,
            "ranks": found.astype(str),
            "gap": np.where(np.arange(120) % 2, 3, 30),
        }
    )


def folder(root, name, split, *tables, complete=True):
    path = root / name
    files.write_csv(path / "ranks.csv", pd.concat(tables))
    if complete:
        made = {"params": {"dataset": "demo"}, "split_sha256": split}
        files.write_sealed(path / "manifest.json", made)
    return path


@pytest.fixture
def found(tmp_path):
    good, poor = ranks("pretrained", 0.9, 1), ranks("pretrained", 0.3, 2)
    floor = ranks("pixels", 0.3, 3)
    folders = [
        folder(tmp_path, "a", "s", good, ranks("untrained", 0.2, 4), floor),
        folder(tmp_path, "b", "s", poor, floor),
        folder(tmp_path, "c", "other", poor),
        folder(tmp_path, "d", "s", good, complete=False),
    ]
    return differences.of_runs(folders)


def test_runs_of_one_split_are_compared_with_each_other_and_with_their_own_floors(found):
    pairs = set(zip(found["first"], found["second"], strict=True))
    assert pairs == {
        ("a pretrained", "b pretrained"),
        ("a pretrained", "a untrained"),
        ("a pretrained", "a pixels"),
        ("b pretrained", "b pixels"),
    }
    assert (found["remark"] == "demo figures").all()


def test_a_real_difference_leaves_zero_out_and_chance_does_not(found):
    rows = found[(found["metric"] == "rank1") & (found["subset"] == "all")].set_index("first")
    real = rows[rows["second"] == "b pretrained"].iloc[0]
    both = ranks("x", 0.9, 1)["rank"].eq(1).mean() - ranks("x", 0.3, 2)["rank"].eq(1).mean()
    assert real["difference"] == pytest.approx(both)
    assert real["low"] > 0 and real["p"] < 0.01
    chance = rows.loc["b pretrained"]
    assert chance["low"] < 0 < chance["high"] and chance["p"] > 0.05


def test_nothing_to_compare_is_an_empty_table(tmp_path):
    assert list(differences.of_runs([tmp_path]).columns) == differences.COLUMNS
    assert retrieval.METRICS[0] in differences.METRICS
