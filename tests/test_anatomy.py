"""Palm, arm and fingers are where the drawing has them, whichever way the hand points."""

import cv2
import numpy as np
import pytest
from drawn_hands import hand

from clipfh_lib.data import anatomy

APART = {"spread": 0.95, "scale": 0.85, "tip": 0.93}


@pytest.fixture(autouse=True)
def project():
    """Pixels only: no project's folder is needed, and 100 of them would take a minute."""


def angle(one: np.ndarray, other: np.ndarray) -> float:
    """Degrees between two unit vectors."""
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


@pytest.fixture(scope="module")
def apart():
    """Hands with their fingers apart."""
    return [hand(pid, 240, **APART) for pid in range(8)]


def test_fingers_that_are_apart_are_found_at_their_tips(apart):
    far, leaning, found = [], [], 0
    for each in apart:
        read = anatomy.read(each.image)
        assert read.found and 3 <= len(read.fingers) <= 5
        for finger in read.fingers:
            away = np.hypot(*(each.tips - finger.tip).T)
            nearest = int(away.argmin())
            far.append(away.min() / read.radius)
            true = each.tips[nearest] - each.roots[nearest]
            leaning.append(angle(finger.along, true / np.hypot(*true)))
        found += len(read.fingers)
    assert found >= 36  # of 40
    assert max(far) < 0.2 and np.median(far) < 0.05  # radii of the palm
    assert np.median(leaning) < 6 and max(leaning) < 25  # degrees


def test_the_arm_is_behind_the_palm_and_the_palm_between_arm_and_fingers(apart):
    for each in apart:
        read = anatomy.read(each.image)
        assert angle(read.along, each.along) < 20
        x, y = np.rint(read.palm).astype(int)
        assert each.mask[y, x]
        assert 0 < read.wrist <= read.end
        roots = (each.roots[1:] - read.palm) @ read.along
        assert (roots > 0.1 * read.radius).all() and (roots < 1.6 * read.radius).all()
        end = read.palm - read.end * read.along
        border = min(*end, *(np.array(each.mask.shape[::-1]) - 1 - end))
        assert -8 < border < 4  # of the picture, and not far outside of it


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_hand_may_point_anywhere(apart, turns):
    for each in apart[:3]:
        here = anatomy.read(each.image)
        there = anatomy.read(np.ascontiguousarray(np.rot90(each.image, turns)))
        expected = here.along
        for _ in range(turns):  # a quarter turn to the left, y down
            expected = np.array([expected[1], -expected[0]])
        assert angle(there.along, expected) < 4
        assert abs(there.radius / here.radius - 1) < 0.05
        assert len(there.fingers) == len(here.fingers)


def test_a_hand_in_the_middle_of_the_paper_points_to_its_fingers(apart):
    each = apart[0]
    small = cv2.resize(each.image, (120, 90), interpolation=cv2.INTER_AREA)
    cut = np.full((200, 240, 3), 250, np.uint8)
    cut[60:150, 60:180] = small
    assert angle(anatomy.read(cut).along, each.along) < 25


def test_where_there_is_no_hand_one_is_assumed_in_the_middle():
    read = anatomy.read(np.full((90, 120, 3), 240, np.uint8))
    assert not read.found and not read.mask.any() and read.mask.shape == (90, 120)
    assert len(read.fingers) == 4 and read.along.tolist() == [0, 1]
    tips = np.stack([finger.tip for finger in read.fingers])
    assert (tips > 0).all() and (tips < [120, 90]).all() and (tips[:, 1] > read.palm[1]).all()
    assert 0 < read.wrist <= read.end
