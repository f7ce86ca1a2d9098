"""A plan's report, as sections of text, tables and figures; `html` and `thesis` set it.

What the program says it reads from run folders; what only the author can say stands in sections of
its own and comes from params/plans/<plan>.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from clipfh_lib.plans import Job
from clipfh_lib.reports import (
    against,
    author,
    holm,
    photographs,
    pictured,
    provenance,
    results,
    studied_runs,
    tables,
)
from clipfh_lib.reports.findings import Table
from clipfh_lib.reports.pictured import Picture

RESULTS = (
    "comparison", "far", "aspects_rank1", "aspects_mAP", "across_aspects", "train_by_test",
    "verification", "open_set", "words", "seeds", "published",
)  # fmt: skip
STUDIES = ("robustness", "groups", "attention", "energy")


class Section(NamedTuple):
    """A part of a report. What is empty is not set."""

    name: str  # an anchor: letters and hyphens
    title: str
    text: Sequence[str] = ()  # paragraphs
    points: Sequence[str] = ()  # a list
    folded: Sequence[str] = ()  # a list that a page shows when asked to
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()
    markdown: str = ""  # the author's
    empty: str = ""  # what to say in place of an author's section that nobody wrote


class Report(NamedTuple):
    """A report: its title, a line below it, its sections in order."""

    title: str
    subtitle: str
    sections: list[Section]


def of_plan(
    plan: str,
    jobs: Sequence[Job],
    found: dict[str, Table],
    folder: Path,
    outputs: str | Path = "outputs",
) -> Report:
    """The report of a plan.

    Args:
        plan: a file of params/plans/, and the author's sections beside it.
        jobs: of `plans.jobs`.
        found: of `findings.of_plan`.
        folder: the run folder of 20_compare, its figures written.
        outputs: parameter of the notebook.
    """
    folders = [job.folder for job in jobs]
    pictures, left = pictured.of_plan(folders, folder)
    own = [one for one in pictures if one.png.parent.parent == folder]
    single = [one for one in pictures if one.png.parent.parent != folder]
    said = author.sections(plan)
    written = [
        Section(name.lower().replace(" ", "-"), name, markdown=text, empty=author.missing(plan))
        for name, text in said.items()
    ]
    sections = [
        _stands(found), _what_ran(jobs, folders), _data(folders), *_results(found), _figures(own),
        _studies(found, folders), _single(single, left), _cost(found), _traps(folders),
        _limits(folders), *written, _again(plan, jobs, outputs, folders),
    ]  # fmt: skip
    here = [photographs.drawn(job.params.model_dump(mode="json")) for job in jobs]
    drawn = "Demo figures: drawn hands, no photographs. " if all(here) else ""
    if any(here) and not all(here):
        names = dict.fromkeys(j.cell.dataset for j, d in zip(jobs, here, strict=True) if d)
        drawn = f"Demo figures (drawn hands): {', '.join(names)}. "
    subtitle = f"{drawn}Every number is read from the run folders of the plan."
    sections = [s._replace(tables=[t for t in s.tables if len(t.shown)]) for s in sections]
    full = [section for section in sections if any(section[2:8]) or section.empty]
    return Report(f"Report of the plan {plan}", subtitle, full)


# --- sections ------------------------------------------------------------------------------------


def _stands(found: dict[str, Table]) -> Section:
    """Which differences stand, and which do not."""
    tests = found.get("tests")
    if tests is None or tests.numbers.empty:
        return Section("findings", "What stands", [f"{against.NOTHING.capitalize()}."])
    said = against.sentences(tests.numbers)
    rows = tests.numbers
    many, stand, few = len(rows), int(rows["stands"].sum()), int((~rows["decidable"]).sum())
    counted = f"{stand} stand and {many - stand - few} do not"
    if few:
        counted = f"{stand} stand, {many - stand - few} do not and {few} cannot be decided"
    text = [
        f"Of {many} differences {counted}. A "
        f"difference stands if Holm's p is at most {holm.LEVEL} and zero lies outside its 95 % "
        "interval; that one does not stand is no proof that there is none."
    ]
    if few:
        least, most = (rows.loc[~rows["decidable"], "people"].agg(name) for name in ("min", "max"))
        people = f"{least}" if least == most else f"{least} to {most}"
        text.append(
            f"{few} cannot be decided with {people} people: with {rows['comparisons'].max()} "
            f"comparisons at once not even the clearest difference could reach {holm.LEVEL} by "
            "flipping so few signs. Ask more people, or ask less of them."
        )
    points = [f"Stands: {line}." for line in said["stand"]]
    folded = [f"Does not stand: {line}." for line in said["open"]]
    folded += [f"Cannot be decided: {line}." for line in said["few"]]
    return Section("findings", "What stands", text, points, folded, [tests])


def _what_ran(jobs: Sequence[Job], folders: Sequence[Path]) -> Section:
    shown = provenance.runs_table(jobs)
    passed = tables.incomplete(folders)
    commits = provenance.commits(folders)
    text = [f"{len(jobs) - len(passed)} of {len(jobs)} runs are complete."]
    if len(commits) > 1:
        text.append(f"The runs are of {len(commits)} states of the code: {'; '.join(commits)}.")
    if any("changed since" in commit for commit in commits):
        text.append("Some ran from files that no commit holds: they cannot be made again exactly.")
    points = [f"{row.run}: {row.why}" for row in passed.itertuples()]
    said = "Code: commit, and whether files had been changed since; weights: start of their SHA-256"
    made = [_plain("runs", "Runs", f"{said}.", shown)]
    return Section("runs", "What was run", text, points, tables=made)


def _data(folders: Sequence[Path]) -> Section:
    made = [
        _plain("splits", "Splits", "Runs of one hash were measured on the same queries.",
               provenance.splits_table(folders))
    ]  # fmt: skip
    for name, (counts, sizes) in provenance.data_tables(folders).items():
        remark = tables.remark(name)
        end = f" ({remark})." if remark else "."
        made.append(_plain(f"counts_{name}", f"{name}: images and people", f"As read{end}", counts))
        said = f"Of one trial; gallery and query images are those of a trial{end}"
        made.append(_plain(f"split_{name}", f"{name}: the split", said, sizes))
    aside = provenance.set_aside(folders)
    text = [f"{name}: {number} files set aside." for name, number in aside.items() if number]
    return Section("data", "Data", text, tables=made)


def _results(found: dict[str, Table]) -> list[Section]:
    here = _with_rows(found, RESULTS)
    text = [
        "Numbers of another data set, gallery or kind of average precision are not to be "
        "compared: they stand in rows of their own."
    ]
    return [Section("results", "Results", text, tables=here)] if here else []


def _figures(pictures: Sequence[Picture]) -> Section:
    return Section("figures", "Figures of all runs", pictures=pictures)


def _studies(found: dict[str, Table], folders: Sequence[Path]) -> Section:
    points = studied_runs.other_pixels(folders)
    here = _with_rows(found, STUDIES)
    return Section("studies", "Studies: robustness, groups, maps", points=points, tables=here)


def _single(pictures: Sequence[Picture], left: Sequence[str]) -> Section:
    text = []
    if left:
        text = [
            f"{len(left)} figures show photographs and are left out, since data.photographs of "
            "their data set does not allow them in reports, or since people were enrolled from a "
            f"folder or a table: {', '.join(left)}."
        ]
    return Section("pictures", "Figures of single runs", text, pictures=pictures)


def _cost(found: dict[str, Table]) -> Section:
    return Section("cost", "Cost", tables=_with_rows(found, ["cost"]))


def _traps(folders: Sequence[Path]) -> Section:
    shown = provenance.traps(folders)
    text = ["The trap reports of 01_prepare_data, without what needs nothing to be done."]
    if shown.empty:
        text = ["No trap report of this plan's data sets has a finding that wants attention."]
    made = [_plain("traps", "Traps", "", shown)]
    return Section("traps", "Traps found", text, provenance.seen(folders), tables=made)


def _limits(folders: Sequence[Path]) -> Section:
    people = provenance.people_table(tables.read_runs(results.measured(folders)))
    few = provenance.too_few(folders)
    text = [
        "Intervals and tests resample people, since images of one person are not independent: the "
        "number of people, not of images, is what a result rests on.",
        "Rule of three: what did not happen to any of n people may still happen to 3/n of all "
        "(Hanley and Lippman-Hand 1983). Rule of 30: an error rate is known to 30 % of itself only "
        "from 30 errors on (Doddington and others 2000).",
        *provenance.one_seed(folders),
    ]
    said = "Numbers that rest on fewer pairs or errors than the rule of 30 asks for."
    made = [
        _plain("people", "People behind the numbers", "The fewest of any run.", people),
        _plain("too_few", "Too few pairs or errors", said, few),
    ]
    return Section("limits", "Limits", text, tables=made)


def _again(plan: str, jobs: Sequence[Job], outputs: str | Path, folders: Sequence[Path]) -> Section:
    lines = provenance.commands(plan, jobs, outputs)
    commits = [one for one in provenance.commits(folders) if "," not in one and " " not in one]
    if len(commits) == 1:
        lines = [f"git checkout {commits[0]}", *lines]
    used = provenance.versions(folders)
    said = ", ".join(f"{name} {' and '.join(of)}" for name, of in used.items())
    text = ["The first lines make everything; a line of papermill makes one run alone."]
    return Section("again", "How to do it again", [*text, f"Ran with {said}."], commands=lines)


def _with_rows(found: dict[str, Table], names: Sequence[str]) -> list[Table]:
    return [found[name] for name in names if name in found and len(found[name].shown)]


def _plain(name: str, title: str, caption: str, shown: pd.DataFrame) -> Table:
    """A table that is read as it is kept."""
    return Table(name, title, caption, shown, shown)
