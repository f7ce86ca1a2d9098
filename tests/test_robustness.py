"""Graded and real conditions: the same pixels for all, the right side changed, paired losses."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
import simulated
import tiny_clip
import torch

from clipfh_lib import studied
from clipfh_lib.data import corruptions, images, loaders, splits, transforms
from clipfh_lib.evaluation import drops, embeddings, intervals, retrieval
from clipfh_lib.files import InputError
from clipfh_lib.studies import opened, real_conditions, robustness
from clipfh_lib.study import Condition

ASPECTS = ["dorsal_r", "dorsal_l"]
CHANGED = robustness.CHANGED


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Names of two tiny CLIPs of different input sizes."""
    folder = tmp_path_factory.mktemp("config")
    return [tiny_clip.config(folder, f"tiny_{size}", size=size) for size in (48, 32)]


@pytest.fixture
def study(drawn, models):
    """Run, network and data of a study of random weights on three people."""

    def made(model=0, **own):
        few = {"conditions": ["darker", "ring"], "severities": [1, 4], "canvas": 64}
        base = {"data.root": str(drawn), "data.draw": None, "data.trials": 2, "real": []}
        base |= {"data.aspects": ASPECTS, "model.weights": "none", "model.name": models[model]}
        own = {key.replace("__", "."): value for key, value in own.items()}
        own = {**base, **few, "evaluation.resamples": 50, **own}
        p = studied.read("robustness", "demo", "demo", "demo", 0, own)
        data = splits.prepare(p, "outputs")
        return p, opened.open(p, data), data

    return made


def rank1(frame, condition, severity=None, gallery="same_aspect"):
    here = (frame["condition"] == condition) & (frame["gallery"] == gallery)
    here &= (frame["metric"] == "rank1") & (frame["subset"] == "all")
    here &= (frame["severity"] == severity) if severity is not None else True
    return frame[here]


def test_params_name_the_conditions_that_there_are(study):
    assert list(get_args(Condition)) == list(corruptions.CONDITIONS)
    with pytest.raises(InputError, match="conditions.*nearest: darker"):
        study(conditions=["darcker"])
    with pytest.raises(InputError, match="severities: .* must rise"):
        study(severities=[3, 1])
    with pytest.raises(InputError, match="dorsal_l is not tested here; tested: dorsal_r"):
        p, _, data = study(aspects=["dorsal_l"], data__aspects=["dorsal_r"])
        robustness.tested(data.split, p)


def test_models_of_other_input_sizes_see_the_same_changed_pixels(study):
    seen, found = [], []
    for model in (0, 1):
        p, network, data = study(model)
        assert network.preprocess.height == (48, 32)[model]
        measured = robustness.evaluate(network, data, p)
        seen.append(measured.pixels)
        found.append(measured.drops["value"].to_numpy())
    pd.testing.assert_frame_equal(*seen)
    assert seen[0]["sha256"].is_unique and len(seen[0]) == 1 + 2 * 2
    assert not np.array_equal(*found)
    p, network, data = study(0, draw_seed=1)
    other = robustness.evaluate(network, data, p).pixels
    assert (other["sha256"] != seen[0]["sha256"]).tolist() == [False, True, True, True, True]


def test_clean_is_the_run_itself_where_the_canvas_is_its_size(study):
    p, network, data = study(canvas=48, galleries=["same_aspect", "all_aspects"], aspects=[])
    measured = robustness.evaluate(network, data, p).drops
    array, table = embeddings.of(network.embedder, network.preprocess, data.test, data.root, p)
    plain = retrieval.evaluate(array, table, data.split, "w", resamples=50).metrics
    clean = measured[measured["condition"] == "clean"]
    same = ["test_aspect", "gallery", "subset", "metric"]
    both = clean.merge(plain, on=same, suffixes=("", "_plain"))
    assert len(both) == len(clean) > 20 and clean["drop"].isna().all()
    for column in ("value", "low", "high", "people"):
        np.testing.assert_allclose(both[column], both[f"{column}_plain"])
    assert set(clean["gallery"]) == {"same_aspect", "all_aspects"}


