"""What was run on which data, which traps it has, what its numbers cannot carry, how to redo it."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import yaml

from clipfh_lib import params, plans, runs
from clipfh_lib.plans import Job
from clipfh_lib.reports import tables

PREPARED = "01_prepare_data"
HARMLESS = "nothing to do"
NOTES = ("verification_notes", "open_set_notes")
SHORT = 12  # letters of a hash


def runs_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """Every run of a plan: its axes, the commit that it ran from, whether it is complete."""
    rows = []
    for job in jobs:
        cell, done = job.cell, runs.is_complete(job.folder)
        made = runs.manifest(job.folder) if done else {}
        row = {"notebook": cell.notebook, "data set": cell.dataset}
        row |= {"backbone": cell.backbone or "", "recipe": cell.recipe or "", "seed": cell.seed}
        row |= {"overrides": tables.spoken(params.flat(cell.overrides)), "folder": job.folder.name}
        row["code"] = _code(made) if done else "not complete"
        row["weights"] = str(made.get("weights_sha256") or "")[:SHORT]
        rows.append(row)
    return pd.DataFrame(rows)


def _code(made: dict) -> str:
    """Commit of a run, with a sign that files had been changed since."""
    commit = made.get("commit")
    if commit is None:
        return "no commit"
    return commit[:SHORT] + ("" if made.get("clean") else ", changed since")


def splits_table(folders: Iterable[str | Path]) -> pd.DataFrame:
    """The splits that the runs used: data set, hash, what was tested, by how many runs."""
    rows = []
    for folder in map(Path, folders):
        if runs.is_complete(folder):
            made = runs.manifest(folder)
            if sha := made.get("split_sha256"):
                rows.append({"data set": _params(folder)["dataset"], "split SHA-256": sha})
    if not rows:
        return pd.DataFrame(columns=["data set", "split SHA-256", "runs"])
    found = pd.DataFrame(rows)
    return found.groupby(list(found), sort=False).size().rename("runs").reset_index()


def people_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """People and queries that each data set's numbers rest on, and the rule of three.

    If an event was not seen among n people, its rate is below 3/n with 95 % confidence (Hanley and
    Lippman-Hand, JAMA 249, 1983): nothing rarer can be told from nothing.
    """
    rows = metrics[(metrics["subset"] == "all") & metrics["metric"].isin(["rank1", "hit@1"])]
    keys = ["dataset", "direction", "test_aspect", "gallery"]
    rows = tables.chief(rows).sort_values("people", kind="stable").drop_duplicates(keys)
    rows = tables.ordered(rows)
    return pd.DataFrame(
        {
            "data set": rows["dataset"],
            "direction": rows["direction"],
            "aspect": rows["test_aspect"],
            "gallery": rows["gallery"],
            "people": rows["people"].astype(int),
            "queries": rows["queries"].map("{:.0f}".format),
            "rule of three, %": (300 / rows["people"]).map("{:.1f}".format),
        }
    ).reset_index(drop=True)


def data_tables(folders: Iterable[str | Path]) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Images and people of each prepared data set, and how they were split, by data set."""
    found = {}
    for folder in _prepared(folders):
        params, name = _params(folder), _params(folder)["dataset"]
        limited = any(v is not None for v in ((params["data"].get("limit")) or {}).values())
        text = {"aspect": str, "test_aspect": str, "image_id": str, "gallery": str}
        images = pd.read_csv(runs.kept(folder, "images.csv"), dtype=text)
        split = pd.read_csv(runs.kept(folder, "split.csv"), dtype=text)
        made = [tables.counts(images, name, limited), tables.split_sizes(split, name, limited)]
        found[name] = tuple(each.rename_axis("aspect").reset_index() for each in made)
    return found


def set_aside(folders: Iterable[str | Path]) -> dict[str, int]:
    """How many files of each data set could not be used."""
    return {
        _params(folder)["dataset"]: len(pd.read_csv(runs.kept(folder, "set_aside.csv")))
        for folder in _prepared(folders)
    }


