"""Run folders, splits and images -> tables to read and print.

Numbers are fractions 0..1 until `printed`, which alone writes percent. Nothing is saved here.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import yaml

from clipfh_lib.files import InputError

ASPECTS = ["dorsal_r", "dorsal_l", "palmar_r", "palmar_l", "all"]
GALLERIES = ["same_aspect", "all_aspects", "default"]
WEIGHTS = [
    "trained", "trained_reranked", "trained_composed", "trained_fixed", "warm_start", "pretrained",
    "pretrained_reranked", "untrained", "untrained_reranked", "pixels",
]  # fmt: skip
GAPS = {
    "gap_1": "1",
    "gap_2": "2",
    "gap_3_5": "3–5",
    "gap_6_10": "6–10",
    "gap_11_50": "11–50",
    "gap_51_up": "51 and more",
}
COLUMNS = (
    "rank1",
    "rank5",
    "rank10",
    "mAP",
    "mAP_trapezoid",
    "mINP",
    "eer",
    "far_rank1",
    "far_mAP",
)
SHORT = ("rank1", "mAP", "mAP_trapezoid", "far_rank1", "far_mAP")
RUN = ["dataset", "notebook", "run", "method", "backbone", "recipe", "seed", "overrides"]  # a run
VIEW = ["weights", "direction", "test_aspect", "gallery"]  # what is told apart within it
WORDS = {  # headings in print
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "mAP_trapezoid": "mAP (trapezoid)",
    "eer": "EER",
    "ndcg@10": "NDCG@10",
    "median_rank": "median rank",
    "dataset": "data set",
    "test_aspect": "test aspect",
    "train_dataset": "train data set",
    "train_aspect": "train aspect",
}
SHORT_TEXT = 32  # letters of overrides that a label may hold
RANKS = ("median_rank", "mean_rank")  # metrics that are no fractions


def need(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse a table that lacks columns, naming them."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{what}: no column {', '.join(missing)}; it has {', '.join(frame.columns)}"
        )


def remark(dataset: str, limited: bool = False) -> str:
    """What a reader must be told of numbers from this data set, if anything."""
    said = ["demo figures"] if str(dataset).startswith("demo") else []
    return "; ".join(said + ["limited run"] * bool(limited))


def spoken(overrides: dict[str, object] | None) -> str:
    """Overrides as text, "fit.epochs: 1, model.weights: best.safetensors": of a path its end."""
    said = []
    for key, value in sorted((overrides or {}).items()):
        text = str(value).rsplit("/", 1)[-1] if isinstance(value, str) else json.dumps(value)
        said.append(f"{key}: {text}")
    return ", ".join(said)


# --- run folders -------------------------------------------------------------------------------


def incomplete(folders: Iterable[str | Path]) -> pd.DataFrame:
    """The run folders that `read_runs` passes over, each with the reason."""
    rows = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            rows.append((f"{folder.parent.name}/{folder.name}", "not started: no such folder"))
        elif not (folder / "manifest.json").is_file():
            rows.append((f"{folder.parent.name}/{folder.name}", "not finished: no manifest.json"))
    return pd.DataFrame(rows, columns=["run", "why"])


def read_runs(folders: Iterable[str | Path]) -> pd.DataFrame:
    """The metrics of all complete run folders, one long table.

    A run is complete when its manifest.json is there; those that are not are passed over and
    listed by `incomplete`. Runs without metrics (the preparation of data) add no row.

    Returns:
        The columns of metrics.csv, and `notebook`, `run` (the folders' names), `overrides` (as
        `spoken` has them) and `limited` (data.limit was set).

    Raises:
        InputError: no folder at all holds a complete run with metrics.
    """
    return _read(folders, "metrics")


def read_curves(folders: Iterable[str | Path], name: str = "cmc") -> pd.DataFrame:
    """The curves that complete runs keep as <name>.csv, each row with what names its run.

    Args:
        folders: run folders; those without such a file, or not complete, are passed over.
        name: of the file, without .csv.

    Returns:
        The columns of the file, and `dataset, method, backbone, recipe, seed, overrides, notebook,
        run, limited`, as in `read_runs`. No rows where runs keep no such curves.

    Raises:
        InputError: no folder at all holds a complete run.
    """
    folders = list(map(Path, folders))
    done = [folder for folder in folders if (folder / "manifest.json").is_file()]
    if done and not any((folder / f"{name}.csv").is_file() for folder in done):
        return pd.DataFrame(columns=["dataset", *RUN[1:], *VIEW, "limited"])
    return _read(folders, name)


def _read(folders: Iterable[str | Path], name: str) -> pd.DataFrame:
    folders, found = list(map(Path, folders)), []
    for folder in folders:
        if (folder / "manifest.json").is_file() and (folder / f"{name}.csv").is_file():
            text = ("dataset", "test_aspect", "gallery", "method", "backbone", "recipe")
            frame = pd.read_csv(folder / f"{name}.csv", dtype=dict.fromkeys(text, str))
            params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) or {}
            who = {key: params[key] for key in RUN if key in params and key not in frame}
            who["overrides"] = spoken(params.get("overrides"))
            limit = (params.get("data") or {}).get("limit") or {}
            who["limited"] = any(value is not None for value in limit.values())
            found.append(frame.assign(**who, notebook=folder.parent.name, run=folder.name))
    if not found:
        raise InputError(
            f"no complete run with {name}.csv in {len(folders)} folders; run some first"
        )
    return pd.concat(found, ignore_index=True)


# --- results -----------------------------------------------------------------------------------


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by data set, gallery, aspect, run (as they came), weights and subset."""
    known = {"gallery": GALLERIES, "test_aspect": ASPECTS, "weights": WEIGHTS, "subset": list(GAPS)}
    keys = {}
    for column in ("dataset", "gallery", "test_aspect", "run", "weights", "subset"):
        names = [c for c in RUN[1:] if c in frame] if column == "run" else [column]
        if names and names[0] in frame:
            first = known.get(column, [])
            places = frame.groupby(names, sort=False, dropna=False).ngroup() + len(first)
            listed = {name: place for place, name in enumerate(first)}
            own = frame[names[0]].map(listed) if first else pd.Series(float("nan"), frame.index)
            keys[column] = own.fillna(places).to_numpy()
    order = pd.DataFrame(keys).sort_values(list(keys), kind="stable").index
    return frame.iloc[order]


