"""Who is drawn and how the photograph is taken: people, their traits, and single shots.

Everything is a pure function of integers (seed, pid, aspect, session, number), so that no image
depends on how many others are drawn, in which order, or in how many processes.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

ASPECTS = ("dorsal_r", "dorsal_l", "palmar_r", "palmar_l")
FINGERS = ("thumb", "index", "middle", "ring", "little")
POLISHES = {
    "red": (176, 24, 44), "pink": (230, 92, 150), "dark": (52, 34, 52), "blue": (58, 96, 190),
    "nude": (214, 150, 132), "white": (242, 238, 236), "purple": (120, 50, 130),
}  # fmt: skip
METALS = {"gold": (222, 178, 84), "silver": (206, 208, 212)}
STONES = ((236, 240, 248), (160, 24, 44), (36, 90, 150), (40, 130, 90))
STRAPS = {"black": (32, 30, 32), "brown": (98, 60, 36), "steel": (176, 180, 186)}
SLEEVES = {
    "black": (28, 28, 32), "white": (226, 222, 214), "red": (176, 26, 56),
    "blue": (46, 70, 128), "turquoise": (120, 206, 206), "grey": (120, 120, 124),
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """Traits of one drawn person. Lengths are in hand lengths, scales near 1, strengths 0..1."""

    seed: int
    pid: int
    gender: str
    age: int
    melanin: float  # 0 very fair .. 1 dark
    warmth: float  # -1 pinkish .. 1 yellowish
    finger_length: float
    finger_width: float
    finger_lengths: tuple[float, ...]  # one factor a finger, thumb first
    taper: float  # how much narrower the finger tips are
    joints: float  # how much the joints stand out of the outline
    palm_width: float
    palm_length: float
    thumb_angle: float  # degrees at rest
    little_bend: float  # inward curve of the little finger
    nail_length: float
    nail_width: float
    nail_square: float  # 0 almond .. 1 square
    nail_pale: float
    knuckles: float  # depth of the folds on the back of the joints
    knuckle_pigment: float
    veins: float
    tendons: float
    hair: float
    freckles: float
    moles: int  # on each of the four sides, on average
    scar: bool
    crease_depth: float
    crease_pattern: str  # joined, separate, single
    crease_branches: float
    fate_line: str  # none, short, long
    fine_lines: float
    palm_red: float
    rings: tuple[str, ...]  # "<r|l>_<finger>"
    metal: str
    stone: bool
    watch: str  # "", or "<r|l>_<strap>"
    bracelet: str  # "", or "r", "l"
    polish: str  # "", or the colour
    mark: str  # "", or "<r|l>_<ink|plaster>": what the data set calls an irregularity


@dataclass(frozen=True)
class Shot:
    """How one photograph is taken. Angles in degrees, places in parts of the frame."""

    spread: float  # 0 fingers together .. 1 wide apart
    angles: tuple[float, ...]  # one a finger, added to the pose
    bends: tuple[float, ...]  # sideways curve of a finger, in finger lengths
    thumb: float  # added to the person's thumb angle
    rotation: float
    scale: float  # hand length in heights of the frame
    x: float  # of the palm, 0..1
    tip: float  # of the middle finger's tip, 0 upper .. 1 lower edge
    squeeze: float  # width of the hand seen obliquely
    light_angle: float
    light: float  # 0 flat .. 1 from the side
    gain: tuple[float, float, float]  # exposure and white balance, red green blue
    contrast: float
    saturation: float
    blur: float  # sigma in pixels at a width of 160
    noise: float  # standard deviation in grey levels
    shadow: tuple[float, float, float]  # x and y offset in hand lengths, strength
    backdrop: tuple[float, ...]  # 3 x 4 grey levels below white, row by row
    tint: tuple[float, float, float]  # of the backdrop's shade
    noise_seed: int
    worn: bool = False  # jewellery is on
    polish: str = ""
    sleeve: str = ""
    mark: str = ""


@lru_cache(maxsize=2048)
def person(seed: int, pid: int) -> Person:
    """Draw the traits of one person, each independent of the others but hair and polish.

    Args:
        seed: of the data set, 0 or more.
        pid: person id, 0 or more.
    """
    draw = np.random.default_rng([seed, 101, pid])
    female = bool(draw.random() < 0.64)
    grown = float(draw.random())
    age = int(18 + 7 * draw.random()) if grown < 0.85 else int(25 + 50 * draw.random() ** 1.5)

    def between(low: float, high: float) -> float:
        return float(draw.uniform(low, high))

    def one_of(*values: str, p: tuple[float, ...] | None = None) -> str:
        return str(draw.choice(values, p=p))

    melanin = float(np.clip(draw.choice([0.08, 0.3, 0.55, 0.85], p=[0.1, 0.3, 0.42, 0.18])
                            + draw.uniform(-0.1, 0.1), 0, 1))  # fmt: skip
    rings, watch, bracelet = _jewellery(draw)
    strong_hair = one_of(
        "none", "sparse", "dense", p=(0.75, 0.2, 0.05) if female else (0.2, 0.4, 0.4)
    )
    mark = one_of("r", "l") + "_" + one_of("ink", "plaster") if draw.random() < 0.06 else ""
    return Person(
        seed=seed, pid=pid, gender="female" if female else "male", age=age,
        melanin=melanin, warmth=between(-1, 1),
        finger_length=between(0.86, 1.14), finger_width=between(0.84, 1.18),
        finger_lengths=tuple(between(0.92, 1.08) for _ in FINGERS),
        taper=between(0.02, 0.3), joints=between(0.0, 0.14),
        palm_width=between(0.88, 1.14), palm_length=between(0.9, 1.1),
        thumb_angle=between(14, 32), little_bend=between(-0.01, 0.06),
        nail_length=between(0.8, 1.5), nail_width=between(0.52, 0.74),
        nail_square=between(0, 1), nail_pale=between(0, 1),
        knuckles=between(0.1, 1), knuckle_pigment=between(0, 1),
        veins=float(draw.choice([0.0, 0.3, 0.65, 1.0], p=[0.3, 0.3, 0.25, 0.15])),
        tendons=between(0, 1),
        hair={"none": 0.0, "sparse": 0.35, "dense": 1.0}[strong_hair],
        freckles=float(draw.choice([0.0, 0.4, 1.0], p=[0.6, 0.25, 0.15])),
        moles=int(draw.choice([0, 1, 3, 5], p=[0.3, 0.35, 0.25, 0.1])),
        scar=bool(draw.random() < 0.15),
        crease_depth=between(0.3, 1),
        crease_pattern=one_of("joined", "separate", "single", p=(0.5, 0.38, 0.12)),
        crease_branches=between(0, 1),
        fate_line=one_of("none", "short", "long", p=(0.4, 0.3, 0.3)),
        fine_lines=between(0, 1), palm_red=between(0, 1),
        rings=rings, metal=one_of("gold", "silver"), stone=bool(draw.random() < 0.4),
        watch=watch, bracelet=bracelet,
        polish=one_of(*POLISHES) if female and draw.random() < 0.5 else "", mark=mark,
    )  # fmt: skip


def _jewellery(draw: np.random.Generator) -> tuple[tuple[str, ...], str, str]:
    """Rings, watch and bracelet: 56 % of the people wear some, on one hand or both."""
    wears, hands = draw.random() < 0.56, draw.choice(["r", "l", "rl"], p=[0.24, 0.26, 0.5])
    rings, watch, bracelet = [], "", ""
    for hand in str(hands):
        kind = draw.random(3)
        fingers = draw.choice(FINGERS, size=2, replace=False, p=[0.06, 0.14, 0.2, 0.5, 0.1])
        if kind[0] < 0.75 or (kind[1] >= 0.35 and kind[2] >= 0.3):
            rings += [f"{hand}_{finger}" for finger in fingers[: 1 + (kind[0] < 0.2)]]
        if kind[1] < 0.35 and not watch:
            watch = f"{hand}_{draw.choice(list(STRAPS))}"
        elif kind[2] < 0.3 and not bracelet:
            bracelet = hand
    return (tuple(rings), watch, bracelet) if wears else ((), "", "")


def wears(who: Person, aspect: str) -> bool:
    """Whether this person has jewellery for the hand of this aspect."""
    hand = aspect[-1]
    things = (*who.rings, who.watch, who.bracelet)
    return any(thing.startswith(hand) for thing in things)


def shot(who: Person, aspect: str, session: int, number: int, worn: bool = False) -> Shot:
    """Draw how a photograph is taken.

    All shots of a burst (same person, aspect, session and `worn`) are nearly equal; between
    bursts everything differs. Sleeve, nail polish and marks belong to the session.

    Args:
        who: the person photographed.
        aspect: one of ASPECTS.
        session: 0, 1, ...
        number: of the image in its burst, from 0.
        worn: whether the jewellery is on.
    """
    place = [who.seed, who.pid, ASPECTS.index(aspect), session, int(worn)]
    day = np.random.default_rng([who.seed, 103, who.pid, session])
    sleeve = str(day.choice(list(SLEEVES))) if day.random() < 0.3 else ""
    polish = who.polish if day.random() < 0.75 else ""
    mark = who.mark if day.random() < 0.5 else ""
    at_wrist = worn and aspect[-1] in (who.watch[:1], who.bracelet)
    first = _burst(np.random.default_rng([*place, 107]), at_wrist)
    draw = np.random.default_rng([*place, 109, number])
    return replace(
        first,
        spread=float(np.clip(first.spread + draw.normal(0, 0.015), 0, 1)),
        angles=tuple(angle + float(draw.normal(0, 0.5)) for angle in first.angles),
        thumb=first.thumb + float(draw.normal(0, 1.0)),
        rotation=first.rotation + float(draw.normal(0, 0.5)),
        scale=first.scale * float(np.exp(draw.normal(0, 0.008))),
        x=first.x + float(draw.normal(0, 0.005)),
        tip=first.tip + float(draw.normal(0, 0.006)),
        gain=tuple(gain * float(np.exp(draw.normal(0, 0.006))) for gain in first.gain),
        blur=max(0.0, first.blur + float(draw.normal(0, 0.06))),
        noise_seed=int(draw.integers(2**31)),
        worn=worn,
        polish=polish,
        sleeve="" if at_wrist else sleeve,  # rolled up
        mark=mark if mark.startswith(aspect[-1]) else "",
    )


def _burst(draw: np.random.Generator, at_wrist: bool) -> Shot:
    """What the images of one burst have in common; `at_wrist` keeps the wrist in the frame."""

    def between(low: float, high: float) -> float:
        return float(draw.uniform(low, high))

    scale = between(0.7, 0.78) if at_wrist else between(0.83, 0.95)
    tip = between(0.92, 0.97) if at_wrist else between(0.86, 0.96)
    bright, warm, green = between(0.9, 1.11), between(-0.04, 0.04), between(-0.02, 0.02)
    corner = draw.uniform(0, 1, 12) ** 2 * np.repeat([0.2, 0.06, 0.03], 4) * between(0.1, 1.3)
    return Shot(
        spread=float(draw.beta(1.1, 1.2)),
        angles=tuple(float(angle) for angle in draw.normal(0, 2.2, 5)),
        bends=tuple(float(bend) for bend in draw.normal(0, 0.012, 5)),
        thumb=between(-8, 34),
        rotation=between(-9, 9),
        scale=scale,
        x=between(0.44, 0.56),
        tip=tip,
        squeeze=between(0.93, 1.03),
        light_angle=between(0, 360),
        light=between(0.15, 1),
        gain=(bright * (1 + warm), bright * (1 + green), bright * (1 - warm)),
        contrast=between(0.88, 1.16),
        saturation=between(0.7, 1.08),
        blur=between(0.05, 0.55),
        noise=between(1.0, 4.0),
        shadow=(between(-0.12, 0.12), between(-0.05, 0.09), between(0.05, 0.4)),
        backdrop=tuple(float(level) for level in corner),
        tint=(between(0.9, 1.25), between(0.8, 1.05), between(0.75, 1.15)),
        noise_seed=0,
    )


def _level(value: float, *named: tuple[float, str]) -> str:
    """Name of the first level whose upper bound is above the value."""
    return next(name for bound, name in named if value < bound)


def skin_color(who: Person) -> str:
    """Skin colour in the words of HandInfo.csv."""
    return _level(who.melanin, (0.19, "very fair"), (0.43, "fair"), (0.7, "medium"), (9, "dark"))


def traits(who: Person, aspect: str, taken: Shot, wrist: bool) -> dict[str, str]:
    """Return what can be said of an image, as strings; empty where it cannot be seen.

    Args:
        who: the person.
        aspect: one of ASPECTS.
        taken: the shot.
        wrist: whether the wrist is in the frame.
    """
    hand, dorsal = aspect[-1], aspect.startswith("dorsal")
    back = dict(
        veins=_level(who.veins, (0.1, "none"), (0.5, "faint"), (0.8, "clear"), (9, "strong")),
        knuckles=_level(who.knuckles, (0.4, "smooth"), (0.7, "creased"), (9, "deeply creased")),
        hair=_level(who.hair, (0.1, "none"), (0.5, "sparse"), (9, "dense")),
        nails=_level(who.nail_length, (1.0, "short"), (1.25, "medium"), (9, "long")),
        nail_shape=_level(who.nail_square, (0.33, "almond"), (0.67, "round"), (9, "square")),
        polish=taken.polish or "none",
        freckles=_level(who.freckles, (0.1, "none"), (0.5, "few"), (9, "many")),
        scar="scar" if who.scar else "none",
    )
    front = dict(
        creases=_level(who.crease_depth, (0.5, "faint"), (0.75, "clear"), (9, "deep")),
        crease_pattern=who.crease_pattern,
        fate_line=who.fate_line,
        fine_lines=_level(who.fine_lines, (0.35, "few"), (0.7, "some"), (9, "many")),
        palm_color=_level(who.palm_red, (0.35, "pale"), (0.7, "pink"), (9, "red")),
    )
    rings = [ring[2:] for ring in who.rings if ring[0] == hand] if taken.worn else []
    watch = who.watch[2:] if taken.worn and who.watch[:1] == hand else "none"
    return dict(
        fingers=_level(who.finger_width, (0.95, "slender"), (1.07, "medium"), (9, "broad")),
        finger_length=_level(who.finger_length, (0.95, "short"), (1.05, "medium"), (9, "long")),
        palm_shape=_level(who.palm_width / who.palm_length,
                          (0.93, "narrow"), (1.09, "square"), (9, "wide")),
        longer_finger=_level(who.finger_lengths[1] / who.finger_lengths[3],
                             (0.96, "ring"), (1.04, "equal"), (9, "index")),
        moles=_level(who.moles, (1, "none"), (2, "one"), (9, "several")),
        **{name: value if dorsal else "" for name, value in back.items()},
        **{name: "" if dorsal else value for name, value in front.items()},
        ring=" and ".join(rings) or "none",
        metal=who.metal if rings else "",
        watch=watch if wrist else "",
        bracelet=("worn" if taken.worn and who.bracelet == hand else "none") if wrist else "",
        sleeve=(taken.sleeve or "none") if wrist else "",
        mark=taken.mark[2:] or "none",
        pose=_level(taken.spread, (0.3, "fingers together"), (0.65, "fingers apart"),
                    (9, "fingers wide apart")),
    )  # fmt: skip
