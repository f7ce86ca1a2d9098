"""Differences between runs: paired over people, from run folders alone."""

import numpy as np
import pandas as pd
import pytest

from clipfh_lib import files
from clipfh_lib.evaluation import intervals, retrieval
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


def folder(root, name, split, *tables, complete=True, **params):
    path = root / name
    files.write_csv(path / "ranks.csv", pd.concat(tables))
    if complete:
        made = {"params": {"dataset": "demo", **params}, "split_sha256": split}
        files.write_sealed(path / "manifest.json", made)
    return path


def trained(method="fine_tune", backbone="demo", recipe="demo", seed=0, **overrides):
    """Parameters of a run that trains."""
    axes = {"method": method, "backbone": backbone, "recipe": recipe, "seed": seed}
    return {**axes, "fit": {}, "overrides": overrides, "model": {"weights": "demo"}}


ZERO_SHOT = {"method": "zero_shot", "backbone": "demo", "recipe": "default", "seed": 0}
ZERO_SHOT |= {"model": {"weights": "demo"}}


def pairs(table):
    return set(zip(table["first"], table["second"], strict=True))


@pytest.fixture
def found(tmp_path):
    good, poor = ranks("pretrained", 0.9, 1), ranks("pretrained", 0.3, 2)
    floor = ranks("pixels", 0.3, 3)
    folders = [
        folder(tmp_path, "02/a", "s", good, ranks("untrained", 0.2, 4), floor),
        folder(tmp_path, "02/b", "s", poor, floor),
        folder(tmp_path, "02/c", "other", poor),
        folder(tmp_path, "02/d", "s", good, complete=False),
    ]
    return differences.of_runs(folders)


def test_runs_that_train_nothing_are_compared_with_each_other_and_with_their_own_floors(found):
    assert pairs(found) == {
        ("02/a pretrained", "02/b pretrained"),
        ("02/a pretrained", "02/a untrained"),
        ("02/a pretrained", "02/a pixels"),
        ("02/b pretrained", "02/b pixels"),
    }
    assert (found["remark"] == "demo figures").all()


def test_a_real_difference_leaves_zero_out_and_chance_does_not(found):
    rows = found[(found["metric"] == "rank1") & (found["subset"] == "all")].set_index("first")
    real = rows[rows["second"] == "02/b pretrained"].iloc[0]
    both = ranks("x", 0.9, 1)["rank"].eq(1).mean() - ranks("x", 0.3, 2)["rank"].eq(1).mean()
    assert real["difference"] == pytest.approx(both)
    assert real["low"] > 0 and real["p"] < 0.01
    chance = rows.loc["02/b pretrained"]
    assert chance["low"] < 0 < chance["high"] and chance["p"] > 0.05


def test_what_was_trained_is_compared_with_zero_shot_floors_and_its_rivals_alone(tmp_path):
    start, floor = ranks("pretrained", 0.5, 1), ranks("pixels", 0.3, 2)
    name = "demo-demo-seed0"  # three notebooks have a run of this name
    own = [folder(tmp_path, "02/demo-default-seed0", "s", start, floor, **ZERO_SHOT)]
    for number, (notebook, params) in enumerate(
        [
            (f"03/{name}", trained()),
            (f"05/{name}", trained("clip_reid_encoder")),
            (f"05/{name}-0a1b2c3d", trained("clip_reid_encoder", **{"prompts.shuffle": True})),
            ("03/demo-demo-seed1", trained(seed=1)),
            ("03/rn50-demo-seed0", trained(backbone="rn50")),
        ]
    ):
        tables = (ranks("trained", 0.8, number + 5), start, floor)
        own.append(folder(tmp_path, notebook, "s", *tables, **params))
    (tmp_path / "04").mkdir()
    own.append(folder(tmp_path, "04/x", "s", start))
    (own[-1] / "ranks.csv").unlink()  # learns prompts, ranks nothing
    found = differences.of_runs(own)
    zero = "02/demo-default-seed0 pretrained"
    runs = [f"03/{name}", f"05/{name}", f"05/{name}-0a1b2c3d"]
    assert pairs(found) == {
        (zero, "02/demo-default-seed0 pixels"),
        *((f"{run} trained", zero) for run in [*runs, "03/demo-demo-seed1"]),
        *((f"{run} trained", f"{run} pixels") for run in [*runs, "03/demo-demo-seed1"]),
        *(
            (f"{one} trained", f"{other} trained")
            for one, other in [(runs[0], runs[1]), (runs[0], runs[2]), (runs[1], runs[2])]
        ),
        ("03/rn50-demo-seed0 trained", "03/rn50-demo-seed0 pretrained"),  # no zero-shot of its own
        ("03/rn50-demo-seed0 trained", "03/rn50-demo-seed0 pixels"),
    }
    differ = found.set_index(["first", "second"])["differ"]
    both = (f"{runs[1]} trained", f"{runs[2]} trained")
    assert set(differ.loc[both]) == {"prompts.shuffle: as it is against true"}