def by_hand(plain, changed, ids, split, side):
    """Rank-1 of queries in the gallery of their aspect, mean over trials of all aspects."""
    row, means = {name: place for place, name in enumerate(ids)}, []
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (plain, changed)]
    query_of = unit[side in ("query", "both")]
    gallery_of = unit[side in ("gallery", "both")]
    for trial in sorted(split["trial"].dropna().unique()):
        hits = []
        for aspect in ASPECTS:
            here = split[(split["trial"] == trial) & (split["test_aspect"] == aspect)]
            gallery = here[here["gallery"] == "same_aspect"]
            for name, pid in here.loc[here["role"] == "query", ["image_id", "pid"]].to_numpy():
                rows = [row[each] for each in gallery["image_id"]]
                scores = gallery_of[rows] @ query_of[row[name]]
                hits.append(gallery["pid"].iloc[int(scores.argmax())] == pid)
        means.append(np.mean(hits))
    return np.mean(means)


def test_each_side_equals_a_loop_over_queries(study):
    sides = ["query", "gallery", "both"]
    p, network, data = study(sides=sides, severities=[4], aspects=ASPECTS)
    measured = robustness.evaluate(network, data, p)
    split = robustness.tested(data.split, p)
    table = data.images[data.images["image_id"].isin(split["image_id"])]
    names, size = list(table["image_id"]), images.Size(64, 64, p.data.resize)
    canvas = loaders.HandImages(table, data.root, size).pixels

    def encoded(change):
        size = images.Size(48, 48)
        small = [images.fit(change(*each), size) for each in zip(canvas, names, strict=True)]
        data = type("Shown", (), {"__len__": lambda _: len(small)})()
        pixels, pids = torch.from_numpy(np.stack(small)), torch.zeros(len(small))
        type(data).__getitem__ = lambda _, rows: loaders.Batch(
            pixels[rows], pids[rows], torch.tensor(rows)
        )
        how = p.embed, torch.device("cpu"), True
        return embeddings.encode(network.embedder, network.preprocess, data, *how)

    plain = encoded(lambda pixels, name: pixels)
    for condition in p.conditions:
        changed = encoded(lambda x, name, c=condition: corruptions.corrupt(x, c, 4, 0, name))
        found = rank1(measured.drops, condition, 4).query("test_aspect == 'all'")
        expected = [by_hand(plain, changed, names, split, side) for side in sides]
        np.testing.assert_allclose(found.set_index("side").loc[sides, "value"], expected)
        clean = rank1(measured.drops, "clean", 0).query("test_aspect == 'all'")["value"].item()
        assert clean == pytest.approx(by_hand(plain, plain, names, split, "both"))
        np.testing.assert_allclose(found["drop"], clean - found["value"])
    assert measured.drops["drop"].abs().max() > 0.05, "something was lost"


def test_the_area_is_that_under_the_curve(study):
    p, network, data = study(aspects=["dorsal_r"])
    measured = robustness.evaluate(network, data, p)
    clean = rank1(measured.drops, "clean")["value"].item()
    for condition in p.conditions:
        curve = [clean, *rank1(measured.drops, condition).sort_values("severity")["value"]]
        under = rank1(measured.areas, condition)
        assert under["value"].item() == pytest.approx(np.trapezoid(curve, [0, 1, 4]) / 4)
        assert under["before"].item() == pytest.approx(clean)
        assert under["to_severity"].item() == 4


@pytest.fixture(scope="module")
def ranks():
    array, table, split = simulated.people(noise=1.5)
    worse = array + 2 * np.random.default_rng(1).standard_normal(array.shape)
    return [retrieval.evaluate(each, table, split, "w", resamples=20) for each in (array, worse)]


