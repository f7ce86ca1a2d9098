import json
import shutil

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import catalogues, inshop, splits
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

SMALL = {"all": (40, 11), "train": (20, 6), "query": (10, 5), "gallery": (10, 5)}


def name(item, number, view="front"):
    kind = ["WOMEN/Dresses", "MEN/Jackets_Vests"][item % 2]
    return f"img/{kind}/id_{item:08d}/{number:02d}_1_{view}.jpg"


def line(item, number, status, image=None):
    return f"{image or name(item, number)}      id_{item:08d}   {status}"


def small():
    """Rows of a small set as the published one is: 20 images train, each test item is in both."""
    train = [line(item, k, "train") for item in (1, 4, 5, 8, 9) for k in range(1, 5)]
    train[-2:] = [line(10, k, "train") for k in (1, 2)]  # so that one has two images, as some have
    test = [line(item, k, "query" if k <= 2 else "gallery") for item in (2, 3, 6, 7, 11)
            for k in range(1, 5)]  # fmt: skip
    return train + test


def folder(root, rows, images=None, count=None, said=None, top="Img/img", header=inshop.HEADER):
    """A data set of placeholder files, one for every row unless `images` says which."""
    (root / "Eval").mkdir(parents=True)
    text = "\n".join([str(len(rows) if count is None else count), " ".join(header), *rows]) + "\n"
    (root / "Eval" / "list_eval_partition.txt").write_text(text, encoding="utf-8")
    for each in [row.split()[0] for row in rows] if images is None else images:
        path = root / top / each.removeprefix("img/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    if said is not None:
        (root / "Anno").mkdir()
        (root / "Anno" / "list_description_inshop.json").write_text(json.dumps(said))
    return root


def data_of(root, **others):
    return DataParams(catalogue="inshop", root=str(root), **{"trials": 1, **others})


def read(root, **others):
    return catalogues.read(data_of(root, **others))


def split_of(root, **others):
    data = data_of(root, **others)
    return splits.make(catalogues.read(data).images, data)


# --- what is read ---------------------------------------------------------------------------------


def test_a_row_becomes_a_row_of_the_images_table_with_its_words(tmp_path):
    said = [{"item": "id_00000002", "color": "Dark\tred",
             "description": ["A long\ndress", " ", "Lined."]},
            {"item": "id_00000003", "color": None, "description": []}]  # fmt: skip
    found = read(folder(tmp_path / "a", small(), said=said))
    row = found.images.set_index("image_id").loc["WOMEN/Dresses/id_00000002/03_1_front"]
    assert row["path"] == "Img/img/WOMEN/Dresses/id_00000002/03_1_front.jpg"
    assert (row["pid"], row["pid_name"], row["aspect"]) == (2, "id_00000002", "all")
    assert (row["category"], row["partition"]) == ("women dresses", "gallery")
    assert (row["color"], row["caption"]) == ("Dark red", "Dark red. A long dress Lined.")
    vest = found.images[found.images["pid"] == 7].iloc[0]
    assert (vest["category"], vest["color"], vest["caption"]) == ("men jackets vests", "", "")
    assert len(found.images) == 40 and found.set_aside.empty
    assert found.captions["image_id"].tolist() == sorted(
        "WOMEN/Dresses/id_00000002/" + f"{k:02d}_1_front" for k in range(1, 5)
    )
    assert set(found.captions["caption"]) == {row["caption"]}
    assert found.notes == ["10 items with 36 images have no description"]


@pytest.mark.parametrize("top", inshop.FOLDERS)
def test_images_are_found_wherever_the_archives_put_them(tmp_path, top):
    found = read(folder(tmp_path / "a", small(), top=top))
    assert len(found.images) == 40 and found.images["path"].str.startswith(top + "/WOMEN").any()
    assert found.images["image_id"].str.match(r"(WOMEN|MEN)/").all()
    assert found.notes == ["no Anno/list_description_inshop.json: the images have no captions"]
    assert found.captions is None and "caption" not in found.images


def test_what_is_missing_is_named_with_where_it_comes_from(tmp_path):
    assert "no folder" in catalogues.missing(data_of(tmp_path / "a"))
    root = folder(tmp_path / "a", small())
    assert catalogues.missing(data_of(root)) == ""
    shutil.rmtree(root / "Img")
    says = catalogues.missing(data_of(root))
    assert says.startswith("Img/img not in") and "mmlab.ie.cuhk.edu.hk" in says
    shutil.rmtree(root / "Eval")
    with pytest.raises(InputError, match="Eval/list_eval_partition.txt and Img/img not in"):
        read(root)


def test_a_partial_copy_takes_the_images_that_are_there_and_counts_the_rest(tmp_path):
    there = [row.split()[0] for row in small()][::2] + [name(99, 1)]
    found = read(folder(tmp_path / "a", small(), images=there))
    assert len(found.images) == 20 and found.set_aside.empty
    assert "20 of 40 rows of list_eval_partition.txt have no image file" in found.notes[1]
    assert "1 image files in Img/img have no row" in found.notes[2]


def test_a_number_in_row_1_that_is_not_the_rows_is_noted(tmp_path):
    assert not any("row 1" in note for note in read(folder(tmp_path / "a", small())).notes)
    notes = read(folder(tmp_path / "b", small(), count=41)).notes
    assert "row 1 of list_eval_partition.txt says 41 images; it has 40" in notes


def test_an_image_in_another_items_folder_belongs_to_whom_the_table_says(tmp_path):
    rows = [*small(), line(2, 9, "query", image=name(1, 9))]
    found = read(folder(tmp_path / "a", rows))
    assert found.images.set_index("image_id").loc[name(1, 9)[4:-4], "pid"] == 2
    assert any(
        note.startswith("1 images lie in the folder of another item") for note in found.notes
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_usual_encoding_and_line_end_is_read(tmp_path, encoding, newline):
    root = folder(tmp_path / "a", small())
    path = root / "Eval" / "list_eval_partition.txt"
    path.write_bytes(path.read_text().replace("\n", newline).encode(encoding))
    assert len(read(root).images) == 40


# --- flaws ----------------------------------------------------------------------------------------

OUTSIDE = ["img/../../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg", "img/C:secret.jpg"]
OUTSIDE += ["img/./a.jpg", "img\\a.jpg", "img//a.jpg", "img/a\x07.jpg", "img/", "//host/share.jpg"]


@pytest.mark.parametrize("image", OUTSIDE)
def test_a_path_that_leaves_the_folder_stops_with_file_row_and_fix(tmp_path, image):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    root = folder(tmp_path / "a", [*small(), line(2, 9, "query", image)], [name(2, 1)])
    with pytest.raises(InputError, match=r"partition.txt row 43: image_name .* remove the") as why:
        read(root)
    assert "\n" not in str(why.value) and "\x07" not in str(why.value)


STOPS = {
    "another item for an image": (
        line(3, 1, "query", name(2, 1)), "row 43: image .* has item id_0+3 here"),
    "another status for an image": (line(2, 1, "gallery"), "status gallery .* query in row 23"),
    "in another case": (
        line(2, 1, "gallery", name(2, 1).upper().replace("IMG", "img")), "has status gallery"),
    "an item in train and in test": (
        line(1, 9, "gallery"), "row 43: item 'id_00000001' has side test"),
    "a test item that trains": (line(11, 9, "train"), "side train here and test in row 39"),
    "a number written twice": (
        line(2, 9, "query").replace("id_00000002   ", "id_2  "), "number '2' has item id_2 here"),
}  # fmt: skip


@pytest.mark.parametrize("row, says", STOPS.values(), ids=STOPS)
def test_a_partition_that_contradicts_itself_stops_with_one_line(tmp_path, row, says):
    with pytest.raises(InputError, match=says) as why:
        read(folder(tmp_path / "a", [*small(), row]))
    assert "\n" not in str(why.value) and "list_eval_partition.txt" in str(why.value)


def test_a_partition_without_its_two_first_rows_stops(tmp_path):
    with pytest.raises(InputError, match="row 2: the header must be image_name .* is image item s"):
        read(folder(tmp_path / "a", small(), header=["image", "item", "status"]))
    with pytest.raises(InputError, match="row 1: 'image_name item_id .* is not the number of imag"):
        read(folder(tmp_path / "b", small(), count="image_name item_id evaluation_status"))
    with pytest.raises(InputError, match="row 1: '' is not the number"):
        read(folder(tmp_path / "c", small(), count=""))


ASIDE = {
    "an unknown status": (line(2, 9, "test"), "evaluation_status 'test' is none of train, query"),
    "a status in capitals": (line(2, 9, "Query"), "'Query' is none"),
    "an id without number": (
        line(2, 9, "query").replace("id_00000002  ", "id_x  "),
        "'id_x' is no",
    ),
    "an id of other digits": (line(2, 9, "query").replace("id_00000002  ", "id_٣  "), "is no id_"),
    "an id that is too large": (line(99_999_999, 9, "query"), "up to 9999999"),
    "too few cells": (f"{name(2, 9)} query", "2 cells under 3"),
    "too many cells": (line(2, 9, "query") + " id_00000003", "4 cells under 3"),
    "a name with a blank": (line(2, 9, "query", "img/MEN/a b.jpg"), "4 cells under 3"),
    "another start": (line(2, 9, "query", "pictures/a.jpg"), "does not begin with img/"),
    "a row that stands twice": (line(2, 1, "query"), "stands in row 23 already"),
}


@pytest.mark.parametrize("row, says", ASIDE.values(), ids=ASIDE)
def test_a_row_that_can_be_left_out_is_set_aside_with_its_reason(tmp_path, row, says):
    sound = read(folder(tmp_path / "a", small()))
    found = read(folder(tmp_path / "b", [*small(), row], [row.split()[0] for row in small()]))
    assert len(found.set_aside) == 1 and says in found.set_aside["reason"][0]
    assert found.set_aside["row"][0] == 43
    pd.testing.assert_frame_equal(found.images, sound.images)


def test_links_and_folders_in_the_place_of_images_are_set_aside(tmp_path):
    root = folder(tmp_path / "a", small())
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    first, second = (root / "Img" / name(2, k) for k in (1, 2))
    first.unlink()
    first.symlink_to(secret)
    second.unlink()
    second.mkdir()
    found = read(root)
    assert len(found.images) == 38
    assert found.set_aside["row"].tolist() == [23, 24]
    assert found.set_aside["reason"].str.contains("leaves the folder|a folder").all()


ENTRIES = {
    "no object": (["id_00000002"], "it names no item"),
    "no item": ([{"color": "red", "description": ["x"]}], "it names no item"),
    "words that are no text": (
        [{"item": "id_00000002", "description": [3]}],
        "is no list of texts",
    ),
    "a colour that is no text": ([{"item": "id_00000002", "color": 3}], "color of 'id_00000002'"),
    "an item twice": (
        [{"item": "id_00000002", "color": "red"}, {"item": "id_00000002", "color": "blue"}],
        "entry 2: id_00000002 was described before",
    ),
}


@pytest.mark.parametrize("said, says", ENTRIES.values(), ids=ENTRIES)
def test_a_description_that_cannot_be_used_is_set_aside(tmp_path, said, says):
    found = read(folder(tmp_path / "a", small(), said=said))
    assert len(found.images) == 40 and len(found.set_aside) == 1
    assert says in found.set_aside["reason"][0]
    assert found.set_aside["path"][0] == "Anno/list_description_inshop.json"
    assert "color" not in found.images or set(found.images["color"]) == {"", "red"}


@pytest.mark.parametrize("text", ["", "{", "[1,", "{}", "3", "[" * 100_000])
def test_descriptions_that_are_no_list_stop_with_one_line(tmp_path, text):
    root = folder(tmp_path / "a", small(), said=[])
    (root / "Anno" / "list_description_inshop.json").write_text(text)
    with pytest.raises(InputError, match="inshop.json: .*download it again or remove it") as why:
        read(root)
    assert "\n" not in str(why.value)


cells = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["img/MEN/a.jpg", "id_1", "id_00000002", "train", "query", "../x", "img/../x", "7", ""]
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.lists(cells, max_size=4).map(" ".join), max_size=4), json_text=cells)
def test_whatever_stands_in_the_tables_either_reads_or_says_why_in_one_line(
    tmp_path_factory, rows, json_text
):
    root = folder(tmp_path_factory.mktemp("any") / "a", small(), said=[])
    path = root / "Eval" / "list_eval_partition.txt"
    path.write_bytes(path.read_bytes() + "\n".join(rows).encode())
    (root / "Anno" / "list_description_inshop.json").write_text(json_text, encoding="utf-8")
    try:
        found = read(root)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.images) == 40 and not found.images["path"].str.contains(r"\.\.").any()


