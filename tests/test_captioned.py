import json
import os
import shutil
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import captioned, catalogues, splits
from clipfh_lib.evaluation import trials
from clipfh_lib.files import InputError
from clipfh_lib.reports import figures, pictures, tables
from clipfh_lib.schema import DataParams

PARTS = ("train", "val", "test")


def picture(path, grey=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (grey % 256, 80, 120)).save(path)


def item(number, **others):
    row = {"id": f"i{number}", "image_path": f"images/{number}.png", "caption": f"thing {number}"}
    return {key: value for key, value in (row | others).items() if value is not ...}


def annotated(root, train=(), val=(), test=(), images=range(1, 13), **others):
    """Layout (a): pictures images/<number>.png and the lists as annotations.json."""
    for number in images:
        picture(root / "images" / f"{number}.png", number)
    rows = {"train": list(train), "val": list(val), "test": list(test)}
    write(root / "annotations.json", {"splits": rows | others})
    return root


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))


def beside(root, texts):
    """Layout (b): names like train/a.png with their text; a dict is written as JSON, None not."""
    for name, text in texts.items():
        picture(root / name)
        stem = name.rpartition(".")[0]
        if isinstance(text, str):
            (root / f"{stem}.txt").write_bytes(text.encode())
        elif isinstance(text, dict):
            write(root / f"{stem}.json", text)
    return root


def data_of(root, **others):
    return DataParams(catalogue="captions", root=str(root), **others)


def read(root, **others):
    return catalogues.read(data_of(root, **others))


def prepare(root, **overrides):
    overrides = {"data.root": str(root), **overrides}
    return splits.prepare(params.load("prepare_data", "captions", overrides=overrides), "outputs")


def said(found, image_id):
    return found.captions.query("image_id == @image_id")["caption"].tolist()


# --- what is read ---------------------------------------------------------------------------------


def test_annotations_become_images_with_part_captions_category_and_traits(tmp_path):
    train = [item(3, caption=["a cup", "red cup"], category="cup", colour="red", aspect="odd")]
    found = read(annotated(tmp_path, train, [item(1)], [item(2, captions=["x", "thing 2"])]))
    assert found.images["image_id"].tolist() == ["i1", "i2", "i3"]
    assert found.images["pid"].tolist() == [0, 1, 2]
    assert found.images["partition"].tolist() == ["val", "test", "train"]
    assert found.images["path"].tolist() == ["images/1.png", "images/2.png", "images/3.png"]
    assert found.images["caption"].tolist() == ["thing 1", "thing 2", "a cup"]
    assert found.images["category"].tolist() == ["", "", "cup"]
    assert found.images["colour"].tolist() == ["", "", "red"]
    assert set(found.images["aspect"]) == {"all"}, "what an item calls so is no column of ours"
    assert [said(found, f"i{n}") for n in (1, 2, 3)] == [
        ["thing 1"], ["thing 2", "x"], ["a cup", "red cup"]
    ]  # fmt: skip
    assert found.set_aside.empty
    assert "9 image files have no item in annotations.json" in found.notes
    assert "5 captions of 3 images: 1 of train, 1 of val, 1 of test" in found.notes


def test_an_item_without_an_id_is_called_by_its_path_and_a_number_is_text(tmp_path):
    test = [item(1, id=...), item(2, id=12), item(3, id="0012"), item(4, id=None)]
    found = read(annotated(tmp_path, test=test))
    assert found.images["image_id"].tolist() == ["0012", "12", "images/1", "images/4"]


