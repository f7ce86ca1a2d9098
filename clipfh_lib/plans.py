"""A plan: which runs, where each one stands, and what it needs to have been done before."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clipfh_lib import files, params, runs, studied
from clipfh_lib.files import InputError
from clipfh_lib.learning import ClipReidEncoderParams
from clipfh_lib.params import NOTEBOOKS
from clipfh_lib.schema import Common, Frozen
from clipfh_lib.study import StudyParams

FIRST = "04_clip_reid_prompts"
TUNED = "03_fine_tune"
_NAMED = re.compile(r"\{(.*)\}")  # a named cell
AXES = ("dataset", "backbone", "recipe", "seed", "of_run", "overrides")


class Cell(Frozen):
    """Runs of one notebook: lists multiply."""

    notebook: str
    dataset: str | list[str]
    backbone: str | list[str] | None = None
    recipe: str | list[str] | None = None
    seed: int | list[int] = 0
    # Of 10 to 12: a "{name}" of cells above, or a folder in which {dataset}, {backbone} and {seed}
    # stand for this cell's, as "03_fine_tune/{backbone}-default-seed{seed}"; none: zero-shot.
    of_run: str | list[str] = ""
    overrides: dict[str, object] | list[dict[str, object]] = {}
    # Notebooks, whose runs of the same axes go first (see `_fits`), and "{name}"s of cells above.
    needs: list[str] = []
    name: str = ""  # "{name}" in the overrides of cells below is the folder of this one run


class Plan(Frozen):
    """The content of a file of params/plans/."""

    cells: list[Cell]
    against: str | None = None  # "{name}" of the run that all others are tested against in 20


class Job(NamedTuple):
    """One run: its notebook and axes, its parameters, its folder, the folders it needs."""

    cell: Cell
    params: Common
    folder: Path
    needs: list[Path]


def jobs(plan: str, outputs: str | Path) -> list[Job]:
    """The runs of params/plans/<plan>.yaml, in its order.

    Raises:
        InputError: unknown plan, notebook, key or value, or a need that the plan does not run.
    """
    params.check_injected(["plan", "outputs"])
    path = params.file_of("plans", plan)
    content = params.read_yaml(path)
    where = params.short(path)
    source = dict.fromkeys(content, where)
    made, folders = [], {}
    for cell in params.validate(Plan, content, source).cells:
        known = {one.folder: one.params for one in made}
        own = [job(_placed(one, folders, where), outputs, known) for one in expand(cell)]
        made += own
        if cell.name:
            if len(own) > 1 or cell.name in folders:
                raise InputError(f"{where}: name {cell.name} must be that of one run")
            folders[cell.name] = own[0].folder
    found: dict[Path, Job] = {}
    made_here = {one.folder for one in made}
    for one in made:
        read = (weights_folder(one.params), prompts_folder(one.params), of_folder(one.params))
        needs = [folder for folder in read if folder in made_here]
        for name in one.cell.needs:
            if named := _NAMED.fullmatch(name):
                needs.append(_folder(named[1], folders, f"{where}: needs"))
                continue
            fit = [
                other.folder for other in made if other.cell.notebook == name and _fits(other, one)
            ]
            if not fit:
                raise InputError(
                    f"{where}: {one.cell.notebook} needs {name}, which is no cell of it with the "
                    f"same axes ({one.folder.parent.parent.name}/{one.folder.name})"
                )
            needs += fit
        found[one.folder] = one._replace(needs=list(dict.fromkeys(needs)))
    return list(found.values())


def against(plan: str, outputs: str | Path) -> Path | None:
    """The folder of the run that a plan's others are tested against; none: each its zero-shot.

    Raises:
        InputError: as `jobs`, and a name that no cell has.
    """
    path = params.file_of("plans", plan)
    content = params.read_yaml(path)
    where = params.short(path)
    read = params.validate(Plan, content, dict.fromkeys(content, where))
    if read.against is None:
        return None
    named = {job.cell.name: job.folder for job in jobs(plan, outputs) if job.cell.name}
    found = _NAMED.fullmatch(read.against)
    return _folder(found[1] if found else read.against, named, f"{where}: against")


def weights_folder(p: Common) -> Path | None:
    """Where a run's weights come from, should they be a run's."""
    return files.resolve(p.model.weights) if hasattr(p, "model") else None


def warmed(p: Common, outputs: str | Path) -> Common:
    """A run's parameters with the weights of the run that its recipe begins with (`warm_start`).

    That is the run of 03 with the same data set, backbone and seed, and the recipe named there; of
    the overrides those of data and model count for it too. Weights in the overrides go first.
    """
    recipe = getattr(p, "warm_start", None)
    if recipe is None or "model.weights" in p.overrides:
        return p
    kept = {k: v for k, v in p.overrides.items() if k.split(".")[0] in ("data", "model")}
    tuned = params.read(NOTEBOOKS[TUNED], p.dataset, p.backbone, recipe, p.seed, kept)
    folder, root = runs.folder(TUNED, tuned, outputs), files.project()
    weights = folder.relative_to(root) if folder.is_relative_to(root) else folder
    model = p.model.model_copy(update={"weights": weights.as_posix()})
    return p.model_copy(update={"model": model})


def prompts_folder(p: Common) -> Path | None:
    """The run whose learned prompts a second stage is told to take; none: it finds them itself."""
    named = getattr(getattr(p, "prompts", None), "run", None)
    return None if named is None else files.resolve(named)


def of_folder(p: Common) -> Path | None:
    """The run that a study looks into; none of other runs."""
    return files.resolve(p.of.folder) if isinstance(p, StudyParams) else None


def first_stage(one: Job, outputs: str | Path) -> Job | None:
    """The run of 04 whose prompts a second stage takes if it is told none; none of other runs.

    Of the overrides those of data and model count there too.
    """
    if not isinstance(one.params, ClipReidEncoderParams) or prompts_folder(one.params):
        return None
    changed = {"notebook": FIRST, "recipe": one.params.prompts.recipe or one.cell.recipe}
    return job(one.cell.model_copy(update={**changed, "overrides": _shared(one.cell)}), outputs)


def _placed(cell: Cell, folders: dict[str, Path], where: str) -> Cell:
    """The cell with the folders of named runs put into its overrides."""
    values = params.flat(cell.overrides)
    for key, value in values.items():
        if isinstance(value, str) and (found := _NAMED.fullmatch(value)):
            folder, root = _folder(found[1], folders, f"{where}: {key}"), files.project()
            inside = folder.is_relative_to(root)
            values[key] = (folder.relative_to(root) if inside else folder).as_posix()
    of_run = cell.of_run
    if found := _NAMED.fullmatch(of_run):
        of_run = _folder(found[1], folders, f"{where}: of_run").as_posix()
    elif of_run:
        axes = {axis: getattr(cell, axis) for axis in ("dataset", "backbone", "seed")}
        try:
            of_run = of_run.format(**axes)
        except (KeyError, IndexError, ValueError):
            raise InputError(
                f"{where}: of_run {of_run!r}: take {{name}} of a cell above, or a folder with "
                "{dataset}, {backbone}, {seed} in it"
            ) from None
    return cell.model_copy(update={"overrides": values, "of_run": of_run})


def _folder(name: str, folders: dict[str, Path], where: str) -> Path:
    """The folder of a named cell above."""
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise InputError(f"{where}: {{{name}}} names no cell above it (named: {known})")
    return folders[name]


def expand(cell: Cell) -> list[Cell]:
    """A cell for each combination of what it lists."""
    lists = [v if isinstance(v := getattr(cell, axis), list) else [v] for axis in AXES]
    combinations = itertools.product(*lists)
    return [cell.model_copy(update=dict(zip(AXES, values, strict=True))) for values in combinations]


def job(cell: Cell, outputs: str | Path, known: Mapping[Path, Common] | None = None) -> Job:
    """A cell with its parameters read.

    Args:
        known: parameters by folder of the runs that a study may look into before they are made.

    Raises:
        InputError: unknown notebook, or what `params.load` refuses.
    """
    if cell.notebook not in NOTEBOOKS:
        known = params.nearest(cell.notebook, list(NOTEBOOKS))
        raise InputError(f"no notebook {cell.notebook} in a plan; nearest: {known}")
    takes = set(AXES) & set(params.METHODS[NOTEBOOKS[cell.notebook]].model_fields)
    for axis in ("backbone", "recipe"):
        if (getattr(cell, axis) is None) == (axis in takes):
            word = "needs a" if axis in takes else "takes no"
            raise InputError(f"{cell.notebook} {word} {axis}")
    axes = (cell.dataset, cell.backbone, cell.recipe, cell.seed, cell.overrides)
    if issubclass(params.METHODS[NOTEBOOKS[cell.notebook]], StudyParams):
        read = studied.read(NOTEBOOKS[cell.notebook], *axes, cell.of_run, outputs, known)
    elif cell.of_run:
        raise InputError(f"{cell.notebook} takes no of_run")
    else:
        read = warmed(params.read(NOTEBOOKS[cell.notebook], *axes), outputs)
    return Job(cell, read, runs.folder(cell.notebook, read, outputs), [])


def arguments(one: Job, outputs: str | Path) -> dict[str, object]:
    """The parameters cell's values for papermill."""
    names = params.arguments(type(one.params))
    given = {axis: getattr(one.cell, axis) for axis in AXES if axis in names}
    if "of_run" in given and given["of_run"]:
        given["of_run"] = one.params.of.folder
    return given | {"outputs": str(outputs)}


def _fits(other: Job, one: Job) -> bool:
    """Whether a run is the one that another needs: of the same axes, as far as it has them.

    Of overrides only those of data and model count, and the other run may have no more than these.
    A second stage of CLIP-ReID may name another recipe of the first one.
    """
    same = other.cell.dataset == one.cell.dataset
    if other.cell.backbone is None:
        return same and other.params.data == one.params.data
    recipe = one.cell.recipe
    if other.cell.notebook == FIRST and isinstance(one.params, ClipReidEncoderParams):
        recipe = one.params.prompts.recipe or recipe
    axes = (other.cell.backbone, other.cell.recipe, other.cell.seed)
    same &= axes == (one.cell.backbone, recipe, one.cell.seed)
    return same and params.flat(other.cell.overrides) == _shared(one.cell)


def _shared(cell: Cell) -> dict[str, object]:
    """Of a cell's overrides those that a run which it needs has too."""
    given = params.flat(cell.overrides)
    return {key: given[key] for key in given if key.split(".")[0] in ("data", "model")}
