"""A run of text to image beside those of other recipes: which loss, and does mining help?"""

from pathlib import Path

import pandas as pd

from clipfh_lib import params, runs
from clipfh_lib.evaluation import text_image
from clipfh_lib.files import InputError
from clipfh_lib.words import TextToImageParams

NOTEBOOK = "08_text_to_image"
RECIPES = ("contrastive", "triplet", "info_nce", "random_negatives")
ABOUT = ["recipe", "loss", "negatives"]


def others(p: TextToImageParams, outputs: str | Path) -> dict[str, tuple[TextToImageParams, Path]]:
    """Recipe -> parameters and folder of the run that differs from this one in its recipe alone."""
    found = {}
    for recipe in RECIPES:
        if recipe != p.recipe:
            other = params.read(p.method, p.dataset, p.backbone, recipe, p.seed, p.overrides)
            found[recipe] = other, runs.folder(NOTEBOOK, other, outputs)
    return found


def compare(
    p: TextToImageParams, ranks: pd.DataFrame, split_sha256: str, outputs: str | Path
) -> pd.DataFrame:
    """This run's trained weights less those of the other recipes, paired as `text_image.compare`.

    Args:
        ranks: of this run's trained weights.
        split_sha256: of its split.
        outputs: parameter of the notebook.

    Returns:
        `recipe, loss, negatives` of the other run, then the columns of `text_image.compare`; of a
        run that is not there one row, whose numbers are missing.

    Raises:
        InputError: another run is of another split, or its texts are others.
    """
    frames = []
    for recipe, (other, folder) in others(p, outputs).items():
        mined = "none" if other.group == 1 else f"{other.negatives.mine}, {other.group - 1}"
        about = {"recipe": recipe, "loss": other.loss, "negatives": mined}
        if not runs.is_complete(folder):
            frames.append(pd.DataFrame([about]))
            continue
        if runs.manifest(folder).get("split_sha256") != split_sha256:
            raise InputError(f"{folder} is of another split of the data; run it again")
        kept = pd.read_csv(runs.kept(folder, "ranks.csv"), dtype={"test_aspect": str, "ranks": str})
        theirs = kept[kept["weights"] == "trained"]
        found = text_image.compare(ranks, theirs, p.evaluation.resamples)
        frames.append(found.assign(**about))
    table = pd.concat(frames, ignore_index=True)
    return table[ABOUT + [name for name in table if name not in ABOUT]]