# --- the published counts -------------------------------------------------------------------------


def published():
    """An images table with the published counts, of items that are not."""
    rows = []
    for status, items in (("train", range(3_997)), ("query", range(4_000, 7_985)),
                          ("gallery", range(4_000, 7_985))):  # fmt: skip
        images = inshop.WHOLE[status][0]
        rows += [(items[row % len(items)], status) for row in range(images)]
    return pd.DataFrame(rows, columns=["pid", "partition"])


def test_the_published_counts_are_those_of_the_paper_and_add_up(tmp_path):
    whole = inshop.WHOLE
    assert whole["all"] == (52712, 7982) and whole["train"] == (25882, 3997)
    assert whole["query"] == (14218, 3985) and whole["gallery"] == (12612, 3985)
    assert sum(whole[status][0] for status in inshop.STATUSES) == whole["all"][0]
    assert whole["train"][1] + whole["query"][1] == whole["all"][1]
    inshop.assert_counts(published(), tmp_path)


@pytest.mark.parametrize(
    "status, items", [("query", "3985"), ("gallery", "3985"), ("train", "399")]
)
def test_a_whole_table_with_other_counts_is_refused_with_the_counts(tmp_path, status, items):
    table = published()
    row = table.index[table["partition"] == status][0]
    changed = table.assign(partition=table["partition"].mask(table.index == row, "none"))
    with pytest.raises(InputError, match=f"{status}: .* images of {items}.*published .* download"):
        inshop.assert_counts(changed, tmp_path)
    strange = table.assign(pid=table["pid"].mask(table.index == row, 9_999))
    with pytest.raises(
        InputError, match="all: 52712 images of 7983 items, published 52712 of 7982"
    ):
        inshop.assert_counts(strange, tmp_path)


