"""A run of text to image beside those of other recipes: which loss, and does mining help?"""

from pathlib import Path

import pandas as pd

from clipfh_lib import files, params, runs
from clipfh_lib.evaluation import text_image
from clipfh_lib.files import InputError
from clipfh_lib.words import TextToImageParams

NOTEBOOK = "08_text_to_image"
RECIPES = ("contrastive", "triplet", "info_nce", "random_negatives")
ABOUT = ["recipe", "loss", "negatives", "compared", "why"]


def other(p: TextToImageParams, recipe: str) -> TextToImageParams:
    """Parameters of the run that differs from this one in its recipe alone.

    Raises:
        InputError: the recipe does not go with the overrides.
    """
    return params.read(p.method, p.dataset, p.backbone, recipe, p.seed, p.overrides)


def compare(
    p: TextToImageParams, ranks: pd.DataFrame, split_sha256: str, outputs: str | Path
) -> pd.DataFrame:
    """What training gained in this run and in those of other recipes, and how far this one leads.

    All differences are paired over the same texts and images, as in `text_image.compare`.

    Args:
        ranks: of this run: trained weights, and those that it began with.
        split_sha256: of its split.
        outputs: parameter of the notebook.

    Returns:
        `recipe, loss, negatives, compared, why`, then the columns of `text_image.compare`:
        `compared` is `gain`, trained weights less those before, or `lead`, this run's trained
        weights less the other's. Of a run that cannot be compared one row: `why` says the reason,
        and the numbers are missing.
    """
    own = _trained(ranks)
    frames = [_gain(ranks, p.evaluation.resamples).assign(**_about(p))]
    for recipe in RECIPES:
        if recipe == p.recipe:
            continue
        about = {"recipe": recipe}
        try:
            about = _about(other(p, recipe))
            theirs = _ranks(runs.folder(NOTEBOOK, other(p, recipe), outputs), recipe, split_sha256)
            lead = text_image.compare(own, _trained(theirs), p.evaluation.resamples)
            found = [_gain(theirs, p.evaluation.resamples), lead.assign(compared="lead")]
        except InputError as error:  # of another run: this one's fit is done and stands
            found = [pd.DataFrame([{"why": str(error)}])]
        frames += [frame.assign(**about) for frame in found]
    table = pd.concat(frames, ignore_index=True)
    table = table.reindex(columns=[*ABOUT, *(name for name in table if name not in ABOUT)])
    return table.fillna(dict.fromkeys(ABOUT, ""))


def _about(p: TextToImageParams) -> dict[str, str]:
    mined = "none" if p.group == 1 else f"{p.negatives.mine}, {p.group - 1}"
    return {"recipe": p.recipe, "loss": p.loss, "negatives": mined}


def _ranks(folder: Path, recipe: str, split_sha256: str) -> pd.DataFrame:
    """The ranks that a run of the same split kept.

    Raises:
        InputError: it is not there, it is damaged, or it is of another split.
    """
    if not runs.is_complete(folder):
        raise InputError(f"not run yet; run this notebook with recipe = {recipe!r}")
    if runs.manifest(folder).get("split_sha256") != split_sha256:
        raise InputError("of another split of the data; run it again")
    text = {"test_aspect": "str", "ranks": "str", "query": "str"}
    return files.read_csv(runs.kept(folder, "ranks.csv"), text)


def _trained(ranks: pd.DataFrame) -> pd.DataFrame:
    return ranks[ranks["weights"] == "trained"]


def _gain(ranks: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Trained weights less those that the same run began with."""
    before = ranks[ranks["weights"] != "trained"]
    found = text_image.compare(_trained(ranks), before, resamples)
    return found.assign(compared="gain")
