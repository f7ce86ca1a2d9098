"""The trap report: what in a data set and its split makes a result mean less than it seems to."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from clipfh_lib.data import splits
from clipfh_lib.schema import AugmentParams, DataParams

COLUMNS = ["trap", "finding", "count", "people", "images", "verdict"]
GAPS = (1, 2, 5, 10)  # file numbers
FEW = 10  # test people; a group of fewer is too small to report
AGES = {"under 25": (0, 24), "25 to 34": (25, 34), "35 to 49": (35, 49), "50 and older": (50, 150)}
START = 65_536  # bytes of a file that are compared before the whole


def report(
    images: pd.DataFrame, split: pd.DataFrame, data: DataParams, root: str | Path | None = None
) -> pd.DataFrame:
    """Check a data set and its split for the known traps.

    Args:
        images: the images table, with width and height where resolutions shall be checked.
        split: its manifest.
        data: parameters that the split was made by.
        root: of the paths, where files shall be checked for doubles.

    Returns:
        COLUMNS: `count` is what the finding counts (people, queries, ...), `people` and `images`
        are whom and what it concerns, `verdict` says what to do. Every trap has at least one row;
        one that was looked for and not found has count 0.
    """
    taking_part = images[images["image_id"].isin(split["image_id"])]
    if data.catalogue == "captions":
        rows = _by_words(taking_part, split, root)
        return pd.DataFrame(rows, columns=COLUMNS).astype({"count": "int64"})
    rows = [
        *_both_sides(images, split, data),
        *_mirrored(images, split),
        *_bursts(images, split),
        *_resolutions(taking_part),
        *_doubles(taking_part, root),
        *_small_groups(images, split),
        *_single(split),
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"count": "int64"})


Row = tuple[str, str, int, int, int, str]


def _persons(images: pd.DataFrame, split: pd.DataFrame, *roles: str) -> pd.DataFrame:
    """Rows of the images in a role, each once, with the pid that the person has in the table."""
    return images[images["image_id"].isin(split.loc[split["role"].isin(roles), "image_id"])]


def _ids(pids: set[int]) -> str:
    shown = ", ".join(str(pid) for pid in sorted(pids)[:10])
    return shown + (", ..." if len(pids) > 10 else "")


def _both_sides(images: pd.DataFrame, split: pd.DataFrame, data: DataParams) -> Iterator[Row]:
    """People who train and are in a gallery or query too, here and between runs of one aspect."""
    train = _persons(images, split, "train", "val")
    test = _persons(images, split, "query", "gallery")
    name, both = "person on both sides", set(train["pid"]) & set(test["pid"])
    seen = test[test["pid"].isin(both)]
    asked = set(_persons(images, split, "query")["pid"]) & set(train["pid"])
    finding = "people of train who are test people in another aspect"
    verdict = "nothing to do"
    if asked:
        verdict = f"INVALID: {len(asked)} of them are searched for; do not use this split"
    elif both:
        verdict = (
            "only distractors of all_aspects: as published; trained ones may be easier to tell"
        )
    yield name, finding, len(both), len(both), len(seen), verdict
    if data.catalogue == "split_folders":
        return  # the folders know the train people of one aspect alone
    halves = splits.sides(images, data)
    apart = {pid for _, pids in halves.values() for pid in pids}
    apart &= {pid for pids, _ in halves.values() for pid in pids}
    here = splits.participants(images)
    here = here[here["pid"].isin(apart)]
    finding = "people who train in one aspect and test in another, each aspect split apart"
    verdict = "nothing to do"
    if apart:
        verdict = f"leave them out when a run of one aspect is judged on another: {_ids(apart)}"
    if apart and len(splits.tested(halves, data)) > 1:
        verdict = f"left out of training here: {_ids(apart)}"
    yield name, finding, len(apart), len(apart), len(here), verdict


def _mirrored(images: pd.DataFrame, split: pd.DataFrame) -> Iterator[Row]:
    """A flipped left hand looks like a right one: of whom are both there?"""
    name = "mirrored hands"
    train = _persons(images, split, "train", "val")
    query = _persons(images, split, "query")
    other = query["aspect"].str[:-1] + query["aspect"].str[-1].map({"r": "l", "l": "r"})
    query = query.assign(mirror=other.fillna(""))
    trained = set(zip(train["pid"], train["aspect"], strict=True))
    hit = [key in trained for key in zip(query["pid"], query["mirror"], strict=True)]
    found = query[np.array(hit, bool)]
    finding = "people searched for whose other hand is in train"
    verdict = "train without flips" if len(found) else "nothing to do"
    yield name, finding, found["pid"].nunique(), found["pid"].nunique(), len(found), verdict
    wide = split[split["gallery"] == "all_aspects"]
    own = wide["image_id"].map(images.set_index("image_id")["pid"])
    beside = set(zip(wide["test_aspect"], wide["aspect"], own, strict=True))
    keys = zip(query["aspect"], query["mirror"], query["pid"], strict=True)
    found = query[np.array([key in beside for key in keys], bool)]
    finding = "queries whose owner's other hand is a distractor of all_aspects"
    verdict = "embed.flip: add makes the two alike: compare with none" if len(found) else ""
    yield name, finding, len(found), found["pid"].nunique(), len(found), verdict or "nothing to do"


def of_training(images: pd.DataFrame, split: pd.DataFrame, augment: AugmentParams) -> pd.DataFrame:
    """What the trap report says of mirrored hands, if training flips images; else no row.

    A flip makes a right hand a left one: a person's other hand, or nobody's.
    """
    flips = augment.flip or augment.flip_vertical
    return pd.DataFrame(_mirrored(images, split) if flips else [], columns=COLUMNS)


def gaps(images: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """File numbers between each query and its nearest right gallery image, trial by trial.

    Returns:
        test_aspect, trial, image_id, pid, gap; own gallery (same_aspect or default). No row where
        file numbers are missing or nothing right is in the gallery.
    """
    numbers = images.set_index("image_id")["file_number"].astype("Float64")
    own = split[split["role"].eq("query") | split["gallery"].isin(["same_aspect", "default"])]
    own = own.assign(number=own["image_id"].map(numbers).to_numpy(float, na_value=np.nan))
    keys = ["test_aspect", "trial", "pid"]
    right = own.loc[own["role"] == "gallery", [*keys, "number"]]
    pairs = own.loc[own["role"] == "query", [*keys, "image_id", "number"]].merge(right, on=keys)
    pairs["gap"] = (pairs["number_x"] - pairs["number_y"]).abs()
    pairs = pairs.dropna(subset="gap")
    return pairs.groupby([*keys, "image_id"], as_index=False)["gap"].min()


def _bursts(images: pd.DataFrame, split: pd.DataFrame) -> Iterator[Row]:
    name = "bursts"
    known = "file_number" in images and images["file_number"].notna().any()
    found = gaps(images, split) if known else pd.DataFrame(columns=["test_aspect"])
    if found.empty:
        yield name, "no file numbers, or no query: not checked", 0, 0, 0, "no burst gaps, no far"
    for aspect, part in found.groupby("test_aspect", sort=False):
        for gap in GAPS:
            near = part[part["gap"] <= gap]
            finding = f"{aspect}: {len(near) / len(part):.1%} of queries within {gap} file numbers"
            verdict = "nearly the same photograph: look at far and at the pixels row"
            verdict = verdict if len(near) else "nothing to do"
            people, pictures = near["pid"].nunique(), near["image_id"].nunique()
            yield (
                name,
                f"{finding} of the right gallery image",
                len(near),
                people,
                pictures,
                verdict,
            )


def _resolutions(images: pd.DataFrame) -> Iterator[Row]:
    """Sizes, and whether to know a picture's size is to know something of its person."""
    name = "mixed resolutions"
    if "width" not in images:
        yield name, "sizes unknown: not checked", 0, 0, 0, "prepare the data set"
        return
    size = images["width"].astype(str) + " x " + images["height"].astype(str)
    number, several = size.nunique(), size.groupby(images["pid"]).nunique()
    mixed = set(several.index[several > 1])
    verdict = "nothing to do"
    if number > 1:
        same = _agreement(size, images["pid"])
        others = _agreement(size, pd.Series(0, images.index))
        verdict = (
            f"two pictures are of one size with {same:.0%} within people, {others:.0%} over all: "
            "take one size by data.include, or report per size"
        )
    finding = f"sizes in pixels: {', '.join(size.value_counts().index[:5])}"
    yield name, finding, number, images["pid"].nunique(), len(images), verdict
    finding, pictures = "people whose pictures have several sizes", images["pid"].isin(mixed).sum()
    verdict = "query and gallery may differ in size" if mixed else "nothing to do"
    yield name, finding, len(mixed), len(mixed), int(pictures), verdict