def test_texts_beside_images_give_a_caption_a_line_and_json_gives_more(tmp_path):
    root = beside(
        tmp_path,
        {
            "train/a.png": "one\r\n\r\n two  words \r\n",
            "val/b.jpg": {"caption": "from json", "id": "own", "category": "c", "made": "clay"},
            "test/sub/c.PNG": "line",
            "test/d.png": {"captions": ["first", "second"]},
            "elsewhere/e.png": "not read",
        },
    )
    write(root / "test/sub/c.json", {"captions": ["line", "more"]})
    found = read(root)
    assert found.images["image_id"].tolist() == ["own", "test/d", "test/sub/c", "train/a"]
    assert found.images["partition"].tolist() == ["val", "test", "test", "train"]
    assert found.images["category"].tolist() == ["c", "", "", ""]
    assert found.images["made"].tolist() == ["clay", "", "", ""]
    assert said(found, "train/a") == ["one", "two words"]
    assert said(found, "test/d") == ["first", "second"]
    assert said(found, "test/sub/c") == ["line", "more"], "each caption once"
    assert found.set_aside.empty


def test_annotations_of_another_name_are_read_and_go_before_folders(tmp_path):
    root = annotated(tmp_path, test=[item(1)])
    beside(root, {"test/z.png": "beside"})
    assert read(root).images["image_id"].tolist() == ["i1"]
    os.rename(root / "annotations.json", root / "own.json")
    assert read(root, annotations="own.json").images["image_id"].tolist() == ["i1"]
    assert read(root).images["image_id"].tolist() == ["test/z"]


@pytest.mark.parametrize("caption", ["Käsekuchen – ½ 手 🖐", "naïve", "עברית", "a" * 5000])
def test_captions_are_unicode_with_and_without_a_mark_at_the_beginning(tmp_path, caption):
    for encoding in ("utf-8", "utf-8-sig"):
        root = annotated(tmp_path / encoding)
        write(root / "annotations.json", {"splits": {"test": [item(1, caption=caption)]}}, encoding)
        assert said(read(root), "i1") == [caption]
        root = beside(tmp_path / encoding / "b", {"test/x.png": None})
        (root / "test" / "x.txt").write_bytes(f"{caption}\r\n{caption} 2".encode(encoding))
        assert said(read(root), "test/x") == [caption, f"{caption} 2"]