def test_sums_give_the_metrics_of_retrieval(ranks):
    found = drops.values(drops.sums(ranks[0].ranks), 20)
    plain = ranks[0].metrics
    both = found.merge(plain, on=[*drops.KEY, "metric"], suffixes=("", "_plain"))
    assert len(both) == len(found) > 30
    for column in ("value", "sd", "low", "high", "queries", "people"):
        np.testing.assert_allclose(both[column], both[f"{column}_plain"], rtol=1e-6)


def test_a_drop_is_paired_by_person(ranks):
    before, after = (drops.sums(each.ranks) for each in ranks)
    found = drops.between(before, after, 2000)
    compared = retrieval.compare(ranks[0].ranks, ranks[1].ranks, 2000)
    both = found.merge(compared, on=[*drops.KEY, "metric"], suffixes=("", "_there"))
    assert len(both) == len(found) > 30
    for ours, theirs in (("drop", "difference"), ("drop_low", "low"), ("drop_high", "high")):
        np.testing.assert_allclose(both[ours], both[theirs], atol=1e-6)
    key = ("palmar_l", "same_aspect", "all")
    one = found[(found[drops.KEY] == list(key)).all(axis=1) & (found["metric"] == "rank1")].iloc[0]
    first, second = before[key], after[key]
    draw, shares = np.random.default_rng(5), []
    for _ in range(4000):
        who = draw.integers(len(first.people), size=len(first.people))
        a, b = (
            intervals.trial_means(each.sums[who], each.counts[who])[:, 0].mean()
            for each in (first, second)
        )
        shares.append(1 - b / a)
    ends = intervals.percentiles(np.array(shares)[:, None], len(first.people))
    assert one["relative_drop"] == pytest.approx(one["drop"] / one["before"])
    assert one["relative_drop_low"] == pytest.approx(ends.low[0], abs=0.02)
    assert one["relative_drop_high"] == pytest.approx(ends.high[0], abs=0.02)


def test_no_change_and_total_loss_have_intervals_of_the_rule_of_three():
    counts = np.full((20, 2), 3)
    right = np.repeat(counts[:, :, None] * 1.0, 2, axis=2)
    right[::2, :, 0] = 0  # half of the people
    none = intervals.change(right, counts, right, counts, 200)
    reach = intervals.rule_of_three(0, 20)[1]
    assert none.drop.tolist() == [0, 0] and none.high.tolist() == [reach, reach]
    assert none.low.tolist() == [-reach, -reach]
    gone = intervals.change(right, counts, 0 * right, counts, 200)
    assert gone.relative.tolist() == [1, 1] and gone.relative_high.tolist() == [1, 1]
    np.testing.assert_allclose(gone.relative_low, 1 - reach / np.array([0.5, 1]))
    with pytest.raises(ValueError, match="the same people"):
        intervals.change(right, counts, right[1:], counts[1:], 200)


# --- real conditions -----------------------------------------------------------------------------


def test_images_that_the_protocol_leaves_out_ask_in_their_persons_galleries(study):
    p, network, data = study(real=["accessories", "nail_polish", "include"])
    found = real_conditions.evaluate(network, data, p, "outputs")
    worn = data.images[(data.images["accessories"] == 1) & data.images["aspect"].isin(ASPECTS)]
    gallery = data.split[data.split["gallery"] == "same_aspect"]
    array, table = embeddings.of(network.embedder, network.preprocess, data.images, data.root, p)
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    row, means = {name: place for place, name in enumerate(table["image_id"])}, []
    for _, here in gallery.groupby("trial"):
        hits = []
        for name, pid, aspect in worn[["image_id", "pid", "aspect"]].to_numpy():
            own = here[here["test_aspect"] == aspect]
            if (own["pid"] == pid).any():
                scores = unit[[row[each] for each in own["image_id"]]] @ unit[row[name]]
                hits.append(own["pid"].iloc[int(scores.argmax())] == pid)
        means.append(np.mean(hits))
    asked = found[(found["condition"] == "accessories") & (found["subset"] == "all")]
    asked = asked[(asked["metric"] == "rank1") & (asked["test_aspect"] == "all")]
    assert len(hits) > 3 and asked["value"].item() == pytest.approx(np.mean(means))
    assert asked["queries"].item() == len(hits)
    absent = found[found["condition"] == "include"]
    assert absent["note"].tolist() == ["this data set takes all images"]
    assert absent["value"].isna().all()