def _agreement(values: pd.Series, groups: pd.Series) -> float:
    """Share of the pairs of a group that have the same value, over all groups."""
    each = values.groupby([groups, values]).size()
    whole = values.groupby(groups).size()
    return float((each * (each - 1)).sum() / max((whole * (whole - 1)).sum(), 1))


def _doubles(images: pd.DataFrame, root: str | Path | None) -> Iterator[Row]:
    """Files with the same bytes; only those of one length are read, their beginnings first."""
    name, finding = "doubled files", "files with the same content as another"
    if root is None:
        yield name, "not checked: no folder given", 0, 0, 0, "pass the root"
        return
    alike = _contents(images, root)
    found = images[alike.duplicated(keep=False)]
    people = found.groupby(alike)["pid"].nunique()
    verdict = "nothing to do"
    if (people > 1).any():
        verdict = f"INVALID: {(people > 1).sum()} pictures are of several people; remove them"
    elif len(found):
        verdict = "a query may be its own gallery image: remove the doubles"
    yield name, finding, len(found), found["pid"].nunique(), len(found), verdict


def _contents(images: pd.DataFrame, root: str | Path) -> pd.Series:
    """A text for each file that no file of other content has."""
    paths = [Path(root) / path for path in images["path"]]
    alike = pd.Series([path.stat().st_size for path in paths], index=images.index).astype(str)
    for length in (START, -1):
        twice = alike.duplicated(keep=False).to_numpy()
        for row in np.flatnonzero(twice):
            with paths[row].open("rb") as file:
                alike.iloc[row] += hashlib.sha256(file.read(length)).hexdigest()
    return alike


