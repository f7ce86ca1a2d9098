"""Each condition does what its name says, in the right direction, more at each severity."""

import itertools

import cv2
import numpy as np
import pytest
from drawn_hands import hand

from clipfh_lib.data import anatomy, corruptions
from clipfh_lib.data.corruptions import CONDITIONS, KINDS, ON_THE_HAND, SEVERITIES, corrupt
from clipfh_lib.files import InputError

STEPS = (0, *SEVERITIES)
PAPER = (236, 240, 230)
IDS = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
OCCLUSIONS = [name for name in ON_THE_HAND if name != "blocks"]


@pytest.fixture(autouse=True)
def project():
    """Pixels only: no project's folder is needed, and 100 of them would take a minute."""


@pytest.fixture(scope="module")
def hands():
    """Bare hands with their fingers apart and the wrist in the picture."""
    return [hand(pid, 192, spread=0.9, scale=0.78, tip=0.93) for pid in range(6)]


def series(image, condition, image_id="a.jpg", seed=0):
    """The picture at severities 0..5."""
    return [corrupt(image, condition, severity, seed, image_id) for severity in STEPS]


def grey(value=128, height=96, width=128):
    return np.full((height, width, 3), value, np.uint8)


def dots(*places, height=150, width=200):
    """Paper with black dots at these places (x, y)."""
    image = np.full((height, width, 3), PAPER, np.uint8)
    for x, y in places:
        cv2.circle(image, (x, y), 4, (0, 0, 0), -1, cv2.LINE_AA)
    return image


def found(image):
    """Centres (k, 2) of the dots in a picture, from left to right."""
    ink = 1 - image.min(axis=2) / min(PAPER)
    count, labels = cv2.connectedComponents((ink > 0.2).astype(np.uint8))
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    centres = [[np.average(axis, weights=ink * (labels == k)) for axis in (x, y)]
               for k in range(1, count)]  # fmt: skip
    return np.array(sorted(centres))


def changed(before, after, least=10):
    """Which pixels differ by more than a few grey levels."""
    return np.abs(after.astype(int) - before).max(axis=2) > least


def grows(values, by=0.0):
    return all(later > earlier + by for earlier, later in itertools.pairwise(values))


def error(before, after):
    return float(((after.astype(float) - before) ** 2).mean())


# --- all of them -------------------------------------------------------------------------------


def test_every_condition_has_a_kind_and_kinds_stand_together():
    assert list(KINDS) == list(CONDITIONS) and SEVERITIES == (1, 2, 3, 4, 5)
    runs = [kind for kind, _ in itertools.groupby(KINDS.values())]
    assert runs == "lighting,pose,occlusion,blur,noise,jpeg,low resolution".split(",")
    assert [list(KINDS.values()).count(kind) for kind in runs] == [4, 5, 4, 1, 1, 1, 1]
    assert set(ON_THE_HAND) < set(CONDITIONS)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("width, height", [(64, 64), (96, 72), (100, 250), (400, 300)])
def test_pictures_of_any_shape_keep_shape_and_type_and_are_left_alone(
    hands, condition, width, height
):
    image = cv2.resize(hands[1].image, (width, height), interpolation=cv2.INTER_AREA)
    before = image.copy()
    image.flags.writeable = False  # as rows of the decode cache are
    out = corrupt(image, condition, 4, 0, "a.jpg")
    assert out.shape == image.shape and out.dtype == np.uint8 and out.flags["C_CONTIGUOUS"]
    assert out.flags.writeable and not np.shares_memory(out, image)
    np.testing.assert_array_equal(image, before)
    assert (out != image).any()
    np.testing.assert_array_equal(corrupt(image, condition, 4, 0, "a.jpg"), out)
    unchanged = corrupt(image, condition, 0, 0, "a.jpg")
    np.testing.assert_array_equal(unchanged, image)
    assert not np.shares_memory(unchanged, image)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_severity_changes_more_than_the_one_before(hands, condition):
    for each, name in zip(hands, IDS, strict=False):
        errors = [error(each.image, image) for image in series(each.image, condition, name)]
        assert grows(errors), (name, errors)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_images_seeds_and_conditions_are_drawn_apart(hands, condition):
    image = hands[0].image
    outs = [corrupt(image, condition, 5, seed, name) for seed in (0, 1) for name in IDS]
    assert len({out.tobytes() for out in outs}) >= 6  # of 8: one of four fingers may come up twice