def test_a_name_that_macos_wrote_apart_is_found(tmp_path):
    apart, one = (unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC"))
    picture(tmp_path / "images" / apart)
    root = annotated(tmp_path, test=[item(1, image_path=f"images/{one}")])
    assert read(root).images["path"].tolist() == [f"images/{apart}"]


def test_a_path_with_backslashes_and_detours_is_the_same_image(tmp_path):
    test = [item(1, image_path="images\\1.png"), item(2, image_path="./images//2.png")]
    assert read(annotated(tmp_path, test=test)).images["path"].tolist() == [
        "images/1.png", "images/2.png"
    ]  # fmt: skip


# --- groups ---------------------------------------------------------------------------------------


def test_items_of_a_group_are_one_pid_with_its_name_and_others_stay_alone(tmp_path):
    train = [item(1, group="Anna Ö"), item(2), item(3, group=" Anna  Ö "), item(4, group=" ")]
    test = [item(5, group=7), item(6, group="7"), item(7, group=None)]
    found = read(annotated(tmp_path, train=train, test=test))
    assert found.images["pid"].tolist() == [0, 1, 0, 2, 3, 3, 4]
    assert found.images["pid_name"].tolist() == ["Anna Ö", "", "Anna Ö", "", "7", "7", ""]
    assert "group" not in found.images
    assert "2 groups; 3 images are in none" in found.notes
    assert "pid_name" not in read(annotated(tmp_path / "b", test=[item(1)])).images
    prepared = prepare(tmp_path)
    assert prepared.images["pid_name"].fillna("").tolist() == found.images["pid_name"].tolist()


def test_a_group_stands_in_a_json_beside_the_image_with_and_without_a_text(tmp_path):
    root = beside(tmp_path, {"train/a.png": "one", "train/b.png": {"caption": "b", "group": "g"},
                             "test/c.png": "c"})  # fmt: skip
    write(root / "train/a.json", {"group": "g"})
    found = read(root)
    assert found.images["pid"].tolist() == [0, 1, 1]
    assert said(found, "train/a") == ["one"]


def test_a_group_in_several_parts_is_a_leak_and_stays_in_test_or_else_in_train(tmp_path):
    train = [item(1, group="x"), item(2, group="y"), item(3)]
    val = [item(4, group="y"), item(5, group="x"), item(6, group="z")]
    test = [item(7, group="x"), item(8)]
    found = read(annotated(tmp_path, train, val, test))
    assert found.images["image_id"].tolist() == ["i2", "i3", "i6", "i7", "i8"]
    assert found.images.set_index("image_id")["partition"]["i7"] == "test"
    aside = found.set_aside.set_index("path")
    assert aside["row"].to_dict() == {"images/1.png": 1, "images/4.png": 1, "images/5.png": 2}
    reasons = {1: "train: its group 'x' is that of item 1 of splits.test too",
               5: "val: its group 'x' is that of item 1 of splits.test too",
               4: "val: its group 'y' is that of item 2 of splits.train too"}  # fmt: skip
    for number, start in reasons.items():
        assert aside["reason"][f"images/{number}.png"].startswith(start)
    assert "i1" not in set(found.captions["image_id"])


def test_held_out_validation_draws_whole_groups(tmp_path):
    train = [item(n, group=f"g{n // 4}") for n in range(1, 40)]
    prepared = prepare(annotated(tmp_path, train, test=[item(40)], images=range(1, 41)))
    assert len(prepared.val) >= 12 and not set(prepared.val["pid"]) & set(prepared.train["pid"])
    assert (prepared.val.groupby("pid").size() >= 3).all()


def test_published_validation_is_refused_for_captions_in_a_line(tmp_path):
    root = annotated(tmp_path, test=[item(1)])
    with pytest.raises(InputError, match="data.val published.*choose held_out") as error:
        prepare(root, **{"data.val": "published"})
    assert "\n" not in str(error.value)


# --- what is set aside ----------------------------------------------------------------------------

FLAWS = {
    "missing image": (item(2, image_path="images/99.png"), "no such image file"),
    "no path": (item(2, image_path=...), "image_path is missing"),
    "a path that is a number": (item(2, image_path=7), "image_path is missing or no text"),
    "upwards": (item(2, image_path="../outside.png"), "leaves the folder"),
    "upwards within": (item(2, image_path="images/../../outside.png"), "leaves the folder"),
    "absolute": (item(2, image_path="/etc/passwd"), "leaves the folder"),
    "of a drive": (item(2, image_path="C:\\pictures\\1.png"), "leaves the folder"),
    "of a share": (item(2, image_path="\\\\server\\1.png"), "leaves the folder"),
    "a link": (item(2, image_path="images/link.png"), "a link that leaves the folder"),
    "a linked folder": (item(2, image_path="linked/1.png"), "a link to a folder"),
    "no image": (item(2, image_path="annotations.json"), "not in data.extensions"),
    "no caption": (item(2, caption=...), "caption is missing"),
    "empty": (item(2, caption=""), "caption is empty"),
    "blank": (item(2, caption=[" ", "\t\u200b\ufeff"]), "caption is empty"),
    "no list entry": (item(2, caption=[]), "caption is empty"),
    "a caption that is a number": (item(2, caption=4), "caption is neither a text nor a list"),
    "a caption that is an object": (item(2, caption={"a": "b"}), "caption is neither"),
    "a number among captions": (item(2, captions=["a", 4]), "captions is neither"),
    "half a character": (item(2, caption="a \ud83d b"), "lone surrogate"),
    "an id that is true": (item(2, id=True), "id is neither a text nor a whole number"),
    "an id that is a list": (item(2, id=[1]), "id is neither"),
    "a group that is true": (item(2, group=True), "group is neither a text nor a whole number"),
    "a group that is a list": (item(2, group=["a"]), "group is neither"),
    "an empty id": (item(2, id=" "), "id is empty"),
    "a category that is a list": (item(2, category=["a"]), "category is no text"),
    "no object": ("images/2.png", "it is no object"),
    "one id": (item(2, id="i1"), "its id 'i1' is that of item 1 of splits.test"),
    "one image": (item(2, image_path="images/1.png"), "its image is that of item 1 of splits.test"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_sets_the_item_aside_with_its_number_and_leaves_the_rest(tmp_path, flaw):
    row, reason = FLAWS[flaw]
    root = annotated(tmp_path / "data", train=[item(4)], images=range(1, 6))
    picture(tmp_path / "outside.png")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "outside.png", tmp_path / "other" / "1.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "linked").symlink_to(tmp_path / "other")
    rows = {"splits": {"train": [item(4)], "test": [item(1), row, item(3)]}}
    (root / "annotations.json").write_text(json.dumps(rows))  # with escapes, as half a character
    found = read(root)
    assert found.images["image_id"].tolist() == ["i1", "i3", "i4"]
    assert found.set_aside["row"].tolist() == [2]
    assert reason in found.set_aside["reason"][0]
    prepared = prepare(root)
    assert prepared.set_aside["reason"].tolist() == found.set_aside["reason"].tolist()


def test_an_image_or_id_of_train_is_not_tested_as_well(tmp_path):
    test = [item(2), item(7, image_path="./images/1.png"), item(8, id="i1", caption="other")]
    found = read(annotated(tmp_path, train=[item(1)], test=test))
    assert found.images.set_index("image_id")["partition"].to_dict() == {
        "i1": "train",
        "i2": "test",
    }
    reasons = found.set_aside.set_index("row")["reason"]
    assert "item 1 of splits.train" in reasons[2] and "share an image" in reasons[2]
    assert "item 1 of splits.train" in reasons[3]
    assert said(found, "i1") == ["thing 1"], "the first is kept"


def test_a_part_that_is_no_list_and_one_that_is_unknown_are_named(tmp_path):
    root = annotated(tmp_path, test=[item(1)], dev=[item(2)])
    rows = {"splits": {"train": {"1": item(3)}, "dev": [item(2)], "test": [item(1)]}}
    write(root / "annotations.json", rows)
    found = read(root)
    assert found.set_aside.values.tolist()[0][::2] == [
        "annotations.json: splits.train", "it is no list of items"
    ]  # fmt: skip
    assert any("splits.dev not read" in note for note in found.notes)


def test_files_without_partner_and_odd_texts_are_set_aside_one_by_one(tmp_path):
    root = beside(tmp_path / "data", {"train/good.png": "good", "test/good.png": {"caption": "g"}})
    beside(root, {f"train/{n}.png": None for n in "abcdefghijkl"})
    train, outside = root / "train", tmp_path / "outside.txt"
    outside.write_text("outside")
    (train / "b.txt").write_bytes("été".encode("latin-1"))
    (train / "c.txt").write_bytes(b" \r\n\r\n")
    (train / "d.json").write_text('{"caption": "x",\n "id": }')
    (train / "e.json").write_text('["x"]')
    (train / "f.json").write_text('{"caption": 3}')
    (train / "g.txt").symlink_to(outside)
    (train / "h.txt").write_bytes(b"x" * 1_000_001)
    (train / "i.txt").write_text("a")
    picture(train / "i.jpg")
    (train / "j.txt").mkdir()
    (train / "k.txt").write_text("fine")
    (train / "k.json").write_text("{")
    (train / "l.json").write_text("[" * 100_000)
    (train / "alone.txt").write_text("no image")
    (train / "alone.json").write_text("{}")
    (train / "away.png").symlink_to(root.parent / "away.png")
    (train / "away.txt").write_text("its image is a link")
    (root / "test" / "linked").symlink_to(tmp_path)
    found = read(root)
    assert found.images["image_id"].tolist() == ["test/good", "train/good", "train/i"]
    reasons = found.set_aside.set_index("path")["reason"].to_dict()
    expected = {
        "a.png": "no text beside it", "b.png": "its .txt: not UTF-8 (line 1, byte 1)",
        "c.png": "caption is empty", "d.png": "its .json: no JSON (line 2, column 8",
        "e.png": "holds no object", "f.png": "caption is neither",
        "g.txt": "a link that leaves", "h.png": "larger than 1 MB",
        "i.png": "another image has the same name", "j.txt": "a folder",
        "k.png": "its .json: no JSON", "l.png": "its .json: no JSON",
        "alone.txt": "a text without an image", "alone.json": "a text without an image",
        "away.png": "a link that leaves",
    }  # fmt: skip
    assert sorted(reasons) == sorted(["test/linked", *(f"train/{name}" for name in expected)])
    for name, reason in expected.items():
        assert reason in reasons[f"train/{name}"], name


# --- what stops -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, says",
    [
        (b'{"splits": {"test": [\n{"caption": "\xe9"}]}}', r"not UTF-8 \(line 2, byte 14\)"),
        ('{"splits": {}}'.encode("utf-16"), "not UTF-8"),
        (b'{"splits":\n {"test": [}}', "line 2, column 12"),
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b'{"splits": {"test": [' + b"9" * 5000 + b"]}}", "no JSON that can be read"),
        (b"[]", "no splits of that name"),
        (b'{"splits": []}', "no splits of that name"),
        (b'{"splits": {"Test": []}}', "no splits of that name"),
        (b'{"images": []}', "no splits of that name"),
    ],
)
def test_a_json_that_is_none_stops_with_its_place_in_one_line(tmp_path, content, says):
    root = annotated(tmp_path)
    (root / "annotations.json").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read(root)
    assert "annotations.json" in str(error.value) and "\n" not in str(error.value)


def test_without_an_image_to_test_on_reading_stops(tmp_path):
    with pytest.raises(InputError, match=r"no image of annotations.json: splits.test is left"):
        read(annotated(tmp_path / "a", train=[item(1)]))
    with pytest.raises(InputError, match="no image of test/ is left.*test/b.png: no text"):
        read(beside(tmp_path / "b", {"train/a.png": "a", "test/b.png": None}))
    with pytest.raises(InputError, match="no usable image.*caption is empty"):
        read(annotated(tmp_path / "c", test=[item(1, caption="")]))


def test_annotations_outside_the_folder_are_refused(tmp_path):
    root = annotated(tmp_path / "data", test=[item(1)])
    shutil.copy(root / "annotations.json", tmp_path / "outside.json")
    for name in ("../outside.json", str(tmp_path / "outside.json")):
        with pytest.raises(InputError, match="leaves"):
            read(root, annotations=name)
    with pytest.raises(InputError, match="gone.json not in"):
        read(root, annotations="gone.json")


@pytest.mark.parametrize(
    "made, says", [("", "annotations.json not in"), ("train", "test not in"), ("test", "no usable")]
)
def test_a_folder_that_is_no_such_layout_says_what_is_missing(tmp_path, made, says):
    (tmp_path / "data" / made).mkdir(parents=True)
    with pytest.raises(InputError, match=f"{says}.*splits.train, val and test"):
        read(tmp_path / "data")


# --- as it is prepared ----------------------------------------------------------------------------

ODD = ["=1+1", "'=x", "-3", "+1", "@home", "NA", "0012", "nan", "a,b", 'say "x"', "＝x", "''-", "é"]


def test_captions_that_a_spreadsheet_would_run_come_back_as_they_were(tmp_path):
    rows = [item(n, id=text, caption=[text, f"{text} 2"]) for n, text in enumerate(ODD, start=1)]
    root = annotated(tmp_path, test=rows, images=range(1, len(ODD) + 1))
    prepared = prepare(root)
    assert prepared.captions["image_id"].tolist() == sorted(2 * ODD)
    for text in ODD:
        assert said(prepared, text) == [text, f"{text} 2"]
    assert dict(zip(prepared.images["image_id"], prepared.images["caption"], strict=True)) == {
        text: text for text in ODD
    }
    cells = (prepared.folder / "captions.csv").read_text(encoding="utf-8")
    assert "\n'=1+1,'=1+1\n" in cells and "\n=" not in cells and ",=" not in cells


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(texts, max_size=3), min_size=1, max_size=4))
def test_any_caption_comes_back_in_one_line(tmp_path_factory, captions):
    root = annotated(tmp_path_factory.mktemp("any"), images=range(6))
    rows = [item(n, caption=each) for n, each in enumerate(captions)] + [item(5)]
    write(root / "annotations.json", {"splits": {"test": rows}})
    prepared = prepare(root)
    assert len(prepared.images) + len(prepared.set_aside) == len(captions) + 1
    for image_id, part in prepared.captions.groupby("image_id"):
        given = ["thing 5"] if image_id == "i5" else captions[int(image_id[1:])]
        words = [text.split() for text in given]
        found = [caption.split() for caption in part["caption"]]
        visible = [w for n, w in enumerate(words) if w and w not in words[:n]]
        assert len(found) <= len(visible) and part["caption"].is_unique
        assert all(len(caption.splitlines()) == 1 for caption in part["caption"])