def traps(folders: Iterable[str | Path]) -> pd.DataFrame:
    """What the trap report found in each data set and that wants attention."""
    frames = []
    for folder in _prepared(folders):
        found = pd.read_csv(runs.kept(folder, "traps.csv"))
        frames.append(found.assign(dataset=_params(folder)["dataset"]))
    if not frames:
        return pd.DataFrame()
    found = pd.concat(frames, ignore_index=True)
    found = found[found["verdict"] != HARMLESS]
    columns = ["dataset", "trap", "finding", "people", "images", "verdict"]
    return found[columns].rename(columns=tables.WORDS).reset_index(drop=True)


def too_few(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Numbers that rest on too few pairs or errors, by data set and reason, with how many.

    Rule of 30: for an error rate to lie within 30 % of the truth with 90 % confidence, 30 errors
    must have been seen (Doddington and others, Speech Communication 31, 2000).
    """
    frames = []
    for folder in map(Path, folders):
        for name in NOTES:
            if runs.is_complete(folder) and (folder / f"{name}.csv").is_file():
                notes = pd.read_csv(runs.kept(folder, f"{name}.csv"))
                frames.append(notes.assign(dataset=_params(folder)["dataset"]))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=["data set", "metric", "for example", "numbers"])
    notes = pd.concat(frames, ignore_index=True)
    grouped = notes.groupby(["dataset", "metric"], sort=False)["reason"]
    found = grouped.agg(["first", "size"]).reset_index()
    return found.rename(columns={"dataset": "data set", "first": "for example", "size": "numbers"})


def seen(folders: Iterable[str | Path]) -> list[str]:
    """Runs whose test people, or some of them, trained the weights that are tested."""
    said = []
    for folder in map(Path, folders):
        if runs.is_complete(folder) and (folder / "trained_on.csv").is_file():
            for row in pd.read_csv(runs.kept(folder, "trained_on.csv")).itertuples():
                if row.seen != 0:
                    many = f"{row.seen} of" if row.seen > 0 else "nobody can tell how many of"
                    said.append(
                        f"{folder.parent.name}/{folder.name}: {many} {row.test_people} test people "
                        f"trained in {row.train_notebook}/{row.train_run}"
                    )
    return said


def one_seed(folders: Iterable[str | Path]) -> list[str]:
    """What the intervals leave out where a method was trained with one seed; nothing else."""
    found: dict[str, set] = {}
    for folder in map(Path, folders):
        if runs.is_complete(folder) and "fit" in (made := _params(folder)):
            who = [made.get(name) for name in ("dataset", "backbone", "recipe", "overrides")]
            found.setdefault(str([folder.parent.name, *who]), set()).add(made.get("seed", 0))
    alone = sum(len(seeds) == 1 for seeds in found.values())
    if not alone:
        return []
    return [
        f"{alone} of {len(found)} trainings were run with one seed. Intervals and tests of these "
        "leave out how far training varies from seed to seed: another seed may give another order."
    ]


def versions(folders: Iterable[str | Path]) -> dict[str, list[str]]:
    """What the runs ran with: each package with its versions, the most common first."""
    found: dict[str, dict[str, int]] = {}
    for folder in map(Path, folders):
        if runs.is_complete(folder):
            for name, version in runs.manifest(folder).get("versions", {}).items():
                counts = found.setdefault(name, {})
                counts[version] = counts.get(version, 0) + 1
    return {name: sorted(of, key=of.get, reverse=True) for name, of in sorted(found.items())}


def commits(folders: Iterable[str | Path]) -> list[str]:
    """The commits that the complete runs ran from."""
    done = [folder for folder in map(Path, folders) if runs.is_complete(folder)]
    return list(dict.fromkeys(_code(runs.manifest(folder)) for folder in done))


def commands(plan: str, jobs: Sequence[Job], outputs: str | Path) -> list[str]:
    """How to make it all again, then how to make each run alone."""
    found = ["pip install -e .", f"snakemake --cores all {plan}"]
    for job in jobs:
        given = {
            name: value
            for name, value in plans.arguments(job, outputs).items()
            if value not in ({}, "") and (name, value) != ("outputs", "outputs")
        }
        said = yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=10**6)
        line = f"papermill notebooks/{job.cell.notebook}.ipynb out.ipynb"
        found.append(f"{line} -y {shlex.quote(said.strip())}")
    return found


def _prepared(folders: Iterable[str | Path]) -> list[Path]:
    return [f for f in map(Path, folders) if f.parent.name == PREPARED and runs.is_complete(f)]


def _params(folder: Path) -> dict:
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
