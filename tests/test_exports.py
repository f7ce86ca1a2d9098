import errno
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import catalogues, demo_hands, exports, splits, traps
from clipfh_lib.evaluation import retrieval
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams, ExportParams

ASPECTS = ["dorsal_r", "dorsal_l", "palmar_r", "palmar_l"]


def prepared(dataset, outputs, **data):
    overrides = {f"data.{key}": value for key, value in data.items()}
    return splits.prepare(params.load("prepare_data", dataset, overrides=overrides), outputs)


def write(data, folder, how="link"):
    return exports.write(data, ExportParams(folder=str(folder), how=how))


def embeddings(data, names):
    """Random embeddings of unit length, the same for the same name of an image."""
    rows = [np.random.default_rng([7, *name.encode()]).standard_normal(16) for name in names]
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def ranks(data, split, names):
    return retrieval.evaluate(embeddings(data, names), data.images, split, "x", resamples=10).ranks


@pytest.fixture(scope="module")
def native(drawn, tmp_path_factory):
    """The drawn 11k Hands, all aspects, three trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        out = tmp_path_factory.mktemp("native")
        return prepared("demo", out, root=str(drawn), trials=3, val="published")


@pytest.fixture
def exported(native, tmp_path):
    write(native, tmp_path / "out")
    return tmp_path / "out"


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["link", "copy"])
def test_an_exported_split_comes_back_as_it_was_and_ranks_the_same(native, tmp_path, how):
    table = write(native, tmp_path / "out", how)
    assert table["test_aspect"].unique().tolist() == ASPECTS
    for aspect in ASPECTS:
        root = str(tmp_path / "out" / aspect)
        back = prepared("split_folders", tmp_path, root=root, aspects=[aspect])
        split, alike = native.split, native.split["aspect"] == aspect
        split = split[split["test_aspect"].eq(aspect) | (split["test_aspect"].isna() & alike)]
        pd.testing.assert_frame_equal(back.split, split.reset_index(drop=True))
        columns = ["image_id", "pid", "aspect", "file_number", "width", "height"]
        images = native.images[native.images["image_id"].isin(split["image_id"])]
        pd.testing.assert_frame_equal(
            back.images[columns], images[columns].reset_index(drop=True), check_dtype=False
        )
        ours, theirs = (ranks(d, split, d.images["image_id"]) for d in (native, back))
        assert set(ours["gallery"]) == {"same_aspect", "all_aspects"} and ours["rank"].nunique() > 3
        pd.testing.assert_frame_equal(ours, theirs)
        theirs = ranks(back, back.split, back.images["image_id"])
        pd.testing.assert_frame_equal(ours, theirs)
        assert back.notes == []
        for path in back.images["path"]:
            source = native.root / "Hands" / Path(path).name
            there = Path(root) / path
            assert there.read_bytes() == source.read_bytes()
            assert there.samefile(source) == (how == "link")


def test_an_exported_hd_split_comes_back_and_ranks_the_same(tmp_path):
    demo_hands.write_hd(tmp_path / "hd", 8, 3, [3, 1, 2, 4, 3, 2, 1, 5, 2, 1, 3], 32, seed=1)
    here = prepared("hd", tmp_path, root=str(tmp_path / "hd"), trials=2, val="published")
    table = write(here, tmp_path / "out").set_index("folder")
    assert not any(name.endswith("_all") and name != "train_all" for name in table.index)
    crowd = sorted(path.name for path in (tmp_path / "out/all/gallery1").iterdir())
    assert {"1502", "1503", "1504"} <= set(crowd) and len(crowd) == table["people"]["gallery1"] == 7
    back = prepared("split_folders", tmp_path, root=str(tmp_path / "out" / "all"))
    stem = here.split["image_id"].str.rpartition("/")[2].astype("str")  # without 1-501/, 502-712/
    order = ["role", "trial", "pid", "image_id"]
    ours, theirs = (
        each.sort_values(order, ignore_index=True)
        for each in (here.split.assign(image_id=stem), back.split)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    assert ours["distractor"].sum() == 2 * 7  # six images of three people, and who has only one
    first, second = (ranks(d, d.split, d.images["path"].map(lambda p: Path(p).stem)) for d in
                     (here, back))  # fmt: skip
    first["query"] = first["query"].str.split("/").str[1]
    keys = ["trial", "query", "pid", "rank", "ranks"]
    first, second = (each[keys].sort_values(keys, ignore_index=True) for each in (first, second))
    assert len(first) > 8 and first["rank"].nunique() > 2
    pd.testing.assert_frame_equal(first, second, check_dtype=False)


def test_the_folders_are_named_as_the_older_scripts_name_them(native, exported):
    folder = exported / "palmar_l"
    names = {"train_all", "train", "val"}
    names |= {f"{name}{i}" for name in ("query", "gallery") for i in range(3)}
    assert {path.name for path in folder.iterdir()} == names | {f"gallery{i}_all" for i in range(3)}
    own = {f"{pid:07d}" for pid in native.split.query("aspect == 'palmar_l'")["pid"] if pid < 1e7}
    people = {path.name for path in (folder / "train_all").iterdir()}
    people |= {path.name for path in (folder / "gallery0").iterdir()}
    assert people == own
    wide = {path.name for path in (folder / "gallery2_all").iterdir()}
    steps = {name[0] for name in wide if len(name) == 8}
    assert steps == {"1", "2", "3"} and {name for name in wide if len(name) == 7} < own
    both = {path.name: path for part in ("train", "val") for path in folder.glob(f"{part}/*/*")}
    assert both.keys() == {path.name for path in folder.glob("train_all/*/*")}
    about = json.loads((exported / "export.json").read_text())
    assert about["split_sha256"] == native.sha256 and about["how"] == "link"


def test_the_table_counts_what_lies_in_the_folders(native, tmp_path):
    table = write(native, tmp_path / "out")
    assert len(table) == 4 * (3 + 3 * 3) and table["images"].min() > 0
    for _, row in table.iterrows():
        folder = tmp_path / "out" / row["test_aspect"] / row["folder"]
        assert len(list(folder.iterdir())) == row["people"]
        assert len(list(folder.glob("*/*.jpg"))) == row["images"]
    order = table.loc[table["test_aspect"] == "dorsal_r", "folder"].tolist()
    assert order[:6] == ["train_all", "train", "val", "query0", "gallery0", "gallery0_all"]


def test_an_imported_split_can_be_exported_again(native, exported, tmp_path):
    root = str(exported / "dorsal_l")
    back = prepared("split_folders", tmp_path, root=root, aspects=["dorsal_l"])
    write(back, tmp_path / "again", "copy")
    first, second = (
        {path.relative_to(top).as_posix(): path.stat().st_size for path in top.rglob("*.jpg")}
        for top in (exported / "dorsal_l", tmp_path / "again" / "dorsal_l")
    )
    assert first == second and len(first) > 50


def test_without_a_folder_nothing_is_written_and_a_line_says_how(native, project):
    before = sorted(project.rglob("*"))
    table = exports.write(native, None)
    assert "export.folder" in table["folder"][0] and len(table["folder"][0]) <= 50  # pandas cuts
    assert table.columns.tolist() == exports.COLUMNS and sorted(project.rglob("*")) == before


# --- what is in the way ---------------------------------------------------------------------------


def state(folder):
    """Names, inodes and times of everything below."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_same_export_is_left_as_it_is(native, exported, project):
    before = state(exported)
    table = write(native, exported)
    assert state(exported) == before and table["images"].sum() == len(list(exported.rglob("*.jpg")))