def test_further_rows_of_what_a_run_trained_are_compared_within_it_alone(tmp_path):
    folders = [
        folder(tmp_path, f"06/{name}", "s", ranks("trained", 0.8, number),
               ranks("trained_fixed", 0.7, number + 5), ranks("warm_start", 0.5, 9),
               **trained("prompt_sg", recipe=name))
        for number, name in enumerate(("v1", "v2"))
    ]  # fmt: skip
    within = [("trained", "trained_fixed"), ("trained", "warm_start")]
    within += [("trained_fixed", "warm_start")]
    expected = {(f"06/{n} {one}", f"06/{n} {other}") for n in ("v1", "v2") for one, other in within}
    assert pairs(differences.of_runs(folders)) == expected | {("06/v1 trained", "06/v2 trained")}


@pytest.mark.parametrize("key, value", [("embed", {"flip": "add"}), ("model", {"size": 96})])
def test_zero_shot_that_was_evaluated_otherwise_does_not_stand_for_the_start(tmp_path, key, value):
    start = ranks("pretrained", 0.5, 1)
    other = {**ZERO_SHOT, key: value}
    folders = [
        folder(tmp_path, "02/a", "s", ranks("pretrained", 0.6, 4), **other),
        folder(tmp_path, "03/b", "s", ranks("trained", 0.8, 2), start, **trained()),
    ]
    assert pairs(differences.of_runs(folders)) == {("03/b trained", "03/b pretrained")}


# --- seeds --------------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path):
    start = ranks("pretrained", 0.5, 1)
    tables = [ranks("trained", 0.8, 10 + seed) for seed in range(3)]
    folders = [folder(tmp_path, "02/a", "s", start, **ZERO_SHOT)]
    for seed, table in enumerate(tables):
        name = f"03/demo-demo-seed{seed}"
        folders.append(folder(tmp_path, name, "s", table, start, **trained(seed=seed)))
    folders.append(folder(tmp_path, "03/x", "s", tables[0], **trained(recipe="alone")))
    return start, tables, differences.over_seeds(folders)


def test_seeds_are_pooled_with_their_spread_and_the_interval_of_their_mean(seeds):
    start, tables, found = seeds
    assert list(found.columns) == differences.SEEDS
    assert set(found["recipe"]) == {"demo"} and set(found["seeds"]) == {"0 1 2"}
    row = found[(found["metric"] == "rank1") & (found["subset"] == "all")].iloc[0]
    each = [table["rank"].eq(1).mean() for table in tables]
    assert row["value"] == pytest.approx(np.mean(each))
    assert row["sd"] == pytest.approx(np.std(each, ddof=1)) and row["sd"] > 0
    mean = sum(table["rank"].eq(1).astype(float) for table in tables) / 3  # (120,)
    sums = mean.groupby(tables[0]["pid"]).sum().to_numpy()[:, None, None]
    expected = intervals.interval(sums, np.full((20, 1), 6))
    assert (row["low"], row["high"]) == pytest.approx((expected.low[0], expected.high[0]))
    assert row["difference"] == pytest.approx(np.mean(each) - start["rank"].eq(1).mean())
    one = retrieval.compare(tables[0], start).query("metric == 'rank1' and subset == 'all'")
    assert row["difference_low"] > 0
    assert row["difference_high"] - row["difference_low"] < (one["high"] - one["low"]).item()