def test_counts_are_asserted_when_every_row_has_its_file_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr(inshop, "WHOLE", SMALL)
    assert len(read(folder(tmp_path / "a", small())).images) == 40
    rows = small()
    rows[-1] = rows[-1].replace("gallery", "query")
    with pytest.raises(InputError, match="query: 11 images of 5 items, published 10 of 5"):
        read(folder(tmp_path / "b", rows))
    names = [row.split()[0] for row in rows]
    assert len(read(folder(tmp_path / "c", rows, names[:-1])).images) == 39  # a part of it
    rows[-1] = rows[-1].replace("query", "unknown")  # whole on disk, but a row cannot be used
    with pytest.raises(InputError, match="all: 39 images of 11 items"):
        read(folder(tmp_path / "d", rows))


# --- the split ------------------------------------------------------------------------------------


def test_one_trial_is_the_data_sets_own_query_and_gallery(tmp_path):
    root = folder(tmp_path / "a", small())
    table, split = read(root).images.set_index("image_id"), split_of(root)
    test = split[split["role"].isin(["query", "gallery"])]
    assert (test["role"] == table.loc[test["image_id"], "partition"].to_numpy()).all()
    assert len(test) == 20 and set(test["trial"]) == {0} and set(test["test_aspect"]) == {"all"}
    assert set(split.loc[split["role"] == "gallery", "gallery"]) == {"default"}
    assert not split["distractor"].any()