def test_draws_are_the_same_on_every_machine():
    # A dot moves by 5 x 0.055 x 150 pixels, about; these were written down once.
    moves = [found(corrupt(dots((100, 75)), "translation", 5, seed, "x.jpg"))[0] - [100, 75]
             for seed in (0, 1)]  # fmt: skip
    np.testing.assert_allclose(moves, [[33.3, -20.7], [-43.2, -9.3]], atol=0.15)
    first = corrupt(grey(height=8, width=8), "noise", 5, 0, "a.jpg")[0, :2]
    np.testing.assert_allclose(first, [[97, 183, 148], [91, 154, 157]], atol=1)


def test_what_is_not_known_is_refused():
    with pytest.raises(InputError, match="condition 'fog': choose darker, "):
        corrupt(grey(), "fog", 1, 0, "a.jpg")
    for severity in (-1, 6, 2.5):
        with pytest.raises(InputError, match="of blur: choose 0"):
            corrupt(grey(), "blur", severity, 0, "a.jpg")
    for wrong in (grey().astype(np.float32), grey()[..., 0], grey()[None]):
        with pytest.raises(ValueError, match="uint8 is wanted"):
            corrupt(wrong, "blur", 1, 0, "a.jpg")


@pytest.mark.parametrize("condition", ["darker", "noise", "ring", "rotation"])
def test_a_batch_is_its_images_one_by_one_however_many_threads(hands, condition):
    pixels = np.stack([each.image for each in hands] * 3)
    names = [f"{number}.jpg" for number in range(len(pixels))]
    alone = [corrupt(*each, 0, name) for *each, name in
             zip(pixels, [condition] * 18, [3] * 18, names, strict=True)]  # fmt: skip
    known = corruptions.hands(pixels)
    for workers, read in ((1, None), (3, None), (0, known)):
        out = corruptions.batch(pixels, condition, 3, 0, names, workers, read)
        np.testing.assert_array_equal(out, np.stack(alone))
    assert len({image.tobytes() for image in alone}) > 6
    with pytest.raises(ValueError, match="18 images, 17 ids"):
        corruptions.batch(pixels, condition, 3, 0, names[:-1])
    assert corruptions.batch(pixels[:0], condition, 3, 0, []).shape == (0, 144, 192, 3)


# --- light -------------------------------------------------------------------------------------


def test_darker_is_darker_and_brighter_is_brighter():
    for name in IDS:
        dark = [float(image.mean()) for image in series(grey(), "darker", name)]
        bright = [float(image.mean()) for image in series(grey(), "brighter", name)]
        assert grows([-value for value in dark], 8) and grows(bright, 3)
        # three quarters of a stop each: half the light is 0.73 of the value
        assert dark[5] == pytest.approx(128 * 2 ** (-5 * 0.75 / 2.2), rel=0.15)
        assert bright[5] == pytest.approx(128 * 2 ** (5 * 0.22 / 2.2), rel=0.06)


def test_a_colour_cast_takes_channels_away_and_adds_none():
    hues = []
    for name in IDS:
        means = np.array(
            [image.mean(axis=(0, 1)) for image in series(grey(200), "colour_cast", name)]
        )
        assert means.max(axis=1) == pytest.approx(np.full(6, 200))
        casts = np.ptp(means, axis=1)
        assert grows(casts, 5) and casts[5] > 40
        hues.append((means[5].argmax(), means[5].argmin()))
        order = np.argsort(means[2])
        assert (np.argsort(means[5]) == order).all()  # one hue at every severity
    assert len(set(hues)) > 1


