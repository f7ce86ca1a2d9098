"""Drawn hands with the truth of their drawing: which pixels are skin, and where the fingers end."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from clipfh_lib.data import demo_hands, demo_shapes


@dataclass(frozen=True)
class Truth:
    """A drawn hand; tips, roots and the way they point are in pixels."""

    image: np.ndarray
    cover: np.ndarray
    tips: np.ndarray  # (5, 2), thumb first
    roots: np.ndarray  # (5, 2)
    along: np.ndarray  # (2,) unit vector from the wrist to the fingers

    @property
    def mask(self) -> np.ndarray:
        return self.cover > 0.5


def hand(pid: int, size: int = 160, **shot: float) -> Truth:
    """Draw a bare hand, 4:3; each pid another person, aspect and pose."""
    who, aspect = demo_hands.person(11, pid), demo_hands.ASPECTS[pid % 4]
    taken = replace(demo_hands.shot(who, aspect, pid % 2, 0), sleeve="", mark="", **shot)
    height, width = 3 * size // 4, size
    factor = 2 if size <= 200 else 1.5  # as the drawing itself
    frame = demo_shapes.frame_of(who, aspect, taken, height * factor)
    fingers = demo_shapes.fingers_of(who, aspect, taken, frame)
    _, cover, _ = demo_shapes.relief(
        who, fingers, frame, (round(height * factor), round(width * factor))
    )
    cover = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
    tips = np.concatenate([f.place(np.array([1.0]), np.zeros(1)) for f in fingers]) / factor
    roots = np.stack([finger.origin for finger in fingers]) / factor
    ends = frame(np.array([[0.0, -0.6], [0.0, 0.0]]))
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    return Truth(demo_hands.draw(who, aspect, taken, size), cover, tips, roots, along)


def share(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((found & true).sum() / (found | true).sum())