def test_ten_trials_draw_anew_from_the_same_items(tmp_path):
    root = folder(tmp_path / "a", small())
    split = split_of(root, trials=10)
    drawn = split[split["role"] == "gallery"].groupby("trial")["image_id"].agg(frozenset)
    assert len(drawn) == 10 and drawn.nunique() > 5  # 4 ** 5 galleries are possible
    assert set(drawn.map(len)) == {5}  # an image of each item
    own = split_of(root)
    tested = {role: set(own.loc[own["role"] == role, "pid"]) for role in ("query", "train", "val")}
    assert set(split.loc[split["role"].isin(["query", "gallery"]), "pid"]) == tested["query"]
    assert splits.sha256(split) == splits.sha256(split_of(root, trials=10))
    assert splits.sha256(split) != splits.sha256(split_of(root, trials=10, split_seed=1))


@pytest.mark.parametrize("trials", [1, 10])
def test_train_items_are_never_tested_and_val_is_held_out_of_them(tmp_path, trials):
    split = split_of(folder(tmp_path / "a", small()), trials=trials)
    items = split.groupby("role")["pid"].agg(set)
    assert items["train"] | items["val"] == {1, 4, 5, 8, 9, 10}
    assert items["query"] == items["gallery"] == {2, 3, 6, 7, 11}
    assert not items["train"] & items["val"] and len(items["val"]) == 3  # at most half


