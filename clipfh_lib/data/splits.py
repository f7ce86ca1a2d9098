"""Images table -> split manifest: who trains, and the query and gallery of every trial.

The protocol is that of MBA-Net's scripts for 11k Hands and HD, whose random choices were neither
seeded nor kept; here every choice takes the lowest SHA-256 of a text, so that no library's
generator can move it and nobody's choice depends on other people being there.
"""

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from clipfh_lib import files, runs
from clipfh_lib.data import captioned, catalogues, images, imports, inshop, layouts
from clipfh_lib.data.layouts import OTHERS, STEPS
from clipfh_lib.files import InputError
from clipfh_lib.schema import Common, DataParams

COLUMNS = [
    "image_id", "pid", "aspect", "test_aspect", "role", "trial", "gallery", "distractor"
]  # fmt: skip
CAPTIONS = ["image_id", "caption"]
ROLES = ["train", "val", "query", "gallery"]
CUTS = {  # integer ids up to this one train; the thresholds of MBA-Net's scripts
    "dorsal_r": 1050,
    "dorsal_l": 1037,
    "palmar_r": 1051,
    "palmar_l": 1042,
    "all": 447,  # HD
}
TESTED = ["query", "gallery", "test"]  # what a data set itself may call an image that tests
VAL_SHARE, VAL_PEOPLE = 0.2, 5  # of the train people, and how many at least
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A data set's images and split, as they stand in a folder of 01_prepare_data.

    Attributes:
        folder: holds images.csv, split.csv, set_aside.csv, captions.csv and prepared.json.
        root: folder that the paths of the images start from.
        images: all readable images, with `width` and `height` in pixels as displayed.
        split: the manifest; see make.
        set_aside: path, row and reason.
        notes: what was counted on the way, one line each.
        sha256: of split.csv.
        limited: whether data.limit took a part only.
        captions: `image_id, caption`, as the data set brings them; no rows where it has no words.
    """

    folder: Path
    root: Path
    images: pd.DataFrame
    split: pd.DataFrame
    set_aside: pd.DataFrame
    notes: list[str]
    sha256: str
    limited: bool
    captions: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=CAPTIONS, dtype="str")
    )

    @cached_property
    def train(self) -> pd.DataFrame:
        """Images that train, in the order of image_id."""
        return self._of("train")

    @cached_property
    def val(self) -> pd.DataFrame:
        """Images for validation: of other people (held_out) or of the same (published)."""
        return self._of("val")

    @cached_property
    def test(self) -> pd.DataFrame:
        """Images that are query or gallery in any trial, each once."""
        return self._of("query", "gallery")

    @cached_property
    def searched(self) -> pd.DataFrame:
        """Images that texts search: those of `test` whose own aspect is tested, each once.

        The galleries of all_aspects also hold images of aspects that data.aspects leaves out, and
        who is shown there may train; no text is to find those.
        """
        aspect, tested = self.split["aspect"], self.split["test_aspect"]
        return self._of("query", "gallery", where=aspect.eq(tested) | tested.eq("all"))

    def _of(self, *roles: str, where: pd.Series | bool = True) -> pd.DataFrame:
        ids = self.split.loc[self.split["role"].isin(roles) & where, "image_id"]
        return self.images[self.images["image_id"].isin(ids)].reset_index(drop=True)


def prepare(p: Common, outputs: str | Path) -> Prepared:
    """Images and split of a run's data set; made when they are not there, and read back.

    They are made again when data parameters, files, tables or the code that reads them changed, and
    when one of the stored tables is not as it was written.

    Args:
        p: parameters of any notebook; dataset, data, overrides and loader count.
        outputs: parameter of the notebook.

    Raises:
        InputError: the data is not there or the protocol cannot be kept.
    """
    folder = runs.folder("01_prepare_data", p, outputs)
    root = catalogues.ensure(p.data, p.loader.workers)
    readers = (catalogues, captioned, imports, inshop, layouts)
    code = [files.sha256(Path(module.__file__)) for module in readers]
    code.append(files.sha256(Path(__file__)))
    data = p.data.model_dump(exclude={"root", "resize", "photographs"})
    key = files.digest({"data": data, "content": catalogues.digest(p.data), "code": code})
    with files.lock(folder / "split.csv"):
        content = _content(folder, key) or _write(folder, key, p)
    return Prepared(
        folder=folder,
        root=root,
        images=files.read_csv(
            folder / "images.csv", dict.fromkeys(layouts.TEXT, "str") | {"file_number": "Int64"}
        ),
        split=read(folder / "split.csv"),
        set_aside=files.read_csv(
            folder / "set_aside.csv", {"path": "str", "row": "Int64", "reason": "str"}
        ),
        notes=content["notes"],
        sha256=content["sha256"]["split.csv"],
        limited=p.data.limit is not None,
        captions=files.read_csv(folder / "captions.csv", dict.fromkeys(CAPTIONS, "str")),
    )


def _content(folder: Path, key: str) -> dict | None:
    """What prepared.json says; none if it was made of other things, or a file is not as written."""
    try:
        content = files.read_sealed(folder / "prepared.json")
        for name, sha in content["sha256"].items():
            if files.sha256(folder / name) != sha:
                raise ValueError(f"{name} is not what was written")
        return content if content["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and made again (%s)", folder, error)
        return None


def _write(folder: Path, key: str, p: Common) -> dict:
    catalogue = catalogues.read(p.data)
    table, notes = catalogue.images, catalogue.notes
    seen = images.survey(catalogue.root, table["path"].tolist(), p.loader.workers).table
    broken = seen["reason"].ne("").to_numpy()
    aside = seen.loc[broken, ["path", "reason"]].assign(row=pd.NA)
    aside = pd.concat([catalogue.set_aside, aside.astype({"row": "Int64"})], ignore_index=True)
    if broken.any():
        notes = [*notes, f"{broken.sum()} images cannot be read; set_aside.csv has the reasons"]
    place = [column for column in layouts.COLUMNS if column in table]
    traits = [column for column in table if column not in place]
    table = table.assign(width=seen["width"].to_numpy(), height=seen["height"].to_numpy())
    table = table.loc[~broken, [*place, "width", "height", *traits]].reset_index(drop=True)
    if catalogue.split is None:
        split = make(table, p.data)
    else:
        split, flaws = given(catalogue.split, table, p.data)
        notes = [*notes, *flaws]
    said = catalogue.captions if catalogue.captions is not None else pd.DataFrame(columns=CAPTIONS)
    said = said[said["image_id"].isin(table["image_id"])].reset_index(drop=True)
    tables = {"images.csv": table, "split.csv": split, "set_aside.csv": aside, "captions.csv": said}
    hashes = {
        name: files.sha256(files.write_csv(folder / name, each)) for name, each in tables.items()
    }
    content = {"key": key, "notes": notes, "sha256": hashes}
    files.write_sealed(folder / "prepared.json", content)
    return content


def read(path: Path) -> pd.DataFrame:
    """A split manifest from its CSV file, equal to what `make` returned."""
    text = dict.fromkeys(["image_id", "aspect", "role", "test_aspect", "gallery"], "str")
    kinds = {**text, "trial": "Int64"}
    return files.read_csv(path, kinds, may_be_empty=["test_aspect", "gallery"])


def sha256(split: pd.DataFrame) -> str:
    """Hex SHA-256 of the bytes that a manifest has as CSV file."""
    with tempfile.TemporaryDirectory() as folder:
        return files.sha256(files.write_csv(Path(folder) / "split.csv", split))


# --- the protocol --------------------------------------------------------------------------------


def check_table(table: pd.DataFrame) -> None:
    """Stop if an images table cannot be split.

    Raises:
        InputError: a column that is missing, an image_id or path that stands twice, a pid or an
            aspect that cannot be; names the first image.
    """
    absent = {"image_id", "path", "pid", "aspect"} - set(table.columns)
    if absent:
        raise InputError(f"images table: columns {', '.join(sorted(absent))} are missing")
    if table.empty:
        raise InputError("images table: no image is left")
    for column in ("image_id", "path"):
        if table[column].duplicated().any():
            first = table.loc[table[column].duplicated(), column].iloc[0]
            raise InputError(f"images table: {column} {first!r} stands twice")
    for column in {"pid", "accessories"} & set(table.columns):
        if not pd.api.types.is_integer_dtype(table[column]) or (table[column] < 0).any():
            raise InputError(f"images table: {column} must be whole numbers from 0 up")
    unknown = set(table["aspect"]) - set(CUTS)
    if unknown or (len(set(table["aspect"])) > 1 and "all" in set(table["aspect"])):
        raise InputError(
            f"images table: aspects {sorted(set(table['aspect']))}; known: {[*OTHERS]}"
        )
    if "all" not in set(table["aspect"]) and table["pid"].max() >= STEPS[0]:
        raise InputError(f"images table: pid {table['pid'].max()} meets those of other aspects")
    if "distractor" in table:
        both = set(table.loc[table["distractor"], "pid"]) & set(
            table.loc[~table["distractor"], "pid"]
        )
        if both:
            raise InputError(f"images table: pid {min(both)} is a distractor and is not")


def make(table: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """Split an images table into train, val, and the trials' queries and galleries.

    Only images without accessories take part. People with one image are, in test, in the gallery
    without a query, and in train without a val image (data.val: published).

    Args:
        table: image_id, path, pid, aspect, and accessories and distractor where the set has them.
        data: cut, val, gallery, aspects, trials and split_seed count.

    Returns:
        COLUMNS; one row for each image, role, test_aspect, trial and gallery. `pid` in galleries of
        all_aspects has a step added for people of other aspects. Query rows belong to every gallery
        of their test_aspect and trial, and leave `gallery` empty (NaN); train and val rows leave
        test_aspect, trial and gallery empty.

    Raises:
        InputError: the table or the parameters do not allow it; see check_table and sides.
    """
    check_table(table)
    table = participants(table)
    crowd = table.get("distractor", pd.Series(False, table.index))
    people, crowd = table[~crowd], table[crowd]
    halves = sides(table, data)
    aspects = tested(halves, data)
    if data.catalogue == "captions":
        return _in_order(_found_by_words(people, halves, data))
    trials = {
        aspect: _trials(_of_people(people, aspect, test), aspect, data)
        for aspect, (_, test) in halves.items()
    }
    parts = [_train_and_val(people, halves, aspects, data)]
    for aspect in aspects:
        own = trials[aspect]
        query, gallery = own[own["role"] == "query"], own[own["role"] == "gallery"]
        if not query["pid"].isin(gallery["pid"]).any() and data.cut != "all_train":
            raise InputError(
                f"no test person has two images of {aspect} under data.cut {data.cut}: "
                "take more people or images, or another data.cut"
            )
        parts.append(query.assign(test_aspect=aspect, gallery=None))
        name = "default" if aspect == "all" else "same_aspect"
        parts.append(gallery.assign(test_aspect=aspect, gallery=name))
        if aspect == "all":
            for trial in range(data.trials if len(own) else 0):
                each = crowd.assign(role="gallery", trial=trial, distractor=True)
                parts.append(each.assign(test_aspect=aspect, gallery=name))
            continue
        parts.append(gallery.assign(test_aspect=aspect, gallery="all_aspects"))
        for other, step in zip(OTHERS[aspect], STEPS, strict=True):
            if other in trials and len(own):
                each = trials[other][trials[other]["role"] == "gallery"]
                each = each.assign(pid=each["pid"] + step, distractor=True)
                parts.append(each.assign(test_aspect=aspect, gallery="all_aspects"))
    return _in_order(pd.concat(parts, ignore_index=True))


def _found_by_words(
    people: pd.DataFrame, halves: dict[str, tuple], data: DataParams
) -> pd.DataFrame:
    """Rows of images that texts search for: those that test are one gallery, without a query."""
    train = _train_and_val(people, halves, ["all"], data)
    found = {"role": "gallery", "trial": 0, "gallery": "default", "distractor": False}
    test = _of_people(people, "all", halves["all"][1]).assign(test_aspect="all", **found)
    return pd.concat([train, test], ignore_index=True)


def given(
    split: pd.DataFrame, table: pd.DataFrame, data: DataParams
) -> tuple[pd.DataFrame, list[str]]:
    """The split that a catalogue brings, and notes: nothing is drawn, flaws of it are counted.

    Rows of images that cannot be read are dropped. People without a query in any trial are
    distractors.

    Args:
        split: COLUMNS but for `distractor`.
        table: the images that can be read; see make.
        data: `val` says how the split chose its val images; the others are not looked at.

    Returns:
        The manifest as make returns it, and one line for each flaw.

    Raises:
        InputError: the table cannot be split (see check_table), or no query is left.
    """
    check_table(table)
    split, whole = split[split["image_id"].isin(table["image_id"])], split
    notes = []
    if lost := len(whole) - len(split):
        notes.append(f"{lost} of {len(whole)} rows of the split dropped: images cannot be read")
    query = split[split["role"] == "query"]
    if query.empty:
        raise InputError("no query of the split is left; set_aside.csv or the notes say why")
    test = split["role"].isin(["query", "gallery"])
    split = split.assign(distractor=test & ~split["pid"].isin(query["pid"]))
    right = split.loc[split["role"] == "gallery", ["trial", "gallery", "pid"]].drop_duplicates()
    for gallery, people in right.groupby("gallery"):
        alone = len(query) - len(query.merge(people, on=["trial", "pid"]))
        if alone:
            notes.append(f"{alone} of {len(query)} queries have no right image in {gallery}")
    train, val = (split[split["role"] == role] for role in ("train", "val"))
    leaked = set(split.loc[test, "pid"]) & {*train["pid"], *val["pid"]}
    if leaked:  # other aspects' people have a step added: a trained one among these is published
        notes.append(
            f"{len(leaked)} people train and are in query or gallery of the same aspect: results "
            f"of trained weights are too good; first: {min(leaked)}"
        )
    if both := len(set(train["image_id"]) & set(val["image_id"])):
        notes.append(f"{both} images are in train and in val")
    shared = set(val["pid"]) & set(train["pid"])
    if len(val) and len(train) and bool(shared) != (data.val == "published"):
        fits = "published" if shared else "held_out"
        notes.append(f"{len(shared)} people of val train too: data.val {fits} fits this split")
    return _in_order(split), notes


def _in_order(split: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest with its columns, order and types."""
    split = split[COLUMNS]
    order = split.assign(
        role=split["role"].map(ROLES.index),
        test_aspect=split["test_aspect"].fillna("").map(["", *CUTS].index),
        trial=split["trial"].fillna(-1),
    ).sort_values(["role", "test_aspect", "trial", "gallery", "pid", "image_id"])
    split = split.loc[order.index].reset_index(drop=True)
    for column in ("image_id", "aspect", "test_aspect", "role", "gallery"):
        split[column] = split[column].astype("str").where(split[column].notna())
    return split.astype({"pid": "int64", "trial": "Int64", "distractor": "bool"})


