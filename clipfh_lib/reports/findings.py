"""All tables of a plan's report: numbers for a CSV, text to read, a caption, what is best."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas.io.formats.style import Styler

from clipfh_lib import runs
from clipfh_lib.plans import Job
from clipfh_lib.reports import (
    against,
    best,
    cost,
    differences,
    export,
    holm,
    matrices,
    pictured,
    published,
    results,
    studied_runs,
    tables,
    words_found,
)

PERCENT = "Percent: mean over the trials ± their standard deviation, [95 % interval from people]"
BOLD = "Bold: better than the runner-up, the paired 95 % interval leaves zero out; these two alone "
BOLD += "are tested, not corrected for having been chosen as the first two"


class Table(NamedTuple):
    """A table of a report."""

    name: str  # of its files
    title: str
    caption: str
    numbers: pd.DataFrame  # as they are kept, fractions
    shown: pd.DataFrame  # as they are read
    marks: pd.DataFrame | None = None  # of `shown`: what is set bold


def of_plan(jobs: Sequence[Job], chosen: Path | None = None) -> dict[str, Table]:
    """The tables of a plan by name, read from its run folders; one may have no row.

    Args:
        jobs: of `plans.jobs`.
        chosen: of `plans.against`.

    Raises:
        InputError: no run of the plan is complete.
    """
    folders = [job.folder for job in jobs]
    measured = results.measured(folders)
    metrics = tables.read_runs(measured)
    made = [*_of_images(metrics, measured), _tests(measured, chosen)]
    made += [_trained_here(measured), _across(measured), _beside(metrics), _seeds(measured)]
    made += [_words(metrics), *_studies(folders), _cost(folders)]
    return {table.name: table for table in made if table is not None}


def save(run: runs.Run, found: dict[str, Table], plan: str) -> None:
    """Write each table into a run folder: <name>.csv, and where it has rows .md and .tex."""
    for table in found.values():
        if len(table.numbers.columns):
            run.save_table(table.name, table.numbers)
        if table.shown.empty:
            continue
        run.save_text(f"{table.name}.md", export.to_markdown(table.shown, table.marks))
        caption = f"{table.title} (plan {plan}). {table.caption}"
        text = export.to_latex(table.shown, caption, f"tab:{table.name}", table.marks)
        run.save_text(f"{table.name}.tex", text)


def styled(found: dict[str, Table], *names: str) -> list[Styler]:
    """Some of the tables to show in a notebook, under their captions, the best numbers bold."""
    shown = []
    for table in (found[name] for name in names if name in found and len(found[name].shown)):
        look = table.shown.style.hide(axis="index").set_caption(f"{table.title}. {table.caption}")
        if table.marks is not None:
            bold = table.marks.replace({True: "font-weight: bold", False: ""})
            look = look.apply(lambda _, bold=bold: bold, axis=None)
        shown.append(look)
    return shown


# --- images that search images -----------------------------------------------------------------


def _of_images(metrics: pd.DataFrame, folders: Sequence[Path]) -> list[Table]:
    """Rank-1 and mAP, `all` and `far`, by aspect, and verification."""
    if not (metrics["direction"] == "image_image").any():
        return []
    every = results.with_spread(tables.comparison(metrics), metrics)
    chief = tables.once(tables.chief(every))
    best_of = best.marks(chief, folders)
    columns = ("rank1", "mAP", "mAP_trapezoid")
    made = [_table("comparison", "All runs", f"{PERCENT}. {BOLD}.", every, chief, columns, best_of)]
    far = results.far_table(chief)
    said = "far: queries whose nearest right image is more than 10 file numbers away, so that "
    said += f"it is no neighbour of the same burst. {PERCENT}. {BOLD}."
    made.append(_table("far", "All queries and far ones", said, far, far, results.FAR, best_of))
    for metric in results.ASPECTS:
        shown = results.per_aspect(tables.once(every), metric)
        word = tables.WORDS.get(metric, metric)
        said = f"{PERCENT}. The pooled column is the mean over all queries."
        made.append(Table(f"aspects_{metric}", f"By aspect: {word}", said, shown, shown))
    said = f"Two images, one person or two? {PERCENT}. Val threshold: set on validation people."
    made.append(_rates("verification", "Verification", said, metrics, results.VERIFICATION))
    said = "Searches of a gallery for people who are in it (missed: FNIR) and who are not (found: "
    said += f"FPIR). {PERCENT}. Val threshold: set on validation people."
    made.append(_rates("open_set", "Open set", said, metrics, results.OPEN_SET))
    return [table for table in made if table is not None]


def _rates(
    name: str, title: str, caption: str, metrics: pd.DataFrame, columns: Sequence[str]
) -> Table | None:
    """A table of error rates; none if no run measured them."""
    if not (metrics["metric"].isin(columns) & (metrics["direction"] == "image_image")).any():
        return None
    rows = results.with_spread(tables.comparison(metrics, columns), metrics)
    chief = tables.once(tables.chief(rows), columns)
    return _table(name, title, caption, rows, chief, columns)


def _table(
    name: str,
    title: str,
    caption: str,
    numbers: pd.DataFrame,
    rows: pd.DataFrame,
    columns: Sequence[str],
    best_of: pd.DataFrame | None = None,
) -> Table:
    """A table of some rows of a comparison; marks are those of its own metrics."""
    shown = results.printed(rows, columns)
    marks = None
    if best_of is not None:
        marks = pd.DataFrame(False, index=shown.index, columns=shown.columns)
        for column in columns:
            if column in best_of and results.heading(column) in shown:
                marks[results.heading(column)] = best_of.loc[shown.index, column]
        marks = marks.reset_index(drop=True)
    return Table(name, title, caption, numbers, shown.reset_index(drop=True), marks)


# --- runs beside each other ----------------------------------------------------------------------


def _tests(folders: Sequence[Path], chosen: Path | None) -> Table:
    numbers = against.of_runs(folders, chosen)
    other = "the zero-shot run of the same backbone"
    if chosen is not None:
        other = f"{chosen.parent.name}/{chosen.name} (where it tested nothing, {other})"
    said = (
        f"Points of percent that each run is ahead of {other}, paired over people, [95 % interval]."
        " p is from sign flips of people, corrected by Holm for all comparisons of a data set, "
        "split and direction (which of images and texts searches which) together; * the difference "
        f"stands: p at most {holm.LEVEL} and zero outside the interval; † too few people to decide."
    )
    shown = against.printed(numbers) if len(numbers) else pd.DataFrame()
    return Table("tests", "Paired tests", said, numbers, shown)


def _trained_here(folders: Sequence[Path]) -> Table:
    numbers = matrices.train_by_test(folders)
    said = "Rank-1, percent [95 % interval]. * people of the test trained too, ? nobody can tell."
    return Table(
        "train_by_test", "Trained here, tested there", said, numbers, matrices.printed(numbers)
    )


def _across(folders: Sequence[Path]) -> Table | None:
    """Queries of each aspect in the galleries of every aspect, of runs that kept this."""
    if not any((folder / "across_aspects.csv").is_file() for folder in folders):
        return None
    numbers = tables.read_curves(folders, "across_aspects")
    here = (numbers["metric"] == "rank1") & (numbers["subset"] == "all")
    rows = tables.ordered(numbers[here & (numbers["test_aspect"] != "all")])
    if rows.empty:
        return None
    cells = [results.cell(row.value, float("nan"), row.low, row.high) for row in rows.itertuples()]
    shown = pd.DataFrame({"data set": rows["dataset"], "run": results.names(rows)})
    shown = shown.assign(query=rows["test_aspect"], gallery=rows["gallery"], cell=cells)
    keys = ["data set", "run", "query"]
    wide = shown.pivot_table("cell", keys, "gallery", aggfunc="first", sort=False)
    order = [name for name in tables.aspects(rows["gallery"]) if name in wide]
    wide = wide[order].add_prefix("gallery ").rename_axis(columns=None).reset_index()
    wide["remark"] = wide["data set"].map(tables.remark)
    said = "Rank-1 of queries of each aspect (rows) in the galleries of each (columns), percent "
    return Table("across_aspects", "Across aspects", f"{said}[95 % interval].", numbers, wide)


def _beside(metrics: pd.DataFrame) -> Table | None:
    if not (metrics["direction"] == "image_image").any():
        return None
    numbers = published.beside(metrics)
    theirs = numbers[numbers["origin"] == "published"]
    own = numbers[(numbers["origin"] == "ours") & (numbers["note"] == "")]
    rows = numbers.loc[sorted([*own.index, *theirs.index])]
    said = "Published numbers as published, none run by us, beside ours of the same test set, "
    said += "gallery and kind of average precision."
    shown = tables.printed(rows, published.NUMBERS) if len(theirs) else pd.DataFrame()
    if not len(theirs):  # the table is kept, and says row by row why nothing stands beside ours
        why = numbers["note"].value_counts()
        shown = pd.DataFrame({"not compared, because": why.index, "rows": why.to_numpy()})
        shown["not compared, because"] = shown["not compared, because"].str.removeprefix(
            "not compared: "
        )
    return Table("published", "Beside the literature", said, numbers, shown)


def _seeds(folders: Sequence[Path]) -> Table:
    numbers = differences.over_seeds(folders)
    shown = differences.printed_seeds(numbers) if len(numbers) else pd.DataFrame()
    said = "Runs that differ in their seed alone: mean over the seeds [95 % interval], standard "
    said += "deviation over the seeds, and what the mean gains over zero-shot; percent."
    return Table("seeds", "Over seeds", said, numbers, shown)


def _words(metrics: pd.DataFrame) -> Table:
    numbers = words_found.comparison(metrics)
    said = "recall@k: share of the right answers among the first k; hit@k: whether there is any. "
    said += "Not to be compared with rank-1 and mAP of images; percent [95 % interval]."
    shown = words_found.printed(numbers) if len(numbers) else pd.DataFrame()
    return Table("words", "Texts and images", said, numbers, shown)


# --- studies and cost ----------------------------------------------------------------------------


def _studies(folders: Sequence[Path]) -> list[Table]:
    robust, groups = studied_runs.robustness(folders), studied_runs.groups(folders)
    said = "Rank-1 on conditions of growing severity, 0: the untouched images; percent [95 % "
    said += "interval]. Lost: at the hardest severity, paired. Area: under the severity curve."
    shown = robust
    if len(robust):
        shown = studied_runs.printed_robustness(robust, studied_runs.areas(folders))
    made = [Table("robustness", "Robustness", said, robust, shown)]
    said = "FMR and FNMR at one common threshold, at which the named share of everybody's pairs "
    said += "match falsely; percent [95 % interval]. Where it was chosen on test people, it is "
    said += "measured on those whom it was fitted to. Groups of too few people carry no number."
    shown = studied_runs.printed_groups(groups) if len(groups) else groups
    made.append(Table("groups", "Groups of people", said, groups, shown))
    return [*made, *_maps(folders)]


def _maps(folders: Sequence[Path]) -> list[Table]:
    """What the maps of 11 are worth, and how much of them lies on the hand."""
    checks, on_hand = studied_runs.attention(folders), studied_runs.energy(folders)
    said = "Mean over the first sides of pairs [95 % interval]. Deletion, lower is better, and "
    said += "insertion, higher is better, beside random maps; correlation of a map with that of "
    said += "random weights and of another person's image: low, if it explains. Not corrected "
    said += "for many comparisons. A map that fails a check is no explanation."
    shown = studied_runs.printed_attention(checks) if len(checks) else checks
    made = [Table("attention", pictured.VERDICTS, said, checks, shown)]
    said = "Share of a map's energy on the hand, the hand's share of the picture, and the "
    said += "difference, points; percent [95 % interval]."
    shown = studied_runs.printed_energy(on_hand) if len(on_hand) else on_hand
    return [*made, Table("energy", "Maps on the hand", said, on_hand, shown)]


def _cost(folders: Sequence[Path]) -> Table:
    numbers = cost.of_runs(folders)
    said = "Seconds are of one machine, which other work may have slowed. Parameters with heads."
    return Table("cost", "Cost", said, numbers, cost.printed(numbers))