def _by_words(images: pd.DataFrame, split: pd.DataFrame, root: str | Path | None) -> Iterator[Row]:
    """What makes images too easy, or impossible, to find by their words.

    Who or what an image shows is known where items have groups; else each image is a pid.
    """
    learnt = images["image_id"].isin(split.loc[split["role"].isin(["train", "val"]), "image_id"])
    test, said = images[~learnt], images["caption"]

    def counts(mask: pd.Series) -> tuple[int, int, int]:
        return int(mask.sum()), test.loc[mask, "pid"].nunique(), int(mask.sum())

    name = "image on both sides"
    if root is None:
        yield name, "not checked: no folder given", 0, 0, 0, "pass the root"
    else:
        alike = _contents(images, root)
        both = alike[~learnt].isin(alike[learnt])
        finding = "test images with the content of one in train or val"
        verdict = "INVALID: remove them" if both.any() else "nothing to do"
        yield name, finding, *counts(both), verdict
        double = alike[~learnt].duplicated(keep=False)
        finding = "test images with the content of another test image"
        verdict = "a wrong answer may be the right picture: remove the doubles"
        verdict = verdict if double.any() else "nothing to do"
        yield "doubled files", finding, *counts(double), verdict
    known = said[~learnt].isin(said[learnt])
    verdict = "learnt by heart they are no test of words: count them apart" if known.any() else ""
    finding = "test images whose first caption is that of a train or val image"
    yield "caption on both sides", finding, *counts(known), verdict or "nothing to do"
    shared = said[~learnt].duplicated(keep=False)
    verdict = "each of them is a right answer; read recall@k beside hit@k" if shared.any() else ""
    finding = "test images that share their first caption with another"
    yield "shared captions", finding, *counts(shared), verdict or "nothing to do"
    if "width" in images:
        size = images["width"].astype(str) + " x " + images["height"].astype(str)
        finding = f"sizes in pixels: {', '.join(size.value_counts().index[:5])}"
        verdict = "data.resize says how each is brought to the model's" * (size.nunique() > 1)
        number, people = size.nunique(), images["pid"].nunique()
        yield "mixed resolutions", finding, number, people, len(images), verdict or "nothing to do"


def _small_groups(images: pd.DataFrame, split: pd.DataFrame) -> Iterator[Row]:
    name, test = "small groups", _persons(images, split, "query")
    checked = False
    for column in ("gender", "skin_color", "age"):
        if column not in test:
            continue
        checked = True
        group = test[column]
        if column == "age":
            years = pd.to_numeric(group, errors="coerce")
            group = pd.Series("unknown", test.index)
            for text, (low, high) in AGES.items():
                group[years.between(low, high)] = text
        for text, part in test.groupby(group):
            people = part["pid"].nunique()
            verdict = f"fewer than {FEW}: do not report alone" if people < FEW else "nothing to do"
            finding = f"{column} {text}: people searched for"
            yield name, finding, people, people, len(part), verdict
    if not checked:
        yield name, "no gender, skin colour or age known: not checked", 0, 0, 0, "nothing to do"


def _single(split: pd.DataFrame) -> Iterator[Row]:
    """People with one image, for each test aspect and in train."""
    name = "people with one image"
    own = split["gallery"].isin(["same_aspect", "default"])
    tested = split[split["role"].eq("query") | own].drop_duplicates(["test_aspect", "image_id"])
    for aspect, part in tested.groupby("test_aspect", sort=False):
        alone = int((part["pid"].value_counts() == 1).sum())
        verdict = "gallery image without a query" if alone else "nothing to do"
        yield name, f"{aspect}: test people", alone, alone, alone, verdict
    part = split[split["role"].isin(["train", "val"])]
    alone = int((part.groupby(["pid", "aspect"]).size() == 1).sum())
    people = part.groupby(["pid", "aspect"]).size().eq(1).groupby("pid").any().sum()
    verdict = "no positive pair, and no val image if published" if alone else "nothing to do"
    yield name, "train people (each aspect apart)", alone, int(people), alone, verdict