def participants(table: pd.DataFrame) -> pd.DataFrame:
    """The images that take part: those without accessories, where the data set says."""
    return table[table["accessories"] == 0] if "accessories" in table else table


def sides(table: pd.DataFrame, data: DataParams) -> dict[str, tuple[list[int], list[int]]]:
    """Train and test people of each aspect, in the order of their ids; distractors are in neither.

    `published` puts a person where the whole data set's split does, also in a partial copy, by the
    data set's own word (`partition`) or by the ids of 11k Hands and HD; `first_half` halves the
    people at hand.

    Raises:
        InputError: data.cut published for one's own photographs, which have no published split.
    """
    if data.cut == "published" and data.catalogue == "folders":
        raise InputError(
            "data.cut published: folders have no published split; choose first_half, none or "
            "all_train"
        )
    table = participants(table)
    if "distractor" in table:
        table = table[~table["distractor"]]
    found = {}
    for aspect in CUTS:
        own = table[table["aspect"] == aspect]
        pids = sorted(int(pid) for pid in own["pid"].unique())
        if pids and data.cut == "published" and "partition" in table:
            test = set(own.loc[own["partition"].isin(TESTED), "pid"])
            found[aspect] = [pid for pid in pids if pid not in test], sorted(map(int, test))
        elif pids:
            train = {
                "published": sum(pid <= CUTS[aspect] for pid in pids),
                "first_half": (len(pids) + 1) // 2,
                "none": 0,
                "all_train": len(pids),
            }[data.cut]
            found[aspect] = pids[:train], pids[train:]
    return found


