"""The mask of a hand is that of the drawing, on any paper and in any shape of picture."""

import cv2
import numpy as np
import pytest
from drawn_hands import hand, share

from clipfh_lib.data import masks

PAPER = np.full((120, 160, 3), 246, np.uint8)


@pytest.fixture(autouse=True)
def project():
    """Pixels only: no project's folder is needed, and 100 of them would take a minute."""


@pytest.fixture(scope="module")
def hands():
    return [hand(pid) for pid in range(16)]


def lit(image: np.ndarray, corner: float) -> np.ndarray:
    """The same picture under a lamp that leaves the upper left corner this dark."""
    y, x = np.mgrid[1 : 0 : image.shape[0] * 1j, 1 : 0 : image.shape[1] * 1j]
    return np.rint(image * (1 - (1 - corner) * (x * y))[..., None]).astype(np.uint8)


def test_the_mask_is_that_of_the_drawing(hands):
    found = masks.hand(np.stack([each.image for each in hands]))
    assert found.shape == (16, 120, 160) and found.dtype == bool
    shares = [share(mask, each.mask) for mask, each in zip(found, hands, strict=True)]
    # measured: 0.976 on average, 0.966 at worst; a pixel too many all round is 0.89
    assert np.mean(shares) > 0.96 and min(shares) > 0.94
    size = [mask.sum() / each.cover.sum() for mask, each in zip(found, hands, strict=True)]
    assert 0.98 < np.mean(size) < 1.04  # neither too small nor too large


@pytest.mark.parametrize("width, height", [(64, 64), (64, 48), (100, 133), (224, 224), (400, 300)])
def test_pictures_of_any_shape_and_size_have_masks(hands, width, height):
    for each in hands[:4]:
        image = cv2.resize(each.image, (width, height), interpolation=cv2.INTER_AREA)
        true = cv2.resize(each.cover, (width, height), interpolation=cv2.INTER_AREA) > 0.5
        assert share(masks.hand(image[None])[0], true) > 0.92


@pytest.mark.parametrize("paper", [(246, 246, 246), (150, 205, 160), (60, 66, 84), (20, 20, 20)])
def test_paper_may_be_of_any_plain_colour(hands, paper):
    shares = []
    for each in (hands[2], hands[5], hands[9]):
        cover = each.cover[..., None]
        image = np.rint(cover * each.image + (1 - cover) * np.array(paper)).astype(np.uint8)
        shares.append(share(masks.hand(image[None])[0], each.mask))
    assert min(shares) > 0.9


def test_uneven_light_and_shadow_on_the_paper_are_no_hand(hands):
    assert lit(PAPER, 0.6)[0, 0, 0] < 160
    shadow = PAPER.copy()
    cv2.ellipse(shadow, (80, 60), (30, 40), 20, 0, 360, (208, 210, 214), -1, cv2.LINE_AA)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 5)
    assert not masks.hand(np.stack([PAPER, lit(PAPER, 0.6), shadow])).any()
    for each in hands[:4]:
        assert share(masks.hand(lit(each.image, 0.7)[None])[0], each.mask) > 0.9


def test_pale_skin_in_full_light_is_told_from_a_shadow_by_its_warmth(hands):
    each = hands[0]
    cover = each.cover[..., None]
    pale, shadow = (
        np.rint(cover * np.array(colour) + (1 - cover) * 250).astype(np.uint8)
        for colour in ((252, 241, 230), (222, 228, 234))
    )
    assert share(masks.hand(pale[None])[0], each.mask) > 0.94
    assert not masks.hand(shadow[None]).any()  # though it is darker


def test_what_is_all_of_one_colour_or_one_texture_is_no_hand():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for value in (0, 127, 255):
        assert not masks.hand(np.full((1, 64, 80, 3), value, np.uint8)).any()
    skin = np.tile(np.uint8([200, 150, 120]), (64, 64, 1))
    assert not masks.hand(np.stack([skin, noise])).any(axis=(1, 2))[0]
    assert masks.hand(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 8, 8)


@pytest.mark.parametrize("radius", [3, 9])
def test_holes_in_the_palm_are_filled_and_spots_on_the_paper_left_out(hands, radius):
    each = hands[1]
    image = each.image.copy()
    x, y = np.rint(each.roots[1:].mean(axis=0) - 16 * each.along).astype(int).tolist()
    cv2.circle(image, (x, y), radius, (250, 250, 250), -1)  # skin in a glaring light
    image[100:110, 4:16] = (120, 60, 40)
    assert not each.mask[95:115, :20].any()
    found = masks.hand(image[None])[0]
    assert found[y - radius : y + radius + 1, x - radius : x + radius + 1].all()
    assert not found[95:115, :20].any() and share(found, each.mask) > 0.94


def test_paper_between_fingers_that_touch_stays_paper():
    image = np.full((120, 160, 3), 250, np.uint8)
    skin = (205, 155, 125)
    cv2.rectangle(image, (50, 0), (110, 60), skin, -1)
    for x in (56, 80, 104):
        cv2.rectangle(image, (x - 7, 60), (x + 7, 110), skin, -1)
    cv2.rectangle(image, (50, 100), (110, 110), skin, -1)  # the tips meet
    found = masks.hand(image[None])[0]
    assert found[105, 68] and not found[64:96, 68].any() and not found[64:96, 92].any()


def test_the_background_is_the_paper_even_where_the_hand_fills_most_of_the_border():
    image = np.full((90, 120, 3), (202, 150, 122), np.uint8)
    image[60:, :40] = image[60:, 80:] = (244, 246, 248)  # paper in two corners only
    np.testing.assert_array_equal(masks.background(image), [244, 246, 248])
    green = np.full((90, 120, 3), (90, 160, 100), np.uint8)
    green[:60, 40:80] = (202, 150, 122)
    np.testing.assert_array_equal(masks.background(green), [90, 160, 100])


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 3, 8, 8), np.uint8)],
)
def test_other_shapes_and_types_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8 is wanted"):
        masks.hand(wrong)