def someone_elses(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.doc").touch()


CHANGES = {
    "files of somebody": (someone_elses, "link", "holds something else"),
    "a file": (lambda f: (shutil.rmtree(f), f.touch()), "link", "holds something else"),
    "another way": (lambda f: None, "copy", "by export.how copy"),
    "no note": (lambda f: (f / "export.json").unlink(), "link", "holds something else"),
    "a broken note": (lambda f: (f / "export.json").write_text("[1]"), "link", "something else"),
    "another split": (
        lambda f: (f / "export.json").write_text('{"split_sha256": "0", "how": "link"}'),
        "link",
        "something else than this split",
    ),
    "one file less": (lambda f: next(f.rglob("*.jpg")).unlink(), "link", "changed since"),
    "one file more": (lambda f: (f / "dorsal_r/train/0.jpg").touch(), "link", "changed since"),
}


@pytest.mark.parametrize("change, how, says", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_holds_anything_else_is_refused(native, exported, change, how, says):
    change(exported)
    before = state(exported.parent)
    with pytest.raises(InputError, match=says) as why:
        write(native, exported, how)
    assert state(exported.parent) == before and "\n" not in str(why.value)


def test_an_empty_folder_is_filled_and_a_relative_one_starts_at_the_project(native, project):
    (project / "exports" / "demo").mkdir(parents=True)
    exports.write(native, ExportParams(folder="exports/demo"))
    assert (project / "exports/demo/dorsal_r/gallery2_all").is_dir()
    assert [path.name for path in (project / "exports").iterdir()] == ["demo"]


def test_nothing_is_written_among_the_photographs(native, tmp_path):
    (tmp_path / "link").symlink_to(native.root)
    for folder in (native.root / "Hands" / "x", native.root, tmp_path / "link" / "x"):
        with pytest.raises(InputError, match="which is only read"):
            write(native, folder)
    assert {path.name for path in native.root.iterdir()} == {
        "Hands", "HandInfo.csv", "HandTraits.csv"
    }  # fmt: skip


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOSPC])
def test_a_failure_midway_leaves_nothing_and_says_when_to_copy(native, tmp_path, monkeypatch, code):
    real, calls = os.link, itertools.count()

    def link(source, target):
        if next(calls) == 20:
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match=os.strerror(code)) as why:
        write(native, tmp_path / "deep" / "out")
    assert next(calls) == 21 and not any((tmp_path / "deep").iterdir())
    assert ("export.how: copy" in str(why.value)) == (code != errno.ENOSPC)
    monkeypatch.undo()
    write(native, tmp_path / "deep" / "out")