def comparison(
    metrics: pd.DataFrame,
    columns: Sequence[str] = COLUMNS,
    directions: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row per run, weights, test aspect and gallery; numbers with their intervals beside them.

    Args:
        metrics: rows of metrics.csv, of one run or of many (`read_runs`).
        columns: metrics of subset `all`, or of another subset with its name in front (`far_rank1`).
        directions: what searches what; by default images that search images, and others only where
            there are none of those: an mAP of texts is no mAP of images.

    Returns:
        What names the row, then for each metric its value (column `rank1`) and its 95 % interval
        (`rank1_low`, `rank1_high`), fractions; `queries` (mean per trial) and `people`, and the
        same of the other subsets; `remark`. What a run did not measure is empty.

    Raises:
        InputError: a column is missing, none of the metrics is there, or a number stands twice.
    """
    keys = [column for column in (*RUN, *VIEW) if column in metrics]
    need(metrics, ["dataset", "subset", "metric", *VIEW, "value", "low", "high"], "metrics")
    rows = metrics.copy()
    rows["name"] = rows["metric"].where(
        rows["subset"] == "all", rows["subset"] + "_" + rows["metric"]
    )
    rows = rows[rows["name"].isin(columns)]
    if directions is None and (rows["direction"] == "image_image").any():
        directions = ["image_image"]
    if directions is not None:
        rows = rows[rows["direction"].isin(directions)]
    if rows.empty:
        raise InputError(f"metrics: none of {', '.join(columns)} among {len(metrics)} rows")
    twice = rows[rows.duplicated([*keys, "name"])]
    if len(twice):
        first = ", ".join(str(twice.iloc[0][key]) for key in keys)
        raise InputError(
            f"metrics: {twice.iloc[0]['name']} stands twice for {first}; read each run once"
        )
    table = rows[keys].drop_duplicates()
    for name in (name for name in columns if (rows["name"] == name).any()):
        part = rows.loc[rows["name"] == name, [*keys, "value", "low", "high"]]
        names = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        table = table.merge(part.rename(columns=names), on=keys, how="left")
    for subset in rows["subset"].unique():
        front = "" if subset == "all" else f"{subset}_"
        part = rows[rows["subset"] == subset].drop_duplicates(keys)[[*keys, "queries", "people"]]
        names = {"queries": f"{front}queries", "people": f"{front}people"}
        table = table.merge(part.rename(columns=names), on=keys, how="left")
    limited = metrics[keys].assign(limited=metrics.get("limited", False)).drop_duplicates(keys)
    table = table.merge(limited, on=keys, how="left")
    said = [remark(*row) for row in zip(table["dataset"], table["limited"], strict=True)]
    return ordered(table.drop(columns="limited").assign(remark=said)).reset_index(drop=True)


def chief(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a thesis prints: all aspects together, or the one that a run tests."""
    run = [name for name in ("dataset", "notebook", "run", "direction") if name in table]
    pooled = table.groupby(run)["test_aspect"].transform(lambda names: (names == "all").any())
    return table[(table["test_aspect"] == "all") | ~pooled].reset_index(drop=True)


def once(table: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """A comparison without rows that repeat another's numbers, the first of which is kept.

    `pixels` and weights that nobody trained are measured again by every run of a backbone.

    Args:
        table: of `comparison`.
        columns: its numbers.
    """
    of = [name for name in ("dataset", "backbone", *VIEW) if name in table]
    numbers = [name for name in table if name in columns]
    again = table.assign(backbone=table["backbone"].where(table["weights"] != "pixels", "none"))
    again[numbers] = again[numbers].round(9)
    kept = table["weights"].str.startswith("trained")
    return table[kept | ~again.duplicated([*of, *numbers])].reset_index(drop=True)


def printed(table: pd.DataFrame, columns: Sequence[str] = SHORT) -> pd.DataFrame:
    """The comparison (or the rows beside published ones) as text: percent, `72.3 [65.1, 79.0]`.

    Columns that say the same in every row are left out, but never data set, weights, aspect and
    gallery, without which a number means nothing; nor is an empty one kept, or the name of a run
    that its axes tell from the others. Queries are the mean of the trials, and the people they show
    stand behind them.
    """
    axes = [name for name in (*RUN, *VIEW) if name in table and name not in ("notebook", "run")]
    if "overrides" in axes and not table.duplicated(axes).any():
        table = table.drop(columns=["notebook", "run"], errors="ignore")
    keep = ["dataset", "weights", "test_aspect", "gallery", "remark"]
    hidden = ("queries", "people", "_low", "_high")  # shown below, or with their number
    made = {}
    for name in table.columns:
        if name in columns:
            if table[name].notna().any():
                made[heading(name)] = _with_intervals(table, name)
        elif name not in COLUMNS and not name.endswith(hidden):
            text = ["" if pd.isna(cell) else str(cell) for cell in table[name]]
            if any(text) and (name in keep or len(set(text)) > 1):
                made[WORDS.get(name, name)] = text
    for front in ("", "far_"):
        if f"{front}queries" in table:
            counted = zip(table[f"{front}queries"], table[f"{front}people"], strict=True)
            text = ["" if pd.isna(q) else f"{q:.0f} ({people:.0f})" for q, people in counted]
            made[f"{front.replace('_', ' ')}queries (people)"] = text
    frame = pd.DataFrame(made)
    last = [name for name in ("source", "note", "remark") if name in frame]
    return frame[[name for name in frame if name not in last] + last]


def heading(name: str) -> str:
    """How a column of `comparison` is headed in print: metric, subset and unit."""
    subset, _, metric = (
        name.rpartition("_") if name.startswith(("far_", "gap_")) else ("", "", name)
    )
    unit = "" if metric in RANKS else ", %"
    return f"{subset} {WORDS.get(metric, metric)}{unit}".strip()


def _with_intervals(table: pd.DataFrame, name: str) -> list[str]:
    scale = 1 if name in RANKS else 100
    values = table[name]
    lows = table.get(f"{name}_low", pd.Series(float("nan"), table.index))
    highs = table.get(f"{name}_high", pd.Series(float("nan"), table.index))
    cells = []
    for value, low, high in zip(values, lows, highs, strict=True):
        text = "" if pd.isna(value) else f"{value * scale:.1f}"
        cells.append(f"{text} [{low * scale:.1f}, {high * scale:.1f}]" if pd.notna(low) else text)
    return cells


def summary(
    metrics: pd.DataFrame, columns: Sequence[str] = SHORT, notes: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The end of a notebook: the chief numbers in percent with their 95 % intervals.

    Args:
        metrics: rows of metrics.csv.
        columns: as in `comparison`.
        notes: `weights, test_aspect, gallery, metric, reason` of numbers that rest on too few pairs
            or errors; these get a dagger, and the row's remark says so.
    """
    table = comparison(metrics, columns)
    shown = printed(table, columns)
    for note in () if notes is None else notes.itertuples():
        where = [note.weights, note.test_aspect, note.gallery]
        rows = (table[["weights", "test_aspect", "gallery"]] == where).all(axis=1)
        if (name := heading(note.metric)) in shown:
            shown.loc[rows, name] += " †"
    doubtful = shown.apply(lambda row: row.astype(str).str.endswith("†").any(), axis=1)
    if doubtful.any():
        remarks = shown.get("remark", pd.Series("", shown.index))
        told = remarks.where(remarks == "", remarks + "; ") + "† too few pairs or errors"
        shown["remark"] = remarks.where(~doubtful, told)
    return shown


def of_open_set(metrics: pd.DataFrame, notes: pd.DataFrame) -> pd.DataFrame:
    """Misses and false alarms, doubtful ones with a dagger; without an open set the notes."""
    kinds = ("fnir", "val_fnir", "val_fpir")
    columns = [f"{kind}@{level}" for kind in kinds for level in ("1e-1", "1e-2")]
    return notes if metrics.empty else summary(metrics, columns, notes)


def burst_gaps(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rank-1 by how many file numbers a query lies from its nearest right gallery image.

    Returns:
        dataset, weights, test_aspect, gallery, gap, rank1, low, high, queries, people; fractions.
        What tells runs apart in a figure (`label`, `panel`) is kept where it is there.

    Raises:
        InputError: the run has no such rows (its data set has no file numbers).
    """
    rows = metrics[metrics["subset"].isin(GAPS) & (metrics["metric"] == "rank1")]
    if rows.empty:
        raise InputError("metrics: no rows by burst gap; the data set has no file numbers")
    rows = ordered(rows).rename(columns={"value": "rank1"})
    rows = rows.assign(gap=rows["subset"].map(GAPS))
    keep = ["dataset", "weights", "test_aspect", "gallery", "gap", "rank1", "low", "high"]
    keep += [name for name in ("label", "panel") if name in rows]
    return rows[[*keep, "queries", "people"]].reset_index(drop=True)


def labels(metrics: pd.DataFrame) -> pd.Series:
    """The shortest text for each row that tells its run and weights from the others.

    `pixels` look at no model, so they are named alike whatever run wrote them.
    """
    needed = [c for c in ("method", "backbone", "recipe", "seed") if c in metrics]
    needed = [c for c in needed if metrics.loc[metrics["weights"] != "pixels", c].nunique() > 1]
    parts = [
        metrics[c].map("seed {}".format) if c == "seed" else metrics[c].astype(str) for c in needed
    ]
    text = metrics["weights"].astype(str)
    for part in reversed(parts):
        text = part.where(metrics["weights"] != "pixels", "") + " " + text
    text = text.str.strip()
    if "run" in metrics:  # overrides alone may tell two runs apart: short ones, or eight signs
        runs = metrics.groupby(text)["run"].transform("nunique")
        tail = metrics["run"].str.extract(r"-([0-9a-f]{8})$")[0].fillna("")
        if "overrides" in metrics:
            said = metrics["overrides"].fillna("")
            tail = tail.where(~said.str.len().between(1, SHORT_TEXT), said)
        several = (runs > 1) & (metrics["weights"] != "pixels") & (tail != "")
        text = text.where(~several, text + " (" + tail + ")")
    return text


# --- data --------------------------------------------------------------------------------------


def counts(images: pd.DataFrame, dataset: str = "", limited: bool = False) -> pd.DataFrame:
    """Images and people per aspect, without and with accessories where the data set tells.

    Args:
        images: the images table.
        dataset: its name; a drawn one is named in the table's corner.
        limited: data.limit was set; the corner says so.
    """
    parts = {"all": images}
    if "accessories" in images:
        worn = pd.to_numeric(images["accessories"])
        parts = {"without accessories": images[worn == 0], "with accessories": images[worn > 0]}
        parts["all"] = images
    rows = {}
    for aspect in [*aspects(images["aspect"]), "all"]:
        rows[aspect] = {}
        for name, part in parts.items():
            part = part if aspect == "all" else part[part["aspect"] == aspect]
            rows[aspect][f"{name}: images"] = len(part)
            if not ("caption" in images and images["pid"].is_unique):  # else nobody is meant
                rows[aspect][f"{name}: people"] = part["pid"].nunique()
    return _cornered(pd.DataFrame.from_dict(rows, orient="index"), remark(dataset, limited))


def aspects(values: pd.Series) -> list[str]:
    """The aspects that occur, in their order; names that are not ours after them, by alphabet."""
    return sorted(values.dropna().unique(), key=lambda a: (a not in ASPECTS, _place(ASPECTS, a), a))


def _place(known: Sequence[str], name: str) -> int:
    return list(known).index(name) if name in known else len(known)


def _cornered(frame: pd.DataFrame, said: str) -> pd.DataFrame:
    return frame.rename_axis(columns=said) if said else frame


def split_sizes(split: pd.DataFrame, dataset: str = "", limited: bool = False) -> pd.DataFrame:
    """People and images of each role per test aspect; queries and galleries are those of one trial.

    Args:
        split: the split manifest.
        dataset: its name; a drawn one is named in the table's corner.
        limited: data.limit was set; the corner says so.

    Returns:
        Index: the test aspect (`all` where a data set has but one kind of picture). Columns:
        images and people of train, val, query and each gallery (mean of the trials), `trials`,
        and `people without query`, whose pictures only distract. Where texts search, the last two
        are left out, and people as well if each image is of something else.
    """
    need(split, ["image_id", "pid", "role", "trial", "gallery", "aspect", "test_aspect"], "split")
    one = set(split["test_aspect"].dropna()) <= {"all"}
    group = split["aspect"].where(split["test_aspect"].isna(), split["test_aspect"])
    split = split.assign(group="all" if one else group)
    alone = split.groupby("pid")["image_id"].nunique().le(1).all()
    roles = set(split["role"])
    rows = {}
    for aspect, part in split.groupby("group", sort=False):
        row = {}
        for role in ("train", "val"):
            row[f"{role} images"] = part.loc[part["role"] == role, "image_id"].nunique()
            row[f"{role} people"] = part.loc[part["role"] == role, "pid"].nunique()
        tested = part[part["role"].isin(["query", "gallery"])]
        tested = tested.assign(
            kind=("gallery " + tested["gallery"]).where(tested["role"] == "gallery", "query")
        )
        trials = tested["trial"].nunique()
        galleries = sorted(tested["gallery"].dropna().unique(), key=lambda g: _place(GALLERIES, g))
        for kind in ["query", *(f"gallery {g}" for g in galleries)]:
            held = tested[tested["kind"] == kind]
            if len(held):
                row[f"{kind} images"] = len(held) / trials
                row[f"{kind} people"] = held.groupby("trial")["pid"].nunique().mean()
        asked = set(tested.loc[tested["role"] == "query", "pid"])
        own = set(tested.loc[tested["gallery"] != "all_aspects", "pid"])
        row["people without query"] = len(own - asked)
        row["trials"] = trials
        rows[aspect] = row
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0)
    table = table.loc[aspects(pd.Series(table.index))]
    if "query" not in roles and (alone or "gallery" in roles):
        table = table.drop(columns=["people without query", "trials"])
        table = table[[c for c in table if "people" not in c]] if alone else table
    whole = [column for column in table if (table[column] % 1 == 0).all()]
    return _cornered(table.astype(dict.fromkeys(whole, int)), remark(dataset, limited))


def set_aside_summary(set_aside: pd.DataFrame) -> pd.DataFrame:
    """How many files were set aside for each reason, with one of them as an example."""
    grouped = set_aside.groupby("reason", sort=True)["path"]
    table = pd.DataFrame({"files": grouped.size(), "for example": grouped.first()}).reset_index()
    return table.sort_values("files", ascending=False, kind="stable").reset_index(drop=True)


def sample(images: pd.DataFrame, people: int = 4, each: int = 2) -> pd.DataFrame:
    """Rows to look at: of each aspect some people spread over the ids, each with several pictures.

    Pictures of one person are taken far apart, so that they show how much a hand varies. No
    chance is at work: the same table gives the same rows.
    """
    picked = []
    for aspect in aspects(images["aspect"]):
        part = images[images["aspect"] == aspect].sort_values(["pid", "image_id"])
        often = part["pid"].value_counts()
        pids = sorted(often[often >= each].index)
        several = people if pids else people * each
        for pid in _spread(pids or sorted(often.index), several):
            own = part[part["pid"] == pid]
            picked += [own.iloc[place] for place in _spread(range(len(own)), each)]
    return pd.DataFrame(picked).reset_index(drop=True)


def _spread(values: Sequence[int], number: int) -> list[int]:
    """At most `number` of the values, the first and the last among them."""
    number = min(number, len(values))
    if number < 2:
        return list(values[:number])
    return [values[round(i * (len(values) - 1) / (number - 1))] for i in range(number)]


def extreme_queries(ranks: pd.DataFrame, number: int = 3) -> pd.DataFrame:
    """The best and the worst queries of a ranking, each of another person.

    Best: right at rank 1 although the gallery image was taken farthest away in file numbers;
    worst: the first right image comes last. Pass the rows of one weights, gallery, aspect, trial.

    Returns:
        Rows of ranks.csv with a column `kind` (best, worst) in front, best first.

    Raises:
        InputError: the rows are of more than one ranking.
    """
    one = ["weights", "direction", "test_aspect", "trial", "gallery"]
    for column in one:
        if column in ranks and ranks[column].nunique() > 1:
            names = ", ".join(map(str, ranks[column].unique()[:4]))
            raise InputError(f"ranks: {column} has {names}; take the rows of one")
    best = ranks[ranks["rank"] == 1].sort_values(["gap", "query"], ascending=[False, True])
    worst = ranks[ranks["rank"] > 1].sort_values(["rank", "query"], ascending=[False, True])
    parts = [("best", best), ("worst", worst)]
    parts = [part.drop_duplicates("pid").head(number).assign(kind=kind) for kind, part in parts]
    rows = pd.concat(parts, ignore_index=True)
    return rows[["kind", *ranks.columns]]


def first_ranking(ranks: pd.DataFrame) -> pd.DataFrame:
    """The rows of ranks.csv of one ranking: the first weights, aspect, gallery and trial."""
    for column in ("weights", "direction", "test_aspect", "gallery", "trial"):
        ranks = ranks[ranks[column] == ranks[column].iloc[0]]
    return ranks


def pictured(ranks: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The rows of an images table that some rows of ranks.csv name, as query or as found."""
    columns = [c for c in ranks.columns if c == "query" or c.startswith("top_")]
    return images[images["image_id"].isin(ranks[columns].stack())].reset_index(drop=True)
