"""Which figures of which runs a report holds, and what stands below each."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from clipfh_lib import runs
from clipfh_lib.reports import photographs

COMPARE = "20_compare"
ATTENTION = "11_attention"
EVERY = ("10_robustness", ATTENTION, "12_identify")  # all their figures are shown
SOME = {  # of the first other run of each data set and backbone, what no figure of all runs shows
    "01_prepare_data": ("sample", "split_sizes"),
    "02_zero_shot": ("ranked_lists", "across_aspects", "open_set"),
    "08_text_to_image": ("sentences",),
}
CAPTIONS = {
    "cmc": "Cumulative match curves: the share of queries whose right person is among the first k",
    "bars": "Rank-1 and mAP of all queries and of the far ones",
    "by_method": "One number of each run with its 95 % interval",
    "det": "Detection error trade-off of two-image comparisons",
    "histories": "Training: loss and validation of each run, epoch by epoch",
    "burst_gap": "Rank-1 by how many file numbers a query lies from its nearest right image",
    "severity": "Severity curves: what each run keeps as a condition grows harder",
    "embedded": "Embeddings of a few test people in a plane by t-SNE, a colour for each person",
    "failures": "The worst queries, each with a right image and the wrong one that won",
    "words": "Texts that search images: recall@k and hit@k",
    "sample": "Some of the photographs, by aspect",
    "split_sizes": "People and images of each role, of one trial",
    "ranked_lists": "Best and worst queries with the first images that were found",
    "across_aspects": "Queries of each aspect in the galleries of each",
    "open_set": "Missed people against false alarms, people searched for in vain included",
    "sentences": "What sentences found",
    "robustness_curves": "Rank-1 as each condition grows harder, 0: the untouched images",
    "robustness_heat": "What each condition costs at each severity",
    "real_conditions": "Conditions that the photographs themselves have",
    "groups": "Rates of groups of people at one common threshold",
    "right_matches": "Right matches: where the similarity comes from, on both sides of a pair",
    "wrong_matches": "Wrong matches, each with the right image beside",
    "before_and_after": "The same pair before and after fine-tuning",
    "one_person": "One person over several images",
    "mean_maps": "The mean map of each aspect",
    "energy": "Share of a map that lies on the hand, beside the hand's share of the picture",
    "removal": "Deletion and insertion: similarity as the marked pixels go and come",
    "answers": "Answers: who an image may be, with similarity",
}
SHADED = "Bands and bars: 95 % intervals from resampling people"
VERDICTS = "What the maps are worth"  # the table of `findings`
MAPS = {"right_matches", "wrong_matches", "before_and_after", "one_person", "mean_maps"}
WITH_INTERVALS = {"cmc", "bars", "by_method", "burst_gap", "severity", "words"}


class Picture(NamedTuple):
    """A figure of a run folder, as PNG and PDF."""

    name: str  # of the report, unique
    png: Path
    pdf: Path
    caption: str


def of_plan(folders: Iterable[str | Path], own: Path) -> tuple[list[Picture], list[str]]:
    """The figures that a report of some runs may hold, those of 20 first.

    Args:
        folders: run folders of the plan; those that are not complete are passed over.
        own: the folder of 20_compare, whose figures are of all the others together.

    Returns:
        The pictures, and the names of those left out since they show photographs that may not
        stand in reports (`photographs.allowed`).
    """
    done = [Path(folder) for folder in folders if runs.is_complete(Path(folder))]
    params = {folder: _params(folder) for folder in done}
    kept, left = [], []
    for path in _figures(own):
        behind = _behind(path.stem, list(params.values()))
        if photographs.may_stand(path.stem, *behind):
            kept.append(_picture(path.stem, path, _of_all(path.stem, behind)))
        else:
            left.append(path.stem)
    for folder in _first(done, params):
        for path in _chosen(folder):
            name = f"{folder.parents[1].name}-{folder.parent.name}-{folder.name}-{path.stem}"
            if photographs.may_stand(path.stem, params[folder]):
                said = _of_one(path.stem, folder, params[folder])
                kept.append(_picture(name, path, said))
            else:
                left.append(name)
    return kept, left


def one_of_each(folders: Iterable[str | Path]) -> dict[str, Path]:
    """A run of each data set to show failures of: the first that trained, else the first.

    Only of runs that searched images by images and kept what their ranks and images were.
    """
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        if runs.is_complete(folder) and {"ranks.csv", "embeddings.csv"} <= set(
            runs.manifest(folder)["files"]
        ):
            params = _params(folder)
            ranks = pd.read_csv(folder / "ranks.csv", usecols=["direction"])
            if (ranks["direction"] == "image_image").any():
                name, here = str(params["dataset"]), "fit" in params
                if name not in found or (here and "fit" not in _params(found[name])):
                    found[name] = folder
    return found


def _behind(figure: str, params: list[dict]) -> list[dict]:
    """The runs that a figure of 20 may show: of the data set that its name ends with, or all."""
    names = {str(each.get("dataset")) for each in params}
    named = max((name for name in names if figure.endswith(f"-{name}")), key=len, default=None)
    return [each for each in params if named is None or str(each.get("dataset")) == named]


def _picture(name: str, path: Path, caption: str) -> Picture:
    return Picture(name, path, path.with_suffix(".pdf"), caption)


def _figures(folder: Path) -> list[Path]:
    """The figures of a run that are there both as PNG and as PDF, in the order of CAPTIONS."""
    found = sorted((folder / "figures").glob("*.png"))
    order = list(CAPTIONS)
    place = {name: number for number, name in enumerate(order)}
    found = [path for path in found if path.with_suffix(".pdf").is_file()]
    return sorted(found, key=lambda path: place.get(path.stem.split("-")[0], len(order)))


def _first(folders: Sequence[Path], params: dict[Path, dict]) -> list[Path]:
    """Of each notebook, data set and backbone the first run; of EVERY all of them."""
    found = {}
    for folder in folders:
        who = (folder.parent.name, params[folder].get("dataset"), params[folder].get("backbone"))
        found.setdefault(folder if folder.parent.name in EVERY else who, folder)
    return list(found.values())


def _says_something(folder: Path, figure: str) -> bool:
    """Whether there is more in a figure than a line on why it is empty."""
    if figure == "open_set":
        return bool(len(pd.read_csv(folder / "open_set.csv")))
    if figure == "across_aspects":
        return pd.read_csv(folder / "across_aspects.csv")["test_aspect"].nunique() > 2
    return True


def _chosen(folder: Path) -> list[Path]:
    """The figures of a run that the report shows."""
    notebook = folder.parent.name
    names = SOME.get(notebook, ())
    return [
        path
        for path in _figures(folder)
        if notebook in EVERY or (path.stem in names and _says_something(folder, path.stem))
    ]


def caption_of(figure: str) -> str:
    """What a figure shows, by its name; of one that has no caption the name in words.

    What follows a hyphen is the data set: "failures-demo".
    """
    name = figure.split("-")[0]
    said = CAPTIONS.get(name) or name.replace("_", " ").capitalize()
    return f"{said}. {SHADED}." if name in WITH_INTERVALS else f"{said}."


def _of_all(figure: str, params: Sequence[dict]) -> str:
    """The caption of a figure of several runs: which of them are drawn or limited is said."""
    said = {}
    for each in params:
        if remark := photographs.remark(each):
            said.setdefault(remark, []).append(str(each["dataset"]))
    every = {str(each.get("dataset")) for each in params}
    parts = []
    for remark, names in said.items():
        names = list(dict.fromkeys(names))
        parts.append(remark if set(names) == every else f"{remark}: {', '.join(names)}")
    return _with_remark(caption_of(figure), "; ".join(parts))


def _of_one(figure: str, folder: Path, params: dict) -> str:
    dataset = str(params.get("dataset", ""))
    where = f"Data set {dataset}, run {folder.parent.name}/{folder.name}."
    if folder.parent.name == ATTENTION and figure in MAPS:
        checked = (folder / "verdicts.csv").is_file()
        where += f" Whether these maps explain anything: table “{VERDICTS}”." * checked
        where += " Nobody checked whether these maps explain anything." * (not checked)
    return _with_remark(f"{caption_of(figure)} {where}", photographs.remark(params))


def _with_remark(text: str, remark: str) -> str:
    return f"{text} {remark[0].upper()}{remark[1:]}." if remark else text


def _params(folder: Path) -> dict:
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) or {}
