"""The run that a study looks into, and the study's parameters, which begin with that run's."""

from collections.abc import Mapping
from pathlib import Path

from clipfh_lib import files, params, runs
from clipfh_lib.files import InputError
from clipfh_lib.params import METHODS, NOTEBOOKS
from clipfh_lib.schema import Common
from clipfh_lib.study import OfRun, StudyParams

ZERO_SHOT = "02_zero_shot"


def load(
    method: str,
    dataset: str,
    backbone: str,
    recipe: str,
    seed: int = 0,
    overrides: dict | str | None = None,
    of_run: str = "",
    outputs: str | Path = "outputs",
) -> StudyParams:
    """What a notebook calls: `read`, and no mistyped parameter of papermill's is let through."""
    params.check_injected(params.arguments(METHODS[method]))
    return read(method, dataset, backbone, recipe, seed, overrides, of_run, outputs)


def read(
    method: str,
    dataset: str,
    backbone: str,
    recipe: str,
    seed: int = 0,
    overrides: dict | str | None = None,
    of_run: str = "",
    outputs: str | Path = "outputs",
    known: Mapping[Path, Common] | None = None,
) -> StudyParams:
    """A study's parameters: the studied run's model, embedding, distance and data, then its own.

    Args:
        method: robustness, attention or identify; its recipes are in params/recipes/<method>/.
        dataset: what is tested; of another data set than the run's, its data parameters count.
        of_run: the run's folder, from the project's root or from outputs/<dataset>/ on; "" for
            zero-shot with the backbone's own weights, which needs no run.
        outputs: parameter of the notebook.
        known: parameters of runs that are still to be made, by folder (of a plan).

    Raises:
        InputError: no such run, one of another backbone or seed, overrides of the run's model, and
            what `params.read` refuses.
    """
    overrides = params.flat(overrides)
    if of_run == "":
        own = {k: v for k, v in overrides.items() if k.split(".")[0] in ("data", "model", "embed")}
        run = params.read("zero_shot", dataset, backbone, "default", seed, own)
        folder = runs.folder(ZERO_SHOT, run, outputs)
    else:
        if of_model := [key for key in overrides if key.split(".")[0] == "model"]:
            raise InputError(f"overrides: {of_model[0]} is the studied run's; leave of_run empty")
        folder = _folder(of_run, dataset, outputs, known or {})
        run = (known or {}).get(folder) or params_of(folder)
        for name, asked in {"backbone": backbone, "seed": seed}.items():
            if getattr(run, name) != asked:
                there = getattr(run, name)
                raise InputError(f"of_run is a run with {name} {there}; set {name} to that, too")
    inside = folder.is_relative_to(files.project())
    place = (folder.relative_to(files.project()) if inside else folder).as_posix()
    of = OfRun(
        notebook=folder.parent.name,
        dataset=run.dataset,
        method=run.method,
        recipe=run.recipe,
        folder=place,
    )
    under = {"of": of.model_dump(), "model": run.model.model_dump()}
    if hasattr(run, "embed"):
        under["embed"] = run.embed.model_dump()
    if hasattr(run, "evaluation"):
        under["evaluation"] = {"distance": run.evaluation.distance}
    if hasattr(run, "fit"):
        under["model"]["weights"] = place
    if run.dataset == dataset:  # as overrides: by them 01_prepare_data is found
        given = params.flat(run.overrides).items()
        overrides = {k: v for k, v in given if k.split(".")[0] == "data"} | overrides
    return params.read(method, dataset, backbone, recipe, seed, overrides, params.flat(under))


def params_of(folder: Path) -> Common:
    """The parameters of a complete run, as its manifest has them.

    Raises:
        InputError: no complete run, or one whose images nothing embeds.
    """
    made = runs.manifest(folder)
    kind = METHODS.get(NOTEBOOKS.get(made["notebook"], ""))
    if kind is None or "model" not in kind.model_fields or issubclass(kind, StudyParams):
        raise InputError(f"of_run: {folder} is of {made['notebook']}, which makes no embeddings")
    return params.validate(kind, made["params"], dict.fromkeys(made["params"], f"{folder}"))


def _folder(of_run: str, dataset: str, outputs: str | Path, known: Mapping[Path, Common]) -> Path:
    """Where the run stands: as named, or within the outputs of the data set."""
    places = [files.resolve(of_run), files.resolve(outputs) / dataset / of_run]
    for place in places:
        if place in known or runs.is_complete(place):
            return place
    shown = " nor ".join(params.short(place) for place in places)
    raise InputError(f"of_run: no complete run in {shown}; run its notebook first")
