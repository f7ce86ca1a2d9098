"""Checks of maps against closed forms, and pairs that nobody picks."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats
from torch import nn

from clipfh_lib import studied
from clipfh_lib.data import splits
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import ModelParams
from clipfh_lib.studies import explaining, faithfulness, maps, pairing
from clipfh_lib.studies.opened import Opened
from clipfh_lib.study import LimitParams, RemovalParams

HOW = Preprocess(8, 8, "bicubic", (0.0,) * 3, (1.0,) * 3)
WHITE = RemovalParams(steps=4, fill="white", random=1)


class Dark(nn.Module):
    """(share of black, share of white): the cosine to (1, 0) is known for any number of places."""

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros(1))

    def encode_image(self, images):
        white = images.mean(dim=(1, 2, 3)) + self.none
        return torch.stack([1 - white, white], dim=1)


DARK = Opened(Dark(), Dark(), HOW, "untrained", None)


def half_black(number=2):
    """The left half of each picture is black, the right one white."""
    pixels = np.full((number, 8, 8, 3), 255, np.uint8)
    pixels[:, :, :4] = 0
    return pixels


def left_first(number=2):
    """A map that is highest where the picture is black."""
    heat = np.zeros((number, 8, 8), np.float32)
    heat[:, :, :4] = 1
    return heat


def cosine(black):
    return black / np.hypot(black, 1 - black)


def test_deletion_and_insertion_are_those_of_a_closed_form():
    """Of half a picture of black, removal by a map of that half leaves 1/2 - k/4, and then none."""
    target = np.array([[1.0, 0.0], [2.0, 0.0]])
    found = faithfulness.removal(DARK, half_black(), target, left_first(), WHITE, batch=3)
    black = np.array([0.5, 0.25, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(found[0], [cosine(black)] * 2, atol=1e-6)
    np.testing.assert_allclose(found[1], [cosine(black[[4, 1, 0, 0, 0]])] * 2, atol=1e-6)
    away = faithfulness.removal(DARK, half_black(), target, 1 - left_first(), WHITE)
    np.testing.assert_allclose(away[0], [cosine(np.array([0.5, 0.5, 0.5, 0.25, 0]))] * 2, atol=1e-6)
    assert (faithfulness.area(found[0]) < faithfulness.area(away[0])).all()
    assert (faithfulness.area(found[1]) > faithfulness.area(away[1])).all()


def test_the_area_is_that_of_trapezoids():
    curves = np.array([[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
    np.testing.assert_allclose(faithfulness.area(curves), [0.25, 0.5])


def test_places_of_equal_height_go_in_a_random_order():
    flat = np.zeros((1, 8, 8), np.float32)
    found = faithfulness.removal(DARK, half_black(1), np.array([[1.0, 0.0]]), flat, WHITE)
    top_down = cosine(0.5 * np.array([1, 0.75, 0.5, 0.25, 0]))
    assert np.abs(found[0, 0] - top_down).max() > 0.01, "not row by row"
    assert found[0, 0, 0] == pytest.approx(cosine(0.5)) and found[0, 0, 4] == pytest.approx(0)
    again = faithfulness.removal(DARK, half_black(1), np.array([[1.0, 0.0]]), flat, WHITE)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("fill, wanted", [("mean", (50, 100, 0)), ("white", (255, 255, 255))])
def test_what_is_removed_becomes_the_mean_colour_or_white(fill, wanted):
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = 100, 200, 0
    assert (faithfulness.filled(image, fill) == wanted).all()


def test_a_blur_keeps_the_mean_and_what_is_large_and_loses_the_detail():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    blurred = faithfulness.filled(image, "blur")
    assert blurred.std() < 0.2 * image.std()
    assert blurred.mean() == pytest.approx(image.mean(), abs=2)
    image[:, :32] //= 4
    left, right = np.split(faithfulness.filled(image, "blur"), 2, axis=1)
    assert right.mean() > 2 * left.mean()


def test_random_maps_are_as_coarse_as_their_grid_and_the_same_for_a_seed():
    found = faithfulness.random_maps(3, (2, 4), (32, 64), 0)
    assert found.shape == (3, 32, 64)
    np.testing.assert_array_equal(found, faithfulness.random_maps(3, (2, 4), (32, 64), 0))
    assert (found != faithfulness.random_maps(3, (2, 4), (32, 64), 1)).any()
    assert np.ptp(found[:, :8, :8], axis=(1, 2)).max() == 0, "a corner is one place"


def test_correlation_is_spearmans_and_a_flat_map_has_none():
    draw = np.random.default_rng(0)
    one, two = draw.random((2, 4, 6, 5))
    one = np.maximum(one - 0.4, 0)  # with ties
    two[0] = one[0] ** 3
    two[1] = 0.0
    found = faithfulness.correlation(one, two)
    pairs = zip(one[2:], two[2:], strict=True)
    wanted = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]
    np.testing.assert_allclose(found[2:], wanted)
    assert found[0] == pytest.approx(1) and np.isnan(found[1])


def test_energy_inside_is_its_share_and_maps_or_masks_without_any_have_none():
    heat = np.zeros((3, 2, 2))
    heat[0] = [[3, 1], [0, 0]]
    heat[1] = 1.0
    masks = np.zeros((3, 2, 2), bool)
    masks[:, 0, 0] = True
    masks[1] = False
    found = faithfulness.inside(heat, masks)
    assert found[0] == 0.75 and np.isnan(found[1:]).all()
    even = faithfulness.inside(np.ones((1, 8, 8)), half_black(1)[..., 0] == 0)
    assert even == 0.5, "an even map has the area's share"


def test_a_row_of_a_check_has_mean_interval_and_difference_over_people():
    draw = np.random.default_rng(0)
    values, people = draw.random(40), np.repeat(np.arange(10), 4)
    against = values + 0.2 + 0.01 * draw.random(40)
    values[0] = np.nan
    row = faithfulness.tested("grad_cam", "deletion", values, people, 500, against).iloc[0]
    assert (row["pairs"], row["people"], row["flat"]) == (39, 10, 1)
    assert row["value"] == pytest.approx(np.nanmean(values))
    assert row["low"] < row["value"] < row["high"]
    assert row["difference"] == pytest.approx(np.mean((values - against)[1:]))
    assert row["difference_high"] < -0.2 and row["p"] < 0.02
    alone = faithfulness.tested("rollout", "other_gallery", np.ones(40), people, 500).iloc[0]
    assert (alone["low"], alone["high"]) == (1, 1), (
        "no rule of three for what is so by construction"
    )
    none = faithfulness.tested("grad_cam", "deletion", np.full(4, np.nan), people[:4], 50).iloc[0]
    assert none["flat"] == 4 and np.isnan(none["value"])


def checked(**values):
    """Rows of one map's checks: deletion and insertion against random, two correlations."""
    told = {
        "deletion": -0.1,
        "insertion": 0.1,
        "random_weights": 0.1,
        "other_gallery": 0.2,
    } | values
    rows = [
        {"map": "m", "check": n, "value": v, "difference_low": v - 0.05} for n, v in told.items()
    ]
    return pd.DataFrame(rows).assign(difference_high=lambda t: t["value"] + 0.05)


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "passes all checks"),
        ({"other_gallery": 0.995}, "ignores its target"),
        ({"other_gallery": 0.95}, "hardly changes with its target"),
        ({"random_weights": 0.6}, "random weights"),
        ({"deletion": -0.04}, "deletion: no better"),
        ({"insertion": -0.2}, "insertion: no better"),
    ],
)
def test_verdicts_say_which_check_a_map_fails(values, said):
    assert said in faithfulness.verdicts(checked(**values), LimitParams())["says"].item()