def small(tmp_path, **files):
    """A prepared split of two people, whose images have these paths."""
    root = tmp_path / "small"
    for path in files.values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    images = pd.DataFrame({"image_id": [*files], "path": [*files.values()], "pid": 1})
    images["aspect"] = "all"
    split = splits.make(images, DataParams(catalogue="folders", cut="none", trials=1))
    return splits.Prepared(tmp_path, root, images, split, images[:0], [], "0" * 64, False)


def test_two_photographs_of_one_name_do_not_become_one(tmp_path):
    data = small(tmp_path, a="x/1.jpg", b="y/1.JPG", c="x/2.jpg", d="y/2.JPG")
    with pytest.raises(InputError, match=r"x/(\d).jpg and y/\1.JPG would be one file"):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_photograph_that_is_gone_or_leads_out_stops_the_export(tmp_path):
    data = small(tmp_path, a="x/1.jpg", b="x/2.jpg")
    (data.root / "x/2.jpg").unlink()
    with pytest.raises(InputError, match="2.jpg is gone; prepare the data again"):
        write(data, tmp_path / "out")
    (tmp_path / "secret.jpg").touch()
    (data.root / "x/2.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match="2.jpg leads out of"):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_within_the_photographs_is_exported_as_the_photograph(tmp_path):
    data = small(tmp_path, a="x/1.jpg", b="x/2.jpg")
    (data.root / "x/2.jpg").unlink()
    (data.root / "x/2.jpg").symlink_to("1.jpg")
    write(data, tmp_path / "out")
    found = sorted((tmp_path / "out").rglob("*.jpg"))
    assert len(found) == 2 and not any(path.is_symlink() for path in found)


# --- somebody's folders ---------------------------------------------------------------------------


def put(root, *names):
    """Small pictures, all different; equal for equal file names of a person."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng([*"/".join(Path(name).parts[-2:]).encode()])
        pixels = noise.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "png", compress_level=0)  # all of one size


@pytest.fixture
def old(tmp_path):
    """Two train people with val, three test people in two trials, one of them without a query."""
    root = tmp_path / "old"
    for pid in ("0000003", "0000007"):
        names = [f"{pid}/{pid}_{k}.png" for k in range(3)]
        put(root, *(f"train/{name}" for name in names[:2]), f"val/{names[2]}")
        put(root, *(f"train_all/{name}" for name in names))
    for trial, pid in itertools.product(range(2), ("0000011", "0000012")):
        names = [f"{pid}/{pid}_{k}.png" for k in range(3)]
        put(root, f"gallery{trial}/{names.pop(trial)}", *(f"query{trial}/{n}" for n in names))
    put(root, "gallery0/0000020/20_0.png", "gallery1/0000020/20_0.png")
    return root


def read(root, **data):
    return catalogues.read(DataParams(catalogue="split_folders", root=str(root), **data))


def rows(split, role):
    found = split[split["role"] == role]
    return sorted(zip(found["trial"].fillna(-1), found["image_id"], strict=True))


def test_folders_say_who_trains_and_who_is_searched_for(old, tmp_path):
    data = prepared("split_folders", tmp_path, root=str(old))
    split = data.split
    assert rows(split, "train") == [
        (-1, f"{pid}_{k}") for pid in ("0000003", "0000007") for k in (0, 1)
    ]
    assert rows(split, "val") == [(-1, "0000003_2"), (-1, "0000007_2")]
    assert rows(split, "gallery") == [
        (0, "0000011_0"), (0, "0000012_0"), (0, "20_0"),
        (1, "0000011_1"), (1, "0000012_1"), (1, "20_0"),
    ]  # fmt: skip
    assert rows(split, "query")[4:] == [
        (1, "0000011_0"), (1, "0000011_2"), (1, "0000012_0"), (1, "0000012_2")
    ]  # fmt: skip
    assert set(split.loc[split["distractor"], "image_id"]) == {"20_0"}
    assert set(split["gallery"].dropna()) == {"default"} and set(split["aspect"]) == {"all"}
    paths = data.images.set_index("image_id")["path"]
    assert paths["0000003_0"] == "train/0000003/0000003_0.png"
    assert paths["0000012_1"] == "query0/0000012/0000012_1.png"
    assert "file_number" not in data.images and "begin anew" in data.notes[0]
    assert len(data.notes) == 1 and data.set_aside.empty
    given = prepared("split_folders", tmp_path, root=str(old), aspects=["palmar_r"]).split
    assert set(given["gallery"].dropna()) == {"same_aspect"} and set(given["aspect"]) == {
        "palmar_r"
    }


def test_people_of_other_aspects_have_their_own_pid_in_the_table(old):
    put(old, *(f"gallery{i}_all/{n}/Hand_{n}.png" for i in (0, 1) for n in (
        "0000011", "11000003", "21000011", "31000011"
    )))  # fmt: skip
    found = read(old, aspects=["palmar_l"])
    images = found.images.set_index("image_id")
    split = found.split[found.split["gallery"] == "all_aspects"].set_index("image_id")
    assert (
        len(split) == 8
        and set(split["trial"]) == {0, 1}
        and set(split["test_aspect"]) == {"palmar_l"}
    )
    for name, pid, aspect in [
        ("11000003", 3, "palmar_r"), ("21000011", 11, "dorsal_r"), ("31000011", 11, "dorsal_l"),
        ("0000011", 11, "palmar_l"),
    ]:  # fmt: skip
        assert (images["pid"][f"Hand_{name}"], images["aspect"][f"Hand_{name}"]) == (pid, aspect)
        assert set(split["pid"][f"Hand_{name}"]) == {int(name)}
    with pytest.raises(InputError, match="set data.aspects to the one"):
        read(old)
    put(old, "query0/21000011/x.png")
    with pytest.raises(InputError, match=r"query0/21000011/x.png: people from 11000000 on"):
        read(old, aspects=["palmar_l"])


def test_what_train_val_and_train_all_say_together(old):
    def learnt():
        split = read(old).split
        return [[name for _, name in rows(split, role)] for role in ("train", "val")]

    whole = learnt()
    assert list(map(len, whole)) == [4, 2]
    shutil.move(old / "train", old.parent / "train")
    assert learnt() == whole  # train_all less val
    shutil.move(old / "val", old.parent / "val")
    assert learnt() == [sorted([*whole[0], *whole[1]]), []]
    shutil.rmtree(old / "train_all")
    assert learnt() == [[], []]
    shutil.move(old.parent / "train", old / "train")
    assert learnt() == [whole[0], []]
    put(old, "train_all/0000009/1.png")
    assert read(old).notes[-1].startswith("1 images of train_all are in neither")


def rename(old, new):
    def change(root):
        shutil.move(root / old, root / new)

    return change


STOPS = {
    "no query0": (
        rename("query0", "query5"),
        {},
        "query0 not in .*expected there: query0 ..., gal",
    ),
    "trials of query and gallery": (
        rename("query1", "query5"),
        {},
        r"query1 is missing .* trial 1",
    ),
    "an empty gallery": (
        lambda root: (shutil.rmtree(root / "gallery1"), (root / "gallery1").mkdir()),
        {},
        "gallery1 is missing or holds no",
    ),
    "no trial 0": (
        lambda root: [path.unlink() for path in root.glob("*0/*/*.png")],
        {},
        "query0 is missing or holds no",
    ),
    "gallery_all of some trials": (
        lambda root: put(root, "gallery1_all/11000001/1.png"),
        {"aspects": ["dorsal_r"]},
        "gallery0_all is missing",
    ),
    "a query in its own gallery": (
        lambda root: put(root, "gallery1/0000011/0000011_0.png"),
        {},
        "gallery1/0000011/0000011_0.png is in query1 too; .* remove one",
    ),
    "two images of one name": (
        lambda root: (root / "val/0000003/0000003_2.png").write_bytes(b"other"),
        {},
        "train_all/0000003/0000003_2.png and val/0000003/0000003_2.png have one name",
    ),
    "two folders of one number": (
        lambda root: put(root, "train/3/9.png"),
        {},
        "0000003 and 3 are the same number",
    ),
    "two aspects": (None, {"aspects": ["dorsal_r", "dorsal_l"]}, "data.aspects: .* of one aspect"),
    "a limit": (None, {"limit": {"people": 2}}, "data.limit would tear the split"),
    "an include": (
        None,
        {"include": {"file": "a.csv", "column": "b", "values": ["c"]}},
        "data.include would tear",
    ),
    "no root": (shutil.rmtree, {}, "no folder .*expected there: query0"),
    "nothing to read": (
        lambda root: [path.unlink() for path in root.rglob("*.png")],
        {},
        "no usable image; query0",
    ),
}


@pytest.mark.parametrize("change, data, says", STOPS.values(), ids=STOPS)
def test_folders_that_are_no_split_stop_with_one_line(old, change, data, says):
    if change:
        change(old)
    with pytest.raises(InputError, match=says) as why:
        read(old, **data)
    assert "\n" not in str(why.value)


def test_a_split_has_no_drawing_and_says_so(project):
    draw = {"people": 4}
    with pytest.raises(InputError, match="can be drawn, split_folders cannot"):
        catalogues.ensure(DataParams(catalogue="split_folders", draw=draw))


def test_what_cannot_be_used_is_set_aside_and_its_rows_dropped(old, tmp_path):
    outside = tmp_path / "outside.png"
    outside.touch()
    put(old, "train/0000003/0000003_0.jpg", "train/0000003/loose/1.png", "test/0000003/1.png")
    put(old, "query0/0000003.png", "query0_all/0000011/4.png", "query00/0000011/4.png")
    (old / "train/0000003/x.png").symlink_to(outside)
    os.mkfifo(old / "train/0000003/y.png")
    os.close(os.open(os.fsencode(old) + b"/val/0000003/\xff.png", os.O_CREAT))
    for path in old.rglob("0000011_0.png"):  # query of trial 1, gallery of trial 0
        path.write_bytes(b"<html>no picture</html>")
    data = prepared("split_folders", tmp_path, root=str(old))
    reasons = data.set_aside.set_index("path")["reason"]
    assert "leaves the folder" in reasons["train/0000003/x.png"]
    assert reasons["train/0000003/y.png"] == "not a regular file"
    assert reasons["val/0000003/\\udcff.png"] == "its name is not UTF-8"
    assert "but for its extension" in reasons["train/0000003/0000003_0.png"]
    assert "no image of a kind" in reasons["gallery0/0000011/0000011_0.png"] and len(reasons) == 5
    split = data.split
    assert not {"0000011_0", "x", "y"} & set(split["image_id"])
    assert (len(rows(split, "query")), len(rows(split, "gallery"))) == (8 - 1, 6 - 1)
    notes = "\n".join(data.notes)
    assert "5 image files lie outside the people of the split" in notes
    assert "2 of 20 rows of the split dropped" in notes
    assert "2 of 7 queries have no right image in default" in notes


def test_no_query_left_stops(old, tmp_path):
    for path in old.glob("query*/*/*"):
        path.write_bytes(b"<html>no picture</html>")
    for path in old.glob("gallery*/*/*_[01].png"):
        path.write_bytes(b"<html>no picture</html>")
    with pytest.raises(InputError, match="no query of the split is left"):
        prepared("split_folders", tmp_path, root=str(old))


def test_flaws_of_an_old_split_are_counted_and_it_is_scored_all_the_same(old, tmp_path):
    put(old, *(f"train/0000011/0000011_{k}.png" for k in range(3)), "val/0000003/0000003_0.png")
    data = prepared("split_folders", tmp_path, root=str(old), val="held_out")
    notes = "\n".join(data.notes)
    assert "1 people train and are in query or gallery of the same aspect" in notes
    assert "first: 11" in notes and "1 images are in train and in val" in notes
    assert "2 people of val train too: data.val published fits" in notes
    assert len(ranks(data, data.split, data.images["image_id"])) == 8
    p = params.load("prepare_data", "split_folders", overrides={"data.root": str(old)})
    report = traps.report(data.images, data.split, p.data, data.root)
    assert "INVALID: 1 of them" in report["verdict"][0]


def test_val_of_its_own_people_is_held_out(old, tmp_path):
    shutil.move(old / "val/0000003", old / "val/0000004")
    shutil.rmtree(old / "val/0000007")
    shutil.rmtree(old / "train_all")
    says = "0 people of val train too: data.val held_out fits"
    assert any(says in n for n in prepared("split_folders", tmp_path, root=str(old)).notes)
    fits = prepared("split_folders", tmp_path, root=str(old), val="held_out")
    assert not any("fits" in note for note in fits.notes)


def test_names_that_are_no_numbers_get_one_and_ids_tell_people_apart(tmp_path):
    for part, k in [("query0", 1), ("gallery0", 2)]:
        put(tmp_path / "s", *(f"{part}/{name}/{k}.png" for name in ("=y", "0012", "anna")))
    data = prepared("split_folders", tmp_path, root=str(tmp_path / "s"))
    names = data.images.drop_duplicates("pid").set_index("pid")["pid_name"].to_dict()
    assert names == {12: "", 13: "=y", 14: "anna"}
    assert set(data.images["image_id"]) == {
        f"{n}/{k}" for n in ("=y", "0012", "anna") for k in (1, 2)
    }
    assert set(data.split["pid"]) == {12, 13, 14} and not data.split["distractor"].any()


def test_file_numbers_are_taken_where_they_count_all_photographs(tmp_path):
    put(tmp_path / "s", "query0/1/Hand_0000007.png", "query0/2/Hand_0000031.png")
    put(tmp_path / "s", "gallery0/1/Hand_0000009.png", "gallery0/2/Hand_0000030x.png")
    images = read(tmp_path / "s").images.set_index("image_id")["file_number"]
    assert images.fillna(-1).to_dict() == {
        "Hand_0000007": 7, "Hand_0000009": 9, "Hand_0000030x": -1, "Hand_0000031": 31
    }  # fmt: skip


def test_the_digest_of_a_split_of_folders_follows_its_names_and_sizes(old):
    data = DataParams(catalogue="split_folders", root=str(old))
    before = catalogues.digest(data)
    shutil.move(old / "query1/0000011/0000011_2.png", old / "gallery1/0000011/0000011_2.png")
    assert catalogues.digest(data) != before
