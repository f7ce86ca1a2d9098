"""Does the text matter? A second stage of CLIP-ReID beside the same one with prompts exchanged."""

from pathlib import Path

import pandas as pd

from clipfh_lib import params, runs
from clipfh_lib.evaluation import retrieval
from clipfh_lib.files import InputError
from clipfh_lib.learning import ClipReidEncoderParams
from clipfh_lib.reports import gains, tables

SECOND = "05_clip_reid_encoder"
SHUFFLE = "prompts.shuffle"
VIEW = ["test_aspect", "gallery", "subset", "metric"]


def twin(p: ClipReidEncoderParams, outputs: str | Path) -> tuple[dict[str, object], Path]:
    """Overrides and folder of the run that differs from this one in `prompts.shuffle` alone."""
    wanted = not p.prompts.shuffle
    without = {key: value for key, value in p.overrides.items() if key != SHUFFLE}
    axes = p.dataset, p.backbone, p.recipe, p.seed
    for overrides in (without, {**without, SHUFFLE: wanted}):
        other = params.read("clip_reid_encoder", *axes, overrides)
        if other.prompts.shuffle == wanted:
            break
    return overrides, runs.folder(SECOND, other, outputs)


def compare(
    p: ClipReidEncoderParams, ranks: pd.DataFrame, split_sha256: str, outputs: str | Path
) -> pd.DataFrame:
    """This run beside its twin, paired over people on the same queries.

    Args:
        ranks: of this run's trained weights.
        split_sha256: of its split.
        outputs: parameter of the notebook.

    Returns:
        As `retrieval.compare`, with the two values: `own`, with each person's own prompt, and
        `exchanged`; `difference` is the first less the second. No row while there is no twin.

    Raises:
        InputError: the twin is of another split.
    """
    _, folder = twin(p, outputs)
    if not runs.is_complete(folder):
        return pd.DataFrame(columns=[*VIEW, "own", "exchanged", "difference", "low", "high", "p"])
    if runs.manifest(folder).get("split_sha256") != split_sha256:
        raise InputError(f"{folder} is of another split of the data; run it again")
    kept = pd.read_csv(runs.kept(folder, "ranks.csv"), dtype={"test_aspect": str, "ranks": str})
    both = {"own": ranks, "exchanged": kept[kept["weights"] == "trained"]}
    if p.prompts.shuffle:
        both = dict(zip(both, reversed(both.values()), strict=True))
    found = retrieval.compare(*both.values(), p.evaluation.resamples, subsets=("all", "far"))
    for name, each in both.items():
        values = retrieval.summarise(each, resamples=2).metrics[[*VIEW, "value"]]
        found = found.merge(values.rename(columns={"value": name}), on=VIEW)
    return found


def printed(found: pd.DataFrame, p: ClipReidEncoderParams, outputs: str | Path) -> pd.DataFrame:
    """`compare` to read: percent, and points with their interval; or how the twin is made."""
    if found.empty:
        said = f"not run yet; run this notebook with overrides = {twin(p, outputs)[0]}"
        return pd.DataFrame({"the same fit, the other way round": [said]})
    shown = gains.printed(found, p.dataset)
    for metric in reversed(gains.METRICS):
        values = found[found["metric"] == metric]
        place = shown.columns.get_loc(metric)
        word = tables.WORDS.get(metric, metric)
        keys = shown[VIEW[:3]].merge(values, on=VIEW[:3], how="left")
        for name in ("exchanged", "own"):
            shown.insert(place, f"{word} {name}, %", (keys[name] * 100).map("{:.1f}".format))
        shown = shown.rename(columns={metric: f"{word} points"})
    return shown