def test_uneven_light_is_full_at_one_side_and_fades_to_the_other():
    darkest = []
    for name in IDS:
        spreads = []
        for severity, image in enumerate(series(grey(200), "uneven_light", name)):
            assert image.max() in (199, 200)  # nothing is lit more than before
            spreads.append(int(image.max()) - int(image.min()))
            assert image.min() == pytest.approx(200 * np.exp(-0.3 * severity), abs=2)
        assert grows(spreads, 10)
        darkest.append(tuple(np.argwhere(image[..., 0] == image.min())[0] // 32))
    assert len(set(darkest)) > 1


# --- pose --------------------------------------------------------------------------------------


def test_rotation_turns_about_the_middle_by_eight_degrees_a_severity():
    signs = []
    for name in IDS:
        turns = []
        for image in series(dots((130, 74)), "rotation", name):
            x, y = found(image)[0] - [99.5, 74.5]
            assert np.hypot(x, y) == pytest.approx(30.5, abs=0.5)
            turns.append(np.degrees(np.arctan2(y, x)) - np.degrees(np.arctan2(-0.5, 30.5)))
        assert grows(np.abs(turns), 6) and abs(turns[5]) == pytest.approx(40, rel=0.11)
        assert len(set(np.sign(turns[1:]))) == 1  # to one side at every severity
        signs.append(np.sign(turns[5]))
    assert set(signs) == {-1, 1}


def test_scale_is_a_tenth_a_severity_nearer_or_farther():
    signs = []
    for name in IDS:
        logs = []
        for image in series(dots((85, 60), (115, 90)), "scale", name):
            one, other = found(image)
            np.testing.assert_allclose((one + other) / 2, [100, 75], atol=0.8)
            logs.append(np.log(np.hypot(*(other - one)) / np.hypot(30, 30)))
        assert grows(np.abs(logs), 0.06) and abs(logs[5]) == pytest.approx(0.5, rel=0.12)
        assert len(set(np.sign(logs[1:]))) == 1
        signs.append(np.sign(logs[5]))
    assert set(signs) == {-1, 1}


def test_translation_goes_farther_in_one_direction():
    ways = []
    for name in IDS:
        moves = np.array(
            [found(image)[0] for image in series(dots((100, 75)), "translation", name)]
        )
        moves -= moves[0]
        far = np.hypot(*moves.T)
        assert grows(far, 5) and far[5] == pytest.approx(5 * 0.055 * 150, rel=0.12)
        np.testing.assert_allclose(moves[1] * 5, moves[5], atol=1.5)
        ways.append(moves[5] / far[5])
    assert np.ptp(ways, axis=0).max() > 0.5


def test_perspective_tilts_the_paper_about_its_middle():
    corners = [(70, 45), (70, 105), (130, 45), (130, 105)]
    for name in IDS:
        areas, uneven = [], []
        for image in series(dots(*corners, (100, 75)), "perspective", name):
            centres = found(image)
            assert len(centres) == 5
            middle = centres[np.hypot(*(centres - [100, 75]).T).argmin()]
            np.testing.assert_allclose(middle, [100, 75], atol=1.0)
            rest = centres[np.hypot(*(centres - middle).T) > 5]
            areas.append(cv2.contourArea(cv2.convexHull(rest.astype(np.float32))))
            away = np.hypot(*(rest - middle).T)
            uneven.append(away.max() / away.min())
        assert grows([-area for area in areas])
        assert areas[5] / areas[0] == pytest.approx(np.cos(np.deg2rad(50)), abs=0.14)
        assert uneven[5] > 1.2  # what is nearer is larger


@pytest.mark.parametrize("condition", ["rotation", "perspective", "scale", "translation"])
def test_what_a_pose_lays_bare_has_the_colour_of_the_paper(condition):
    for name in IDS:
        for image in series(dots((100, 75)), condition, name):
            edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
            assert np.abs(edge.astype(int) - PAPER).max() <= 1


# --- what hides the hand -------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ON_THE_HAND)
def test_more_of_the_hand_is_hidden_and_what_was_hidden_stays_so(hands, condition):
    most = []
    for each, name in zip(hands, IDS, strict=False):
        masks = [changed(each.image, image) & each.mask
                 for image in series(each.image, condition, name)]  # fmt: skip
        shares = [float(mask.sum() / each.mask.sum()) for mask in masks]
        assert grows(shares), shares
        for less, more in itertools.pairwise(masks[1:]):
            assert (less & ~more).sum() <= 0.12 * less.sum()  # but for its rim and its shadow
        most.append(shares[5])
    least, greatest = {"missing_fingertips": (0.05, 0.3), "ring": (0.02, 0.15),
                       "bracelet": (0.02, 0.2), "sleeve": (0.15, 0.7),
                       "blocks": (0.08, 0.4)}[condition]  # fmt: skip
    assert least < np.mean(most) < greatest, most


@pytest.mark.parametrize("condition", ON_THE_HAND)
def test_what_is_not_near_the_hand_is_not_touched(hands, condition):
    for each, name in zip(hands, IDS, strict=False):
        reach = cv2.dilate(each.mask.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
        after = corrupt(each.image, condition, 5, 0, name)
        assert not changed(each.image, after)[~reach].any()


def test_fingertips_go_missing_at_the_ends_and_paper_takes_their_place(hands):
    gone = []
    for each, name in zip(hands, IDS, strict=False):
        after = corrupt(each.image, "missing_fingertips", 3, 0, name)
        where = changed(each.image, after) & each.mask
        bare = after[cv2.erode(where.astype(np.uint8), np.ones((3, 3))) > 0]
        assert bare.min(axis=1).mean() > 200  # neither skin nor black
        y, x = np.nonzero(where)
        behind = each.roots[1:].mean(axis=0)
        ahead = (np.stack([x, y], 1) - behind) @ each.along
        assert (ahead > 0).mean() > 0.85  # the thumb's is the only one that may be further back
        gone += [
            bool(
                where[
                    np.hypot(
                        *np.mgrid[:144, :192][::-1].T.swapaxes(0, 1).transpose(2, 0, 1)
                        - tip[:, None, None]
                    )
                    < 6
                ].any()
            )
            for tip in each.tips
        ]
    assert np.mean(gone) > 0.85  # of all tips


def test_a_ring_lies_across_a_finger_and_not_on_the_palm(hands):
    beside = []
    for each, name in itertools.product(hands, IDS):
        where = changed(each.image, corrupt(each.image, "ring", 1, 0, name))
        skin = cv2.dilate(each.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert (where & ~skin).sum() <= 0.1 * where.sum()
        _, _, stats, centres = cv2.connectedComponentsWithStats(where.astype(np.uint8))
        centre = centres[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        along = each.tips - each.roots
        length = np.hypot(*along.T)
        x, y = (centre - each.roots).T
        aside = np.abs(x * along[:, 1] - y * along[:, 0]) / length
        finger = int(aside.argmin())
        down = ((x * along[:, 0] + y * along[:, 1]) / length**2)[finger]
        assert 0.2 < down < 0.75
        beside.append(aside[finger])
    assert np.mean(beside) < 0.9 and max(beside) < 4  # pixels from the axis; measured: 0.65 and 2.5


def test_a_bracelet_and_a_sleeve_are_on_the_arms_side_of_the_palm(hands):
    for each, name in zip(hands, IDS, strict=False):
        read = anatomy.read(each.image)
        y, x = np.mgrid[: each.mask.shape[0], : each.mask.shape[1]]
        behind = -((np.stack([x, y], 2) - read.palm) @ read.along) / read.radius
        for condition, last in (("bracelet", 0.5), ("sleeve", 0.2)):
            where = changed(each.image, corrupt(each.image, condition, 2, 0, name)) & each.mask
            assert where.any() and np.percentile(behind[where], 3) > last
            levels = np.unique(np.round(behind[where], 1))
            # it goes the whole way across
            middle = np.abs(behind - np.median(levels)) < 0.05
            assert (where & middle).sum() > 0.85 * (each.mask & middle).sum()
        where = changed(each.image, corrupt(each.image, "sleeve", 2, 0, name))
        border = np.concatenate([where[0], where[-1], where[:, 0], where[:, -1]])
        own = np.concatenate([each.mask[0], each.mask[-1], each.mask[:, 0], each.mask[:, -1]])
        assert (border & own).sum() > 0.9 * own.sum()  # from the border of the picture on


@pytest.mark.parametrize("condition", OCCLUSIONS)
def test_the_same_ring_or_sleeve_is_worn_at_each_severity(hands, condition):
    image = hands[2].image
    outs = series(image, condition, "b.jpg")
    both = changed(image, outs[3]) & changed(image, outs[4])
    alike = ~changed(outs[3], outs[4], 60)
    assert alike[both].mean() > 0.8


@pytest.mark.parametrize("condition", ON_THE_HAND)
@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (300, 200)])
def test_without_a_hand_one_in_the_middle_is_assumed(condition, shape):
    image = np.full((*shape, 3), 235, np.uint8)
    image[::2] = image[:, ::3] = 215  # a plain texture: it shows where paper was painted over
    before = anatomy.read(image)
    assert not before.found
    counts = [int((out != image).any(axis=2).sum()) for out in series(image, condition)]
    assert grows(counts) and counts[5] < 0.6 * shape[0] * shape[1]


# --- sharpness ---------------------------------------------------------------------------------


def rough(image):
    """Energy of what differs from pixel to pixel."""
    return float((np.diff(image.astype(float), axis=1) ** 2).mean())


@pytest.mark.parametrize("condition", ["blur", "low_resolution"])
def test_blur_and_low_resolution_take_detail_away_and_keep_the_mean(hands, condition):
    for each, name in zip(hands, IDS, strict=False):
        outs = series(each.image, condition, name)
        assert grows([-rough(image) for image in outs])
        assert rough(outs[5]) < 0.35 * rough(outs[0])
        assert abs(outs[5].mean() - outs[0].mean()) < 1.5


def test_blur_spreads_an_edge_by_its_sigma():
    edge = np.zeros((100, 200, 3), np.uint8)
    edge[:, 100:] = 240
    for severity in (2, 3, 4, 5):  # the first is finer than a pixel
        step = np.diff(corrupt(edge, "blur", severity, 0, "a.jpg")[50, :, 0].astype(float))
        x = np.arange(len(step)) - 99
        sigma = np.sqrt((step * x**2).sum() / step.sum() - 1 / 12)
        assert sigma == pytest.approx(severity * 100 / 200, rel=0.2)


def test_noise_has_its_spread_no_bias_and_one_pattern():
    outs = series(grey(), "noise")
    spreads = [float(image.std()) for image in outs]
    np.testing.assert_allclose(spreads, [9 * severity for severity in STEPS], rtol=0.03)
    assert all(abs(image.mean() - 128) < 0.6 for image in outs)
    alike = np.corrcoef(outs[1].ravel(), outs[5].ravel())[0, 1]
    assert alike > 0.98
    other = corrupt(grey(), "noise", 5, 0, "b.jpg")
    assert abs(np.corrcoef(other.ravel(), outs[5].ravel())[0, 1]) < 0.05


def test_jpeg_keeps_colours_in_place_and_is_coarser_at_each_severity(hands):
    red = np.tile(np.uint8([220, 40, 30]), (64, 64, 1))
    for severity in SEVERITIES:
        out = corrupt(red, "jpeg", severity, 0, "a.jpg").mean(axis=(0, 1))
        np.testing.assert_allclose(out, [220, 40, 30], atol=30)  # red and blue are not exchanged
    image = hands[0].image
    sizes = [len(cv2.imencode(".png", out)[1]) for out in series(image, "jpeg")]
    assert grows([-size for size in sizes])