def test_extra_queries_are_of_enrolled_people_and_not_in_their_own_gallery():
    rows = [("a1", 1, 0), ("b1", 2, 0), ("a2", 1, 1), ("b1", 2, 1)]
    gallery = pd.DataFrame(rows, columns=["image_id", "pid", "trial"])
    gallery = gallery.assign(role="gallery", test_aspect="dorsal_r", gallery="same_aspect")
    table = pd.DataFrame(
        [("a1", 1, "dorsal_r"), ("a3", 1, "palmar_r"), ("b2", 2, "dorsal_r"), ("c", 3, "dorsal_r")],
        columns=["image_id", "pid", "aspect"],
    )
    found = real_conditions.queries(gallery, table)
    assert set(map(tuple, found[["image_id", "trial"]].to_numpy())) == {
        ("a1", 1), ("b2", 0), ("b2", 1),
    }  # fmt: skip
    assert set(found["role"]) == {"query"}


def test_what_was_before_is_of_the_same_people_and_aspects():
    array, table, split = simulated.people(noise=1.5)
    plain = retrieval.evaluate(array, table, split, "w", resamples=10).ranks
    few = plain[(plain["test_aspect"] == "dorsal_r") & (plain["pid"] < 12)]
    before, after = real_conditions._paired(plain, few)
    assert before.keys() == after.keys() and {key[0] for key in before} == {"dorsal_r"}
    for key, one in before.items():
        assert one.people.tolist() == after[key].people.tolist()


def test_mirrored_hands_stand_beside_the_same_ones_unmirrored(study):
    p, network, data = study(real=["mirrored", "other_aspect"])
    found = real_conditions.evaluate(network, data, p, "outputs")
    frame = found[(found["metric"] == "mAP") & (found["subset"] == "all")]
    other = frame[frame["condition"] == "other_aspect"].set_index("test_aspect")
    mirrored = frame[frame["condition"] == "mirrored"].set_index("test_aspect")
    assert mirrored.loc["dorsal_l", "gallery"] == "dorsal_r"
    for aspect in ASPECTS:
        assert mirrored.loc[aspect, "before"] == pytest.approx(other.loc[aspect, "value"])
    size = network.preprocess.size(p.data.resize)
    pixels = torch.from_numpy(np.array(loaders.HandImages(data.test, data.root, size).pixels))
    bench = real_conditions.Bench(network, data, p, "outputs", None)
    with torch.no_grad():
        flipped = transforms.normalise(pixels, *network.preprocess[3:]).flip(3)
        expected = network.embedder.encode_image(flipped).numpy()
    ours = real_conditions._of_mirror_images(bench, data.test)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_another_data_set_is_tested_by_its_own_split(study, project):
    own = "data:\n  catalogue: hd\n  draw: {people: 4, distractors: 1, images: 3, size: 48}\n"
    (project / "params/datasets/small.yaml").write_text(own + "  cut: none\n  trials: 2\n")
    p, network, data = study(other_dataset="small")
    found = real_conditions.evaluate(network, data, p, "outputs")
    assert set(found["condition"]) == {"other_dataset"} and found["value"].between(0, 1).any()
    row = found[(found["metric"] == "rank1") & (found["subset"] == "all")].iloc[0]
    assert (row["gallery"], row["people"]) == ("default", 4) and np.isnan(row["drop"])
    assert "other people" in row["note"]
    with pytest.raises(InputError, match="no params/datasets/smell.yaml; nearest: small"):
        p, network, data = study(other_dataset="smell")
        real_conditions.evaluate(network, data, p, "outputs")