def test_attention_is_marked_as_ignoring_its_target():
    table = checked().assign(map="rollout")
    assert "ignores its target" in faithfulness.verdicts(table, LimitParams())["says"].item()


@pytest.mark.parametrize(
    "limits, said",
    [
        ({}, "passes all checks"),
        ({"same": 0.2, "nearly": 0.2}, "ignores its target"),
        ({"nearly": 0.2}, "hardly changes with its target"),
        ({"alike": 0.1}, "random weights"),
    ],
)
def test_the_limits_of_the_recipe_decide(limits, said):
    p = studied.read(
        "attention", "demo", "demo", "demo", 0, {f"limits.{k}": v for k, v in limits.items()}
    )
    assert said in faithfulness.verdicts(checked(), p.limits)["says"].item()


# --- a whole round on a trained network ---------------------------------------------------------


@pytest.fixture(scope="module")
def round_of_checks(tmp_path_factory):
    """The demo CLIP on noise and drawn discs: quick, and its attention ignores the target."""
    p = studied.read("attention", "demo", "demo", "demo", 0, {"evaluation.resamples": 200})
    encoder, preprocess = backbones.load(ModelParams(name="demo_clip", weights=p.model.weights))
    network = Opened(encoder, encoder, preprocess, "pretrained", None)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 112, 112, 3), np.uint8)
    pixels[:, 30:80, 30:80] //= 3
    with torch.no_grad():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0
        array = encoder.encode_image(inputs).numpy()
    place = pd.DataFrame({"query": [0, 1, 2], "found": [3, 4, 5], "other": [6, 7, 8]})
    p = p.model_copy(update={"removal": RemovalParams(steps=3, random=2)})
    heat = {
        name: explaining.of_pairs(name, network, pixels[:3], pixels[3:6])[0]
        for name in ("hires_cam", "rollout")
    }
    heat["hires_cam"][1] = 0.0
    return faithfulness.checks(heat, network, pixels, place, array, np.array([1, 2, 3]), p)