def test_a_gallery_item_that_nobody_searches_for_is_a_distractor(tmp_path):
    rows = [row for row in small() if not (row.split()[1] == "id_00000006" and "query" in row)]
    split = split_of(folder(tmp_path / "a", rows))
    assert set(split.loc[split["distractor"], "pid"]) == {6}


@pytest.mark.parametrize("images, queries", [(2, 5), (3, 10)])
def test_a_limited_run_keeps_queries_and_what_they_search_for(tmp_path, images, queries):
    root = folder(tmp_path / "a", small())
    table = read(root, limit={"images": images}).images
    assert set(table.groupby("pid").size()) == ({images} if images == 2 else {2, 3})
    assert (table["partition"] == "query").sum() == queries
    assert "turn" not in table
    split = split_of(root, limit={"images": images})
    query, gallery = (split[split["role"] == role] for role in ("query", "gallery"))
    assert set(query["pid"]) <= set(gallery["pid"]) and len(query) == queries


@pytest.mark.parametrize("status", ["query", "gallery", "apart"])
def test_queries_that_all_search_in_vain_are_no_test_and_nothing_is_drawn_instead(tmp_path, status):
    train = [row for row in small() if row.endswith("train")]
    statuses = ("query", "gallery") if status == "apart" else (status, status)
    test = [line(item, k, says) for item, says in zip((2, 3), statuses, strict=True)
            for k in range(1, 5)]  # fmt: skip
    root = folder(tmp_path / "a", train + test)
    with pytest.raises(InputError, match="no test person has two images of all"):
        split_of(root)
    assert set(split_of(root, trials=2)["role"]) == {"train", "val", "query", "gallery"}


def test_prepare_writes_words_and_split_that_come_back(tmp_path):
    said = [{"item": f"id_{item:08d}", "color": "red", "description": ["7"]} for item in (1, 2)]
    root = folder(tmp_path / "a", small(), said=said)
    for number, path in enumerate(sorted((root / "Img").rglob("*.jpg"))):
        Image.new("RGB", (32, 40), (number, 0, 0)).save(path)
    overrides = {"data.root": str(root)}
    p = params.read("prepare_data", "inshop", overrides=overrides)
    found = splits.prepare(p, tmp_path / "out")
    assert len(found.images) == 40 and len(found.train) + len(found.val) == 20
    assert set(found.captions["caption"]) == {"red. 7"} and len(found.captions) == 8
    assert found.images["partition"].value_counts()["train"] == 20
    again = splits.prepare(p, tmp_path / "out")
    pd.testing.assert_frame_equal(again.images, found.images)
    said[0]["color"] = "blue"  # other words, other tables
    (root / "Anno" / "list_description_inshop.json").write_text(json.dumps(said))
    changed = splits.prepare(p, tmp_path / "out")
    assert set(changed.captions["caption"]) == {"red. 7", "blue. 7"}
    assert changed.sha256 == found.sha256