def test_the_split_is_that_of_the_data_set_and_test_is_one_gallery(tmp_path):
    rows = {part: [item(n) for n in range(*ends)] for part, ends in
            {"train": (1, 6), "val": (6, 8), "test": (8, 13)}.items()}  # fmt: skip
    prepared = prepare(annotated(tmp_path, **rows))
    for part, name in (("train", "train"), ("val", "val"), ("test", "test")):
        ids = getattr(prepared, name)["image_id"].tolist()
        assert sorted(ids) == sorted(row["id"] for row in rows[part])
    assert prepared.split["role"].value_counts().to_dict() == {"train": 5, "gallery": 5, "val": 2}
    assert not prepared.split["distractor"].any()
    again = prepare(tmp_path)
    pd.testing.assert_frame_equal(again.captions, prepared.captions)
    assert again.sha256 == prepared.sha256


def test_a_changed_text_makes_the_tables_again(tmp_path):
    root = beside(tmp_path, {"train/a.png": "one", "test/b.png": "two"})
    assert said(prepare(root), "test/b") == ["two"]
    (root / "test" / "b.txt").write_text("three")
    assert said(prepare(root), "test/b") == ["three"]
    other = annotated(tmp_path / "a", test=[item(1)])
    assert said(prepare(other), "i1") == ["thing 1"]
    write(other / "annotations.json", {"splits": {"test": [item(1, caption="else")]}})
    assert said(prepare(other), "i1") == ["else"]


