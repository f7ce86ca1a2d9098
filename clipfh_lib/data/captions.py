"""What can be said of a photograph of a hand: from the columns of the images table to sentences."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

SIDES = {"r": "right", "l": "left"}
WORN = {0: "without", 1: "with"}
BASES = (
    "A {aspect} {side} hand {accessories} accessories",
    "A photo of a {aspect} {side} hand {accessories} accessories",
    "A photo of the {aspect} of a {side} hand {accessories} accessories",
    "A {side} hand, {aspect}, {accessories} accessories",
    "The {aspect} side of a {side} hand",
    "A {aspect} {side} hand",
)
# Trait columns and how a value is said; "" and "none" say nothing. Pose and sleeves are left out:
# they change from one photograph of a person to the next.
TRAITS = {
    "gender": "{}",
    "skin_color": "{} skin",
    "fingers": "{} fingers",
    "finger_length": "{} finger length",
    "palm_shape": "{} palm",
    "longer_finger": "longer finger {}",
    "moles": "{} moles",
    "veins": "{} veins",
    "knuckles": "{} knuckles",
    "hair": "{} hair",
    "nails": "{} nails",
    "nail_shape": "nails {} in shape",
    "polish": "{} nail polish",
    "freckles": "{} freckles",
    "scar": "a {}",
    "creases": "{} creases",
    "crease_pattern": "{} crease pattern",
    "fate_line": "{} fate line",
    "fine_lines": "{} fine lines",
    "palm_color": "{} palm colour",
    "ring": "a ring on the {} finger",
    "metal": "{}",
    "watch": "a watch with a {} strap",
    "bracelet": "a bracelet {}",
    "mark": "a {} mark",
}


def words(aspect: str, accessories: int) -> dict[str, str]:
    """What fills {aspect}, {side} and {accessories} of a template; aspect as in `dorsal_r`."""
    surface, side = aspect.split("_")
    return {"aspect": surface, "side": SIDES[side], "accessories": WORN[accessories]}


def kinds() -> list[tuple[str, int]]:
    """The eight things that zero-shot naming tells apart: four aspects, with or without."""
    aspects = [f"{surface}_{side}" for surface, side in product(("dorsal", "palmar"), SIDES)]
    return list(product(aspects, WORN))


def naming(templates: Sequence[str]) -> list[list[str]]:
    """For each of `kinds()`, its name in every template.

    Raises:
        KeyError: a template with another field than {aspect}, {side}, {accessories}.
    """
    return [[template.format(**words(*kind)) for template in templates] for kind in kinds()]


def phrases(row: dict[str, object]) -> list[str]:
    """What the trait columns of one image say, a phrase each; nothing for empty ones and `none`."""
    found = []
    for column, how in TRAITS.items():
        value = row.get(column)
        if isinstance(value, str) and value not in ("", "none"):
            found.append(how.format(value))
    return found


def varied(table: pd.DataFrame, seed: int, epoch: int, most: int = 12) -> list[str]:
    """A caption an image, other ones in each epoch: a base sentence and some of its phrases.

    Args:
        table: `aspect`, `accessories` and any columns of TRAITS; one caption a row.
        seed: with `epoch` decides every draw.
        epoch: from 0.
        most: phrases at the most, so that a caption stays below CLIP's 77 tokens.
    """
    draw = np.random.default_rng([seed, epoch])
    found = []
    for row in table.to_dict("records"):
        base = BASES[draw.integers(len(BASES))].format(**words(row["aspect"], row["accessories"]))
        known = phrases(row)
        count = min(len(known), int(draw.integers(most // 2, most + 1)))
        chosen = draw.choice(len(known), count, replace=False) if count else []
        found.append(", ".join([base, *(known[number] for number in chosen)]))
    return found


def vocabulary(table: pd.DataFrame) -> list[str]:
    """Every sentence and phrase that `varied` and `naming` can say of a table."""
    columns = [column for column in TRAITS if column in table]
    said = {
        phrase
        for row in table[columns].drop_duplicates().to_dict("records")
        for phrase in phrases(row)
    }
    said |= {base.format(**words(*kind)) for base in BASES for kind in kinds()}
    return sorted(said)
