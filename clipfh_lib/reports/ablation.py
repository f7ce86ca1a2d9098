"""The versions v1, v2, ... of a method: what each changes against the one before, and its results.

The changes are those of the resolved parameters, so they hold what a run does and not what the head
of its recipe says.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipfh_lib import params
from clipfh_lib.plans import Job
from clipfh_lib.reports import export, tables

NUMBERS = ("rank1", "mAP", "far_rank1")
TRIALS = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid")
NAMES = {"dataset", "backbone", "recipe", "seed", "overrides", "method"}
RUN = ["method", "version", "backbone", "dataset", "seed", "changes"]
VIEW = ["test_aspect", "gallery"]
ENDS = ("", "_low", "_high")
START = "start"
SEMICOLON = "; "
OF_PLACE = {"prompts.recipe", "prompts.run"}  # where the prompts stand: what they are is told
NOTHING = "no run of this plan is a version: its recipes are not named v1, v2, ..."


def table(jobs: Sequence[Job]) -> pd.DataFrame:
    """All versions of a plan: what each changes, and its chief numbers where it was run.

    Args:
        jobs: of `plans.jobs`.

    Returns:
        RUN, then VIEW, and NUMBERS with their 95 % intervals, fractions; a row for each test aspect
        that is printed and each gallery. `changes` is against the version before of the same
        backbone, "fit.lr: 1e-05 -> 0.0001", keys of a first stage behind its notebook's number. A
        version that was not run yet has empty numbers. Before them stands START, the weights that
        they begin with, as the first complete run measured them. Without versions an empty table.
    """
    found = _versions(jobs)
    rows, before = [], {}
    for number, job in found:
        who = (job.cell.notebook, job.cell.backbone, job.cell.dataset, job.cell.seed)
        content = _content(job, jobs)
        changes = "the first"
        if who in before:
            last, old = before[who]
            changes = _changed(old, content)
            if number != last + 1:
                changes = f"against v{last}{SEMICOLON}{changes}"
        before[who] = number, content
        row = dict(zip(RUN[2:5], who[1:], strict=True))
        row |= {"method": job.params.method, "version": f"v{number}", "changes": changes}
        rows.append({**row, "notebook": job.folder.parent.name, "run": job.folder.name})
    keys, ends = ["dataset", "notebook", "run"], [f"{n}{e}" for n in NUMBERS for e in ENDS]
    runs = pd.DataFrame(rows, columns=[*RUN, *keys[1:]])
    done = [job.folder for _, job in found if _complete(job.folder, "metrics.csv")]
    numbers = pd.DataFrame(columns=[*keys, *VIEW, "weights", *ends])
    metrics = tables.read_runs(done) if done else pd.DataFrame({"direction": []})
    if (metrics["direction"] == "image_image").any():
        chief = tables.chief(tables.comparison(metrics, NUMBERS))
        numbers = chief.reindex(columns=numbers.columns)
    own = runs.merge(numbers[numbers["weights"] == "trained"], on=keys, how="left")
    start = runs.merge(numbers[numbers["weights"] == "pretrained"], on=keys)
    start = start.drop_duplicates(["method", "backbone", "dataset", *VIEW])
    start = start.assign(version=START, changes="before any training", seed=0)
    return pd.concat([start, own] if len(start) else [own])[[*RUN, *VIEW, *ends]]


def trials(jobs: Sequence[Job], backbone: str) -> pd.DataFrame:
    """What every version of a backbone scored in every trial, `all` and `far`, side by side.

    Args:
        jobs: of `plans.jobs`; runs that are not complete are passed over.
        backbone: a file of params/backbones/.

    Returns:
        `method, version, dataset, seed, test_aspect, gallery, trial`, TRIALS, the same of `far`
        with that in front, `queries` and `far_queries`; fractions.
    """
    keys = ["method", "version", "dataset", "seed", *VIEW, "trial"]
    frames = []
    for number, job in _versions(jobs):
        if job.cell.backbone == backbone and _complete(job.folder, "trials.csv"):
            text = dict.fromkeys(("dataset", "test_aspect", "gallery"), str)
            rows = pd.read_csv(job.folder / "trials.csv", dtype=text)
            kept = (rows["weights"] == "trained") & rows["subset"].isin(["all", "far"])
            kept &= rows["direction"] == "image_image"
            rows = rows[kept & rows["metric"].isin(TRIALS)].assign(version=f"v{number}")
            front = rows["subset"].map({"all": "", "far": "far_"})
            wide = rows.assign(name=front + rows["metric"]).pivot(
                index=keys, columns="name", values="value"
            )
            counted = rows.assign(name=front + "queries").drop_duplicates([*keys, "name"])
            counted = counted.pivot(index=keys, columns="name", values="queries")
            frames.append(wide.join(counted).reset_index())
    names = [*TRIALS, *(f"far_{name}" for name in TRIALS), "queries", "far_queries"]
    if not frames:
        return pd.DataFrame(columns=[*keys, *names])
    return pd.concat(frames, ignore_index=True).reindex(columns=[*keys, *names])


def backbones(jobs: Sequence[Job]) -> list[str]:
    """Those that have a version in a plan, in its order."""
    return list(dict.fromkeys(job.cell.backbone for _, job in _versions(jobs)))


def to_markdown(found: pd.DataFrame) -> str:
    """`table` as Markdown: a part for each method, backbones side by side; a line if it is empty.

    Percent, with 95 % intervals from resampling people.
    """
    if found.empty:
        return NOTHING
    parts = []
    for (method, dataset), rows in found.groupby(["method", "dataset"], sort=False):
        views = rows[VIEW].dropna().drop_duplicates().itertuples(index=False)
        views = list(views) or [(None, None)]
        for aspect, gallery in views:
            here = (rows["test_aspect"] == aspect) & (rows["gallery"] == gallery)
            names = [dataset, *([aspect, gallery] if aspect else []), tables.remark(dataset)]
            title = f"## {method}: {', '.join(filter(None, names))}"
            shown = _side_by_side(rows, rows[here])
            parts.append(f"{title}\n\n{export.to_markdown(shown)}")
    head = "rank-1 / mAP / rank-1 of `far`, percent with 95 % intervals from resampling people"
    return f"# Versions\n\n{head}\n\n" + "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _side_by_side(runs: pd.DataFrame, numbers: pd.DataFrame) -> pd.DataFrame:
    """A row for each version: what it changes, a column of results for each backbone."""
    names = list(dict.fromkeys(runs["backbone"]))
    order = sorted(set(runs["version"]), key=lambda name: name != START and int(name[1:]))
    made = []
    for version in order:
        of = runs[runs["version"] == version]
        said = of.drop_duplicates("backbone").set_index("backbone")["changes"]
        row = {"version": version, "changes": _together(said.to_dict())}
        for name in names:
            mine = numbers[(numbers["version"] == version) & (numbers["backbone"] == name)]
            cells = [_cell(each, len(mine) > 1) for _, each in mine.iterrows()]
            row[name] = "; ".join(cells) or ("not run" if name in said else "")
        made.append(row)
    return pd.DataFrame(made)


def _together(changes: dict[str, str]) -> str:
    """The changes of several backbones: what is one for all, then what is each one's alone.

    If they are against other versions before, nothing is one.
    """
    each = {name: text.split(SEMICOLON) for name, text in changes.items()}
    first, *others = each.values()
    against = {tuple(one for one in said if one.startswith("against ")) for said in each.values()}
    shared = [one for one in first if all(one in said for said in others) and len(against) == 1]
    parts = list(shared)
    for name, said in each.items():
        if own := SEMICOLON.join(one for one in said if one not in shared):
            parts.append(f"{name} alone: {own}")
    return SEMICOLON.join(parts)


def _cell(row: pd.Series, seeds: bool) -> str:
    said = []
    for name in NUMBERS:
        value, low, high = (row[f"{name}{end}"] for end in ENDS)
        ends = "" if pd.isna(low) else f" [{low * 100:.1f}, {high * 100:.1f}]"
        said.append("–" if pd.isna(value) else f"{value * 100:.1f}{ends}")
    return (f"seed {row['seed']}: " if seeds else "") + " / ".join(said)


def _complete(folder: Path, name: str) -> bool:
    return (folder / "manifest.json").is_file() and (folder / name).is_file()


def _versions(jobs: Sequence[Job]) -> list[tuple[int, Job]]:
    """Runs that train an encoder by a recipe named v1, v2, ..., with that number, in its order."""
    found = []
    for job in jobs:
        number = re.fullmatch(r"v(\d+)", job.cell.recipe or "")
        if number and hasattr(job.params, "evaluation") and hasattr(job.params, "fit"):
            found.append((int(number[1]), job))
    return sorted(found, key=lambda one: one[0])


def _content(job: Job, jobs: Sequence[Job]) -> dict[str, object]:
    """All that a run's parameters say, flat, and before it what its first stage's say."""
    found = params.flat(job.params.model_dump(mode="json", exclude=NAMES))
    for other in jobs:
        if other.folder in job.needs and hasattr(other.params, "fit"):
            stage = params.flat(other.params.model_dump(mode="json", exclude=NAMES))
            front = Path(other.cell.notebook).name[:2]
            found = {f"{front} {key}": value for key, value in stage.items()} | found
    return found


def _changed(before: dict[str, object], now: dict[str, object]) -> str:
    """Key by key, what differs."""
    said = []
    for key in dict.fromkeys([*before, *now]):
        if key in OF_PLACE:
            continue
        old, new = (content.get(key) for content in (before, now))
        if old != new:
            said.append(f"{key}: {_text(old)} -> {_text(new)}")
    return SEMICOLON.join(said) or "nothing"


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