def test_checks_measure_every_map_and_leave_flat_ones_out(round_of_checks):
    table = round_of_checks.table.set_index(["map", "check"])
    assert len(table) == 8
    assert table.loc[("rollout", "other_gallery"), "value"] == pytest.approx(1)
    assert table.loc[("hires_cam", "other_gallery"), "value"] < 0.99
    assert table.loc[("rollout", "random_weights"), "value"] < 0.95
    assert (table.loc["hires_cam"]["flat"] >= 1).all()
    assert table.loc[("rollout", "deletion"), "flat"] == 0
    assert table.loc[("rollout", "deletion"), "random"] == pytest.approx(
        faithfulness.area(
            round_of_checks.curves.query("map == 'random' and check == 'deletion'")[
                "value"
            ].to_numpy()
        )
    )
    assert set(round_of_checks.curves["map"]) == {"random", "hires_cam", "rollout"}


def test_energy_holds_maps_against_the_area_of_the_hand():
    heat = {"grad_cam": left_first(4), "rollout": np.ones((4, 8, 8)), "flat": np.zeros((4, 8, 8))}
    masks = half_black(4)[..., 0] == 0
    table = faithfulness.energy(heat, masks, np.arange(4), 100).set_index("map")
    assert table.loc["grad_cam", ["share", "area", "difference"]].tolist() == [1, 0.5, 0.5]
    assert table.loc["rollout", "difference"] == 0
    assert table.loc["flat", "flat"] == 4 and table.loc["grad_cam", "images"] == 4


# --- pairs --------------------------------------------------------------------------------------


def ranked(people=8):
    """Queries of one aspect: two a person, even people right at rank 1, odd ones at rank 3."""
    rows = []
    for pid in range(people):
        for number in (0, 1):
            first = pid if pid % 2 == 0 else (pid + 1) % people
            row = {"test_aspect": "dorsal_r", "trial": 0, "gallery": "same_aspect", "pid": pid}
            row |= {"query": f"q{pid}{number}", "rank": 1 if pid % 2 == 0 else 3}
            rows.append(row | {"top_1": f"g{first}"})
    ranks = pd.DataFrame(rows).astype({"rank": "Int64"})
    gallery = {"role": "gallery", "gallery": "same_aspect", "trial": 0, "test_aspect": "dorsal_r"}
    split = pd.DataFrame({"image_id": [f"g{n}" for n in range(people)], "pid": range(people)})
    return ranks, split.assign(**gallery)


def test_pairs_are_right_or_wrong_first_matches_one_a_person_with_a_stranger():
    ranks, split = ranked()
    pairs = pairing.choose(ranks, split, right=3, wrong=2)
    assert list(pairs["kind"]) == ["right"] * 3 + ["wrong", "missed"] * 2
    right = pairs[pairs["kind"] == "right"]
    assert right["pid"].is_unique and (right["pid"] == right["found_pid"]).all()
    assert (right["pid"] % 2 == 0).all() and (right["rank"] == 1).all()
    wrong, missed = (pairs[pairs["kind"] == kind] for kind in ("wrong", "missed"))
    assert (wrong["pid"] != wrong["found_pid"]).all()
    assert list(missed["found"]) == [f"g{pid}" for pid in wrong["pid"]]
    assert list(missed["query"]) == list(wrong["query"])
    strangers = pairs["other"].str[1:].astype(int)
    assert ((strangers != pairs["pid"]) & (strangers != pairs["found_pid"])).all()
    shuffled = pairing.choose(ranks.sample(frac=1, random_state=1), split, right=3, wrong=2)
    pd.testing.assert_frame_equal(pairs, shuffled)


def test_pairs_need_queries_and_a_third_person():
    ranks, split = ranked()
    with pytest.raises(InputError, match="searches for nobody"):
        pairing.choose(ranks.assign(rank=pd.NA), split, 1, 1)
    ranks, split = ranked(people=2)
    with pytest.raises(InputError, match="third person"):
        pairing.choose(ranks, split, 1, 1)