def test_a_limited_run_has_images_of_every_part_and_their_captions_alone(tmp_path):
    rows = {"train": range(1, 61), "val": range(61, 76), "test": range(76, 101)}
    lists = {part: [item(n) for n in numbers] for part, numbers in rows.items()}
    root = annotated(tmp_path, images=range(1, 101), **lists)
    prepared = prepare(root, **{"data.limit.people": 20})
    assert prepared.limited and len(prepared.images) == 20
    assert len(prepared.train) >= 9 and len(prepared.test) and len(prepared.val)
    assert prepared.captions["image_id"].tolist() == prepared.images["image_id"].tolist()


def test_extensions_choose_which_images_are_taken(tmp_path):
    root = beside(tmp_path, {"train/a.png": "a", "test/b.jpg": "b", "test/c.png": "c"})
    found = read(root, extensions=[".JPG"])
    assert found.images["image_id"].tolist() == ["test/b"]
    rows = [item(1, image_path="test/b.jpg"), item(2, image_path="test/c.png")]
    write(root / "annotations.json", {"splits": {"test": rows}})
    found = read(root, extensions=["jpg"])
    assert found.images["image_id"].tolist() == ["i1"]
    assert "not in data.extensions" in found.set_aside["reason"][0]


def test_no_more_than_fifty_fields_become_columns(tmp_path):
    rows = [item(n, **{f"own_{n}_{k}": "x" for k in range(40)}, shared="s") for n in (1, 2, 3)]
    found = read(annotated(tmp_path, test=rows))
    assert "shared" in found.images and len(found.images.columns) == 6 + captioned.FIELDS
    assert any("121 other fields" in note for note in found.notes)