def tested(halves: dict[str, tuple], data: DataParams) -> list[str]:
    """The aspects that are trained and tested: data.aspects, or all that there are.

    Raises:
        InputError: one of data.aspects has no image without accessories.
    """
    if "all" in halves:
        return ["all"]
    for aspect in data.aspects:
        if aspect not in halves:
            raise InputError(f"data.aspects: no image of {aspect} that takes part")
    return [aspect for aspect in halves if aspect in (data.aspects or halves)]


def _of_people(table: pd.DataFrame, aspect: str, pids: Sequence[int]) -> pd.DataFrame:
    return table[(table["aspect"] == aspect) & table["pid"].isin(pids)]


def _train_and_val(
    people: pd.DataFrame, halves: dict[str, tuple], aspects: list[str], data: DataParams
) -> pd.DataFrame:
    """Rows of the train people; one who is test in a tested aspect trains in none of them."""
    test = {pid for aspect in aspects for pid in halves[aspect][1]}
    rows = pd.concat(
        _of_people(people, aspect, [pid for pid in halves[aspect][0] if pid not in test])
        for aspect in aspects
    )
    if "partition" in rows and (rows["partition"] == "val").any():
        val = rows["partition"] == "val"
    elif data.val == "held_out":
        names = rows.get("pid_name", pd.Series("", rows.index))
        names = names.mask(names == "", rows["pid"].astype(str)).groupby(rows["pid"]).first()
        order = _hash(f"{data.split_seed}/val/" + names).sort_values().index
        count = min(max(VAL_PEOPLE, round(VAL_SHARE * len(order))), len(order) // 2)
        val = rows["pid"].isin(order[:count])
    else:
        class_ = [rows["pid"], rows["aspect"]]
        hashes = _hash(f"{data.split_seed}/" + rows["aspect"] + "/val/" + rows["image_id"])
        lowest = hashes == hashes.groupby(class_).transform("min")
        val = lowest & (rows["image_id"].groupby(class_).transform("size") > 1)
    role = val.map({True: "val", False: "train"})
    return rows.assign(role=role, test_aspect=None, trial=pd.NA, gallery=None, distractor=False)


def _trials(table: pd.DataFrame, aspect: str, data: DataParams) -> pd.DataFrame:
    """Query and gallery rows of one aspect's test people.

    In every trial each person's image of the lowest hash is drawn: to be the gallery image
    (data.gallery: one) or the query (rest). With one trial a data set's own query and gallery,
    where it has them, stay what they are.
    """
    parts = []
    own = table.get("partition", pd.Series(dtype=str))
    if data.trials == 1 and data.cut == "published" and {"query", "gallery"} & set(own):
        searched = table.loc[own == "query", "pid"]
        return table.assign(role=own, trial=0, distractor=~table["pid"].isin(searched))
    alone = table.groupby("pid")["image_id"].transform("size") == 1
    for trial in range(data.trials):
        hashes = _hash(f"{data.split_seed}/{aspect}/{trial}/" + table["image_id"])
        drawn = hashes == hashes.groupby(table["pid"]).transform("min")
        in_gallery = alone | (drawn if data.gallery == "one" else ~drawn)
        role = in_gallery.map({True: "gallery", False: "query"})
        parts.append(table.assign(role=role, trial=trial, distractor=alone))
    return pd.concat(parts)


def _hash(texts: pd.Series) -> pd.Series:
    """SHA-256 of each text in hex; the lowest is drawn."""
    return texts.map(lambda text: hashlib.sha256(text.encode()).hexdigest())