def test_rows_and_cosines_of_pairs_are_those_of_their_images():
    pairs = pd.DataFrame({"query": ["a", "c"], "found": ["b", "a"], "other": ["c", "b"]})
    place = pairing.rows(pairs, pd.DataFrame({"image_id": ["b", "c", "a"]}))
    assert place.to_numpy().tolist() == [[2, 0, 1], [1, 2, 0]]
    array = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(pairing.cosines(array, place), [0.5**0.5, 0.5**0.5])


def test_the_one_person_has_more_images_than_are_shown_all_of_one_aspect():
    table = pd.DataFrame({"image_id": [f"i{n}" for n in range(9)], "pid": [1] * 3 + [2] * 6})
    table["aspect"] = ["dorsal_r"] * 3 + ["dorsal_r", "palmar_r"] + ["palmar_r"] * 4
    mine = pairing.of_person(table, 4)
    assert set(mine["pid"]) == {2} and set(mine["aspect"]) == {"palmar_r"} and len(mine) == 5
    assert len(pairing.of_person(table.drop(columns="aspect"), 4)) == 6
    assert len(pairing.of_person(table[:2], 4)) == 2, "fewer, where nobody has more"


def test_shown_pairs_are_spread_and_a_wrong_one_comes_with_what_it_missed():
    kinds = ["right"] * 4 + ["wrong", "missed"] + ["right", "wrong", "missed"]
    pairs = pd.DataFrame({"kind": kinds})
    assert pairing.shown(pairs, "right", 3).tolist() == [0, 2, 6]
    assert pairing.shown(pairs, "right", 9).tolist() == [0, 1, 2, 3, 6]
    assert pairing.shown(pairs, "wrong", 2).tolist() == [4, 5, 7, 8]
    assert pairing.shown(pairs[:3], "wrong", 2).tolist() == []


def test_saved_maps_are_means_of_blocks_with_their_names(tmp_path):
    heat = np.random.default_rng(0).random((2, 3, 8, 12)).astype(np.float32)
    explaining.save({"trained.grad_cam": heat}, tmp_path / "maps.safetensors")
    kept = load_file(tmp_path / "maps.safetensors")["trained.grad_cam"]
    wanted = heat.reshape(2, 3, 2, 4, 3, 4).mean(axis=(3, 5))
    assert kept.dtype == np.float16 and kept.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(kept, wanted, atol=1e-3)


# --- identity -----------------------------------------------------------------------------------


def test_the_mean_of_the_others_leaves_an_image_itself_out():
    array = np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]], np.float32)
    wanted = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(explaining.others(array), wanted)
    with pytest.raises(InputError, match="two images"):
        explaining.others(array[:1])


def test_identity_maps_name_their_logit_and_use_the_head_where_there_is_one(drawn):
    own = {"data.draw": None, "data.root": str(drawn), "evaluation.resamples": 50}
    p = studied.read("attention", "demo", "demo", "demo", 0, own)
    p = p.model_copy(update={"images": 3})
    data = splits.prepare(p, "outputs")
    encoder, preprocess = backbones.load(p.model)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.out = encoder, nn.Linear(128, 9)

        def forward(self, images):
            return self.out(self.encoder.encode_image(images))

    plain = Opened(encoder, encoder, preprocess, "pretrained", None)
    found = explaining.identities("hires_cam", plain, data, p)
    assert [one.said for one in found] == ["cosine to the mean of the person's other images"]
    assert found[0].heat.shape == (3, 112, 112) and found[0].table["pid"].nunique() == 1
    head = Head()
    both = explaining.identities("hires_cam", plain._replace(logits=head.forward), data, p)
    assert "trained head" in both[1].said
    assert set(both[1].table["pid"]) <= set(data.train["pid"])
    np.testing.assert_allclose(both[0].heat, found[0].heat, atol=1e-5)
    images = torch.from_numpy(both[1].pixels.copy()).permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    order = sorted(set(zip(data.train["pid"], data.train["aspect"], strict=True)))
    whose = zip(both[1].table["pid"], both[1].table["aspect"], strict=True)
    score = explaining.ToPeople(encoder, head, torch.tensor([order.index(one) for one in whose]))
    wanted = maps.cam("hires_cam", score, (images - mean) / std, maps.place(plain))
    np.testing.assert_allclose(both[1].heat, wanted, atol=1e-3)