def test_thousands_of_items_are_read_in_seconds(tmp_path):
    count = 20_000
    (tmp_path / "images").mkdir()
    for number in range(count):
        (tmp_path / "images" / f"{number}.png").touch()
    rows = [item(n, caption=[f"caption {n % 700}", f"other {n}"]) for n in range(count)]
    parts = {"train": rows[: count // 2], "test": rows[count // 4 :]}
    write(tmp_path / "annotations.json", {"splits": parts})
    start = time.process_time()
    found = read(tmp_path)
    seconds = time.process_time() - start
    assert len(found.images) == count and len(found.set_aside) == count // 4
    assert seconds < 8, "0.9 s on a quiet core; with a loop in a loop it is minutes"


# --- what cannot be done with it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, recipe",
    [("zero_shot", "default"), ("fine_tune", "demo"), ("clip_reid_prompts", "demo"),
     ("clip_reid_encoder", "demo"), ("prompt_sg", "demo"), ("demo_clip", "demo"),
     ("joint", "demo")],
)  # fmt: skip
def test_notebooks_that_search_by_images_name_the_one_that_searches_by_words(method, recipe):
    with pytest.raises(
        InputError, match="demo_captions.*08_text_to_image is the notebook"
    ) as error:
        params.load(method, "demo_captions", "demo", recipe)
    assert "\n" not in str(error.value)
    assert params.load("prepare_data", "demo_captions").data.catalogue == "captions"
    assert (
        params.load("text_to_image", "demo_captions", "demo", "default").method == "text_to_image"
    )


def test_a_split_of_images_that_are_found_by_words_has_no_trial(tmp_path):
    prepared = prepare(annotated(tmp_path, test=[item(n) for n in (1, 2, 3)]))
    array = np.eye(3, dtype=np.float32)
    with pytest.raises(InputError, match="no query.*searched by words; 08_text_to_image"):
        trials.searches(array, prepared.test, prepared.split)


def test_what_01_shows_of_it_names_no_people_and_says_the_captions(tmp_path):
    lists = {part: [item(n) for n in range(*ends)] for part, ends in
             {"train": (1, 6), "val": (6, 8), "test": (8, 13)}.items()}  # fmt: skip
    lists["test"][-1]["caption"] = "a long tale " * 40
    prepared = prepare(annotated(tmp_path, **lists))
    sizes = tables.split_sizes(prepared.split)
    assert sizes.loc["all"].to_dict() == {
        "train images": 5, "val images": 2, "gallery default images": 5
    }  # fmt: skip
    assert list(tables.counts(prepared.images)) == ["all: images"]
    figure = figures.split_sizes(prepared.split, "demo_captions")
    assert [axes.get_xlabel() for axes in figure.axes] == ["images"]
    sample = tables.sample(prepared.images)
    assert len(sample) == 8 and sample["image_id"].is_unique
    pixels = np.zeros((8, 9, 12, 3), np.uint8)
    lists["test"] = [row | {"group": "g" if row["id"] in ("i8", "i9") else None}
                     for row in lists["test"]]  # fmt: skip
    grouped = prepare(annotated(tmp_path / "grouped", **lists))
    sizes = tables.split_sizes(grouped.split)
    assert sizes.loc["all"].to_dict() == {
        "train images": 5, "train people": 5, "val images": 2, "val people": 2,
        "gallery default images": 5, "gallery default people": 4,
    }  # fmt: skip
    assert tables.counts(grouped.images).iloc[0].to_dict() == {"all: images": 12, "all: people": 11}
    look = {"group": None, "captions": "caption", "columns": 4}
    sheet = pictures.image_grid(sample, pixels, "demo_captions", **look)
    texts = [text.get_text() for axes in sheet.axes for text in axes.texts]
    assert [text for text in texts if "tale" not in text] == [
        caption for caption in sample["caption"] if "tale" not in caption
    ]
    (long,) = (text for text in texts if "tale" in text)
    assert long.endswith("…") and long.count("\n") == 4
