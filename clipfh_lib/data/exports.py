"""A split -> folders of images, laid out as the older scripts write and read them.

`<folder>/<test_aspect>/` holds `train_all`, `train`, `val`, and for each trial `query<i>`,
`gallery<i>` and, of 11k Hands, `gallery<i>_all`; in each there is a folder for each person.
"""

import errno
import json
import os
import shutil
from pathlib import Path, PurePosixPath

import pandas as pd

import clipfh_lib
from clipfh_lib import files
from clipfh_lib.data import splits
from clipfh_lib.files import InputError
from clipfh_lib.schema import ExportParams

COLUMNS = ["test_aspect", "folder", "people", "images"]
ABOUT = "export.json"  # in the folder: which split it is, and how it was written
HINT = 'none; overrides: {"export.folder": "my_split"}'
UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write(data: splits.Prepared, export: ExportParams | None) -> pd.DataFrame:
    """Write the images of a split into folders, which appear all together or not at all.

    A linked file is the photograph itself under a second name: change copies only. An export of the
    same split that is there already is left as it is.

    Args:
        data: from splits.prepare.
        export: where, and whether by links or copies; None: nothing is written.

    Returns:
        COLUMNS, one row for each folder; without export one row that says how to ask for it.

    Raises:
        InputError: the folder holds something else or lies among the photographs, one of these is
            gone, two would have one name, or the disk cannot link; one line with the fix.
    """
    if export is None:
        return pd.DataFrame([["", HINT, 0, 0]], columns=COLUMNS)
    target, table = files.resolve(export.folder).resolve(), _places(data)
    if target.is_relative_to(data.root.resolve()):
        raise InputError(f"export.folder {target} lies in {data.root}, which is only read")
    sources = _sources(data.root, table["path"].unique().tolist())
    with files.lock(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            _fill(target, table, sources, data.sha256, export.how)
        elif _about(target) != (data.sha256, export.how):
            raise InputError(
                f"export.folder {target} holds something else than this split by export.how "
                f"{export.how}; remove it, or name another folder"
            )
        elif _present(target) != _wanted(table, sources):
            raise InputError(
                f"export.folder {target}: photographs or the export were changed since; remove it, "
                "or name another folder"
            )
    found = table.groupby(["test_aspect", "folder"], sort=False)
    return found.agg(people=("pid", "nunique"), images=("path", "size")).reset_index()


def _places(data: splits.Prepared) -> pd.DataFrame:
    """Where each image goes: test_aspect, folder, pid, path, and place below the target."""
    split = data.split
    learnt, wide = split["role"].isin(["train", "val"]), split["gallery"].eq("all_aspects")
    name = split["role"] + split["trial"].astype("str") + wide.map({True: "_all", False: ""})
    split = split.assign(
        test_aspect=split["test_aspect"].mask(learnt, split["aspect"]),
        folder=split["role"].where(learnt, name),
        path=split["image_id"].map(data.images.set_index("image_id")["path"]),
        wide=wide,
    )
    both = split[learnt].drop_duplicates(["test_aspect", "image_id"]).assign(folder="train_all")
    split = pd.concat([both, split], ignore_index=True)
    order = split.assign(
        test_aspect=split["test_aspect"].map([*splits.CUTS].index), trial=split["trial"].fillna(-1)
    )
    split = split.loc[order.sort_values(["test_aspect", "trial", "wide"], kind="stable").index]
    plain = split["test_aspect"] == "all"  # HD's scripts write 7, those of 11k Hands 0000007
    person = split["pid"].astype("str").where(plain, split["pid"].map("{:07d}".format))
    name = split["path"].map(lambda path: PurePosixPath(path).name)
    place = split["test_aspect"] + "/" + split["folder"] + "/" + person + "/" + name
    low = place.str.casefold()  # as a disk may that does not tell the cases apart
    if low.duplicated().any():
        paths = split.loc[low == low[low.duplicated()].iloc[0], "path"]
        raise InputError(f"{' and '.join(paths)} would be one file of an export; rename one")
    return split.assign(place=place)[["test_aspect", "folder", "pid", "path", "place"]]


def _sources(root: Path, paths: list[str]) -> dict[str, Path]:
    """The file of each path; none may be gone or lead out of the root."""
    home, sources = root.resolve(), {}
    for path in paths:
        sources[path] = (root / path).resolve()
        if not sources[path].is_relative_to(home):
            raise InputError(f"{root / path} leads out of {root}; put the file itself there")
        if not sources[path].is_file():
            raise InputError(f"{root / path} is gone; prepare the data again")
    return sources


def _fill(
    target: Path, table: pd.DataFrame, sources: dict[str, Path], sha256: str, how: str
) -> None:
    """Build the folders beside the target, then move them into place."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    put = os.link if how == "link" else shutil.copyfile
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in table["place"].str.rpartition("/")[0].unique():
            (partial / folder).mkdir(parents=True)
        for path, place in zip(table["path"], table["place"], strict=True):
            put(sources[path], partial / place)
        about = {"split_sha256": sha256, "how": how, "version": clipfh_lib.__version__}
        files.write_json(partial / ABOUT, about)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        why = f"export.folder {target}: {error.strerror}"
        if how == "link" and error.errno in UNLINKABLE:
            why += "; links need the disk of the photographs: take export.how: copy"
        raise InputError(why) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _about(target: Path) -> tuple[str, str] | None:
    """Split and way of writing, as an export says them itself; None if it is none."""
    try:
        about = json.loads((target / ABOUT).read_text(encoding="utf-8"))
        return about["split_sha256"], about["how"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wanted(table: pd.DataFrame, sources: dict[str, Path]) -> dict[str, int]:
    """Bytes of each file that an export has, by its place."""
    sizes = table["path"].map({path: source.stat().st_size for path, source in sources.items()})
    return dict(zip(table["place"], sizes, strict=True))


def _present(target: Path) -> dict[str, int]:
    """Bytes of each file below a folder, but for the one that tells of it."""
    found = {
        path.relative_to(target).as_posix(): path.stat().st_size
        for path in target.rglob("*")
        if path.is_file()
    }
    found.pop(ABOUT, None)
    return found
