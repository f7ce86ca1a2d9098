"""Groups at one threshold, against rates counted by hand; of few people nothing is told."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import simulated
from sklearn.metrics import roc_curve

from clipfh_lib import files, studied
from clipfh_lib.data import origin
from clipfh_lib.evaluation import metrics, verification
from clipfh_lib.studies import groups

GROUPS = {"evaluation.resamples": 100}


@pytest.fixture(scope="module")
def hands():
    """28 test people, 8 of them men, and 6 val people; polish on some images of 12 people."""
    array, table, split = simulated.people(test=28, noise=1.8)
    men, old = table["pid"] > 26, table["pid"] % 2 == 0
    table = table.assign(
        gender=np.where(men, "male", "female"),
        age=np.where(old, 40, 21),
        skin_color=np.where(table["pid"] == 10, "", "Fair "),
        nail_polish=((table["pid"] < 19) & (table.index % 8 < 4)).astype(int),
    )
    return array, table, split


def measured(hands, **own):
    array, table, split = hands
    p = studied.read("robustness", "demo", "demo", "demo", 0, {**GROUPS, **own})
    data = SimpleNamespace(images=table, split=split)
    return groups.evaluate(array, table, data, "pretrained", p)


def by_hand(array, table, split, asked, threshold):
    """Rank-1, EER, FMR and FNMR of the queries asked for: mean over trials, aspects together."""
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    row = dict(zip(table["image_id"], range(len(table)), strict=True))
    found = []
    for trial in range(3):
        hits, scores, genuine = [], [], []
        for aspect in ("dorsal_r", "palmar_l"):
            here = split[(split["trial"] == trial) & (split["test_aspect"] == aspect)]
            own = here[here["gallery"] == "same_aspect"]
            for name, pid in here.loc[here["role"] == "query", ["image_id", "pid"]].to_numpy():
                if name in asked:
                    each = unit[[row[one] for one in own["image_id"]]] @ unit[row[name]]
                    hits.append(own["pid"].iloc[int(each.argmax())] == pid)
                    scores.append(each)
                    genuine.append((own["pid"] == pid).to_numpy())
        scores, genuine = np.concatenate(scores), np.concatenate(genuine)
        far, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
        eer = far[np.argmin(np.abs(far - (1 - tar)))]
        matched = scores >= threshold
        found.append([np.mean(hits), eer, matched[~genuine].mean(), (~matched[genuine]).mean()])
    return np.mean(found, axis=0)


def test_rates_of_a_group_equal_a_count_over_its_queries(hands):
    table = hands[1]
    found = measured(hands, fmr=0.05)
    threshold = found["threshold"].unique().item()
    for attribute, group, asked in [
        ("everybody", "everybody", table),
        ("gender", "female", table[table["gender"] == "female"]),
        ("age", "25 and more", table[table["age"] == 40]),
        ("nail_polish", "with polish", table[table["nail_polish"] == 1]),
    ]:
        here = found[(found["attribute"] == attribute) & (found["group"] == group)]
        here = here.set_index("metric").loc[list(groups.METRICS)]
        expected = by_hand(*hands, set(asked["image_id"]), threshold)
        np.testing.assert_allclose(
            here["value"], expected, atol=0.004
        )  # the EER of a stepped curve
        np.testing.assert_allclose(here["value"].iloc[[0, 2, 3]], expected[[0, 2, 3]])
        assert (here["low"] < here["value"]).all() and (here["value"] < here["high"]).all()
        queries = hands[2].loc[hands[2]["role"] == "query", ["image_id", "pid"]]
        queries = queries[queries["image_id"].isin(asked["image_id"])]
        assert set(here["people"]) == {queries["pid"].nunique()}
        assert set(here["images"]) == {queries["image_id"].nunique()}
    rank1 = found[found["metric"] == "rank1"].set_index("group")["value"]
    assert rank1["25 and more"] != rank1["under 22"], "they differ, by chance alone"


def test_everybody_has_the_eer_of_verification(hands):
    found = measured(hands)
    array, table, split = hands
    own = split[split["gallery"] != "all_aspects"]
    plain = verification.evaluate(array, table, own, "w", resamples=20).metrics
    pooled = plain[(plain["test_aspect"] == "all") & (plain["metric"] == "eer")]
    eer = found[(found["metric"] == "eer") & (found["group"] == "everybody")]
    assert eer["value"].item() == pytest.approx(pooled.query("subset == 'all'")["value"].item())


def test_of_fewer_than_ten_people_nothing_is_told(hands, tmp_path):
    found = measured(hands)
    few = found[found["group"] == "male"]  # 8 people
    told = ["value", "low", "high", "images", "people"]
    assert len(few) == len(groups.METRICS) and few[told].isna().all(axis=None)
    assert set(few["remark"]) == {"too small: fewer than 10 people"}
    enough = found[found["group"] == "female"]
    assert enough[told].notna().all(axis=None) and set(enough["remark"]) == {""}
    path = files.write_csv(tmp_path / "groups.csv", found)
    lines = [line for line in path.read_text().splitlines() if ",male," in line]
    assert len(lines) == 4 and all(",,,,," in line for line in lines)
    assert set(measured(hands)["group"]) >= {"fair", "not said"}


def test_ten_people_are_enough(hands):
    array, table, split = hands
    for pid, told in ((25, True), (26, False)):
        table = table.assign(gender=np.where(table["pid"] >= pid, "male", "female"))
        found = measured((array, table, split), groups=["gender"])
        assert found.loc[found["group"] == "male", "value"].notna().all() == told


def test_the_threshold_is_chosen_on_val_people_where_they_have_pairs_enough(hands):
    array, table, split = hands
    found = measured(hands, fmr=0.05)
    assert "pairs of val people" in found["chosen_on"].iloc[0]
    scores = [
        verification.val_impostors(array, table, split, aspect, "cosine").scores
        for aspect in ("dorsal_r", "palmar_l")
    ]
    pairs = np.concatenate(scores)
    assert found["threshold"].iloc[0] == metrics.threshold_at(pairs, 0.05)
    assert (pairs >= found["threshold"].iloc[0]).mean() == pytest.approx(0.05, abs=0.001)
    found = measured(hands, fmr=0.001)  # 30,000 pairs would be needed
    assert found["chosen_on"].iloc[0].startswith("test people, since val people have")
    far = found[(found["metric"] == "fmr") & (found["group"] == "everybody")]
    assert far["value"].item() == pytest.approx(0.001, abs=0.0005)


def test_val_people_who_trained_choose_no_common_threshold(hands, monkeypatch):
    rows = pd.DataFrame([{"train_run": "demo-plain-seed0", "seen_val": 2}])
    chosen = {}
    for seen in (0, 2):
        monkeypatch.setattr(origin, "of", lambda p, data, s=seen: rows.assign(seen_val=s))
        found = measured(hands, fmr=0.05)
        chosen[seen] = found["chosen_on"].iloc[0], found["threshold"].iloc[0]
    assert "pairs of val people" in chosen[0][0] and chosen[0][1] != chosen[2][1]
    assert chosen[2][0] == (
        "test people, since 2 of the val people trained the weights, in demo-plain-seed0"
    )


def test_ages_fall_into_bands_that_begin_with_their_years():
    ages = pd.Series([17, 21, 22, 24, 25, 70, np.nan])
    assert list(groups.banded(ages, [22, 25])) == [
        "under 22", "under 22", "22 to 24", "22 to 24", "25 and more", "25 and more", "not said",
    ]  # fmt: skip
    assert groups.bands([30, 31]) == ["under 30", "30", "31 and more"]
    assert groups.bands([]) == ["all ages"]


def test_groups_that_a_data_set_does_not_name_are_left_out(hands):
    array, table, split = hands
    found = measured((array, table.drop(columns=["age", "gender"]), split))
    assert set(found["attribute"]) == {"everybody", "skin_color", "nail_polish"}