def test_seeds_in_print_are_percent_and_a_line_says_that_there_are_none(seeds):
    table = differences.printed_seeds(seeds[2])
    assert table["seeds"].tolist() == ["0 1 2"] and "rank-1, % less zero-shot" in table
    assert table["rank-1, %"][0] == "{:.1f} [{:.1f}, {:.1f}]".format(
        *seeds[2].loc[seeds[2].eval("metric == 'rank1' and subset == 'all'"),
                      ["value", "low", "high"]].to_numpy()[0] * 100
    )  # fmt: skip
    nothing = differences.printed_seeds(differences.over_seeds([]))
    assert nothing.to_numpy().tolist() == [["no run of this plan has several seeds"]]


def test_nothing_to_compare_is_an_empty_table(tmp_path):
    assert list(differences.of_runs([tmp_path]).columns) == differences.COLUMNS
    assert retrieval.METRICS[0] in differences.METRICS


def asked(table, direction="text_image", texts="text"):
    """The same ranks, of texts that search images."""
    return table.assign(direction=direction, query=table["query"].str.replace("q", texts))


def test_texts_and_images_are_compared_in_their_own_direction_and_only_by_the_same_texts(tmp_path):
    start, after = ranks("pretrained", 0.4, 1), ranks("trained", 0.9, 2)
    both = [pd.concat([one, asked(one)]) for one in (after, start)]
    other = [ranks("trained", 0.4, 3), ranks("trained", 0.4, 4)]
    folders = [
        folder(tmp_path, "02/a", "s", start, **ZERO_SHOT),  # searches by no text
        folder(tmp_path, "07/a", "s", *both, **trained("joint")),
        folder(tmp_path, "07/b", "s", asked(other[0]), **trained("joint", recipe="v2")),
        folder(
            tmp_path, "07/c", "s", asked(other[1], texts="words"), **trained("joint", recipe="v3")
        ),
    ]
    found = differences.of_runs(folders)
    parts = {name: pairs(part) for name, part in found.groupby("direction")}
    assert parts == {
        "image_image": {("07/a trained", "02/a pretrained")},
        "text_image": {
            ("07/a trained", "07/a pretrained"),
            ("07/a trained", "07/b trained"),
        },
    }
    values = found.set_index(["direction", "second", "subset", "metric"])["difference"]
    gain = after["rank"].eq(1).mean() - start["rank"].eq(1).mean()
    assert values["text_image", "07/a pretrained", "all", "rank1"] == pytest.approx(gain)


def test_seeds_of_both_directions_are_pooled_apart(tmp_path):
    folders = []
    for seed in (0, 1):
        one = ranks("trained", 0.9, seed).assign(test_aspect="dorsal_r")
        two = asked(ranks("trained", 0.5, seed + 5))
        path = folder(tmp_path, f"07/{seed}", "s", one, two, **trained("joint", seed=seed))
        folders.append(path)
    pooled = differences.over_seeds(folders)
    rows = pooled[(pooled["metric"] == "rank1") & (pooled["subset"] == "all")]
    values = rows.set_index("direction")["value"]
    assert values["image_image"] > 0.8 > 0.6 > values["text_image"]
    shown = differences.printed_seeds(pooled)
    assert shown["direction"].tolist() == ["image_image", "text_image"]
