import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from clipfh_lib import files, params
from clipfh_lib.data import catalogues, splits
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

HEADER = "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"


def line(number, pid='"0000007"', aspect="dorsal right", accessories="0", name=None):
    name = f"Hand_{number:07d}.jpg" if name is None else name
    return f'{pid},27,"male","fair",{accessories},0,"{aspect}","{name}",0'


def folder_11k(root, lines, images=range(1, 5), newline="\r\n", encoding="utf-8"):
    (root / "Hands").mkdir(parents=True)
    for number in images:
        (root / "Hands" / f"Hand_{number:07d}.jpg").write_bytes(b"x" * number)
    text = newline.join([HEADER, *lines]) + newline
    (root / "HandInfo.csv").write_bytes(text.encode(encoding))
    return root


def data_11k(root, **others):
    return DataParams(catalogue="hands_11k", root=str(root), **others)


@pytest.fixture
def good(tmp_path):
    return folder_11k(tmp_path / "11k", [line(number) for number in range(1, 5)])


def test_a_row_of_handinfo_becomes_a_row_of_the_images_table(good):
    row = catalogues.read(data_11k(good)).images.iloc[1]
    assert row["image_id"] == "Hand_0000002" and row["path"] == "Hands/Hand_0000002.jpg"
    assert (row["pid"], row["aspect"], row["accessories"]) == (7, "dorsal_r", 0)
    assert (row["file_number"], row["age"], row["gender"]) == (2, 27, "male")
    assert row["skin_color"] == "fair" and row["nail_polish"] == row["irregularities"] == 0


def test_a_blank_behind_an_id_does_not_make_another_person(tmp_path):
    lines = [line(1, '"1200000 "'), line(2, '"1200000"'), line(3, '" 0000003"')]
    found = catalogues.read(data_11k(folder_11k(tmp_path / "a", lines)))
    assert found.images["pid"].tolist() == [1200000, 1200000, 3]


def test_a_partial_copy_takes_the_images_that_are_there_and_counts_the_rest(good):
    (good / "Hands" / "Hand_0000003.jpg").unlink()
    (good / "Hands" / "Hand_0000099.jpg").write_bytes(b"x")
    found = catalogues.read(data_11k(good))
    assert found.images["file_number"].tolist() == [1, 2, 4]
    assert "1 of 4 rows" in found.notes[0] and "1 image files in Hands have no" in found.notes[1]
    assert found.set_aside.empty


@pytest.mark.parametrize("extensions", [["JPG"], [".jpg"], ["jpg", "png"]])
def test_extensions_hold_in_any_case_and_with_or_without_a_dot(good, extensions):
    (good / "Hands" / "Hand_0000001.jpg").rename(good / "Hands" / "Hand_0000001.JPG")
    (good / "Hands" / "Hand_0000002.jpg").rename(good / "Hands" / "Hand_0000002.bmp")
    found = catalogues.read(data_11k(good, extensions=extensions))
    assert found.images["path"].tolist() == [
        "Hands/Hand_0000001.JPG",
        "Hands/Hand_0000003.jpg",
        "Hands/Hand_0000004.jpg",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_usual_encoding_and_line_end_is_read(tmp_path, encoding, newline):
    lines = [line(1).replace("fair", "très fair"), line(2)]
    root = folder_11k(tmp_path / "a", lines, newline=newline, encoding=encoding)
    found = catalogues.read(data_11k(root))
    assert found.images["skin_color"].tolist() == ["très fair", "fair"]
    announced = [note for note in found.notes if "not UTF-8" in note]
    assert len(announced) == (encoding in ("cp1252", "utf-16"))


OUTSIDE = ["../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg", "C:secret.jpg", "a/../../b.jpg"]
OUTSIDE += ["..", "a\\..\\b.jpg", "Hand_0000001.jpg\x00.png", "//host/share.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_stops_with_file_row_and_fix(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    root = folder_11k(tmp_path / "a", [line(1), line(2, name=name)])
    with pytest.raises(InputError, match=r"HandInfo.csv row 3: imageName .* remove the row") as why:
        catalogues.read(data_11k(root))
    assert "\n" not in str(why.value) and "\x00" not in str(why.value)


STOPS = {
    "a column is missing": (
        [HEADER.replace("accessories", "jewels"), line(1)],
        "accessories.*miss",
    ),
    "semicolons": ([HEADER.replace(",", ";"), line(1).replace(",", ";")], "id, acc.*missing"),
    "nothing at all": ([""], "missing; it has nothing"),
    "a column stands twice": ([HEADER + ",age", line(1) + ",1"], "'age' stands twice"),
    "two people for an image": (
        [HEADER, line(1), line(1, "8")],
        "row 3: .*id 8 here and 7 in row 2",
    ),
    "two aspects": ([HEADER, line(1), line(1, aspect="palmar left")], "row 3: .*aspect palmar_l"),
    "with and without": ([HEADER, line(1), line(1, accessories="1")], "row 3: .*accessories 1 he"),
    "in another case": ([HEADER, line(1), line(1, "8", name="HAND_0000001.JPG")], "row 3: .*id 8"),
    "an open quote": (
        [HEADER, line(1), line(2).replace('jpg"', "jpg"), line(3)],
        "row 3: a cell over several",
    ),
}


@pytest.mark.parametrize("lines, says", STOPS.values(), ids=STOPS)
def test_a_table_that_cannot_be_trusted_stops_with_one_line(tmp_path, lines, says):
    root = folder_11k(tmp_path / "a", [])
    (root / "HandInfo.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=says) as why:
        catalogues.read(data_11k(root))
    assert "\n" not in str(why.value) and "HandInfo.csv" in str(why.value)


def test_text_in_no_known_encoding_stops(good):
    (good / "HandInfo.csv").write_bytes(HEADER.encode() + b"\n\x81\x8d\xff")
    with pytest.raises(InputError, match="neither UTF-8 nor Windows-1252"):
        catalogues.read(data_11k(good))


ASIDE = {
    "a doubled row": (line(1), "stands in row 2 already"),
    "an id that is no number": (line(2, '"00x7"'), "id '00x7' is no whole number"),
    "an empty id": (line(2, ""), "id '' is no whole number"),
    "an id with a blank inside": (line(2, '"0 7"'), "id '0 7' is no whole number"),
    "an id among the galleries' steps": (line(2, "11000007"), "above 9999999"),
    "an unknown aspect": (line(2, aspect="dorsal"), "aspectOfHand 'dorsal' is none of"),
    "an aspect in capitals": (line(2, aspect="Dorsal Right"), "'Dorsal Right' is none of"),
    "accessories that are no integer": (
        line(2, accessories="0.5"),
        "accessories '0.5' is no whole",
    ),
    "cells too few": ('"0000007",27', "2 cells under 9 columns"),
    "no image name": (line(2, name=""), "imageName is empty"),
}


@pytest.mark.parametrize("bad, reason", ASIDE.values(), ids=ASIDE)
def test_a_row_that_can_be_spared_is_set_aside_with_its_number_and_counted(tmp_path, bad, reason):
    found = catalogues.read(data_11k(folder_11k(tmp_path / "a", [line(1), bad, line(4)])))
    assert found.images["file_number"].tolist() == [1, 4]
    assert found.set_aside["row"].tolist() == [3] and reason in found.set_aside["reason"][0]
    assert found.notes[-1].startswith("1 rows or files set aside")


def test_what_is_no_plain_file_is_set_aside_and_named(good, tmp_path):
    hands = good / "Hands"
    (tmp_path / "outside.jpg").write_bytes(b"x")
    for number in (1, 2, 3):
        (hands / f"Hand_{number:07d}.jpg").unlink()
    (hands / "Hand_0000001.jpg").symlink_to(tmp_path / "outside.jpg")
    (hands / "Hand_0000002.jpg").mkdir()
    os.mkfifo(hands / "Hand_0000003.jpg")
    found = catalogues.read(data_11k(good))
    assert found.images["file_number"].tolist() == [4]
    reasons = found.set_aside.set_index("path")["reason"]
    assert "leaves the folder" in reasons["Hands/Hand_0000001.jpg"]
    assert reasons["Hands/Hand_0000002.jpg"] == "a folder"
    assert reasons["Hands/Hand_0000003.jpg"] == "not a regular file"


def test_a_link_within_the_folder_is_a_file_like_others(good):
    (good / "Hands" / "Hand_0000001.jpg").unlink()
    (good / "Hands" / "Hand_0000001.jpg").symlink_to("Hand_0000004.jpg")
    assert len(catalogues.read(data_11k(good)).images) == 4


def test_no_usable_image_stops_and_names_the_first_reason(tmp_path):
    root = folder_11k(tmp_path / "a", [line(1, "?"), line(2, "?")])
    with pytest.raises(InputError, match=r"no usable image.*first set aside: Hands/Hand_0000001"):
        catalogues.read(data_11k(root))


def test_traits_stand_beside_their_image_as_numbers_where_they_are(good):
    (good / "HandTraits.csv").write_text(
        "imageName,age,skinColor,rings,veins,scar\n"
        "Hand_0000002.jpg,99,x,2,clear,2 cm\nHand_0000001.jpg,99,x,,none,3\n"
    )
    images = catalogues.read(data_11k(good)).images
    assert images["scar"].tolist() == ["3", "2 cm", "", ""]
    assert images["age"].tolist() == [27] * 4  # HandInfo.csv has the word
    assert "skinColor" not in images and set(images["skin_color"]) == {"fair"}
    assert images["veins"].tolist() == ["none", "clear", "", ""]
    assert images["rings"].sum() == 2 and images["rings"].isna().sum() == 3
    (good / "HandTraits.csv").write_text(
        "imageName,rings\nHand_0000001.jpg,1\nHand_0000001.jpg,2\n"
    )
    with pytest.raises(InputError, match=r"HandTraits.csv row 3: 'Hand_0000001.jpg' stands twice"):
        catalogues.read(data_11k(good))


# --- taking less ---------------------------------------------------------------------------------


@pytest.mark.parametrize("column, name", [("imageName", "Hand_{}.jpg"), ("image_id", "Hand_{}")])
def test_include_takes_the_images_whose_row_has_the_value(good, column, name):
    rows = [f"{name.format('0000001')},full", f"{name.format('0000003')},crop"]
    (good / "kinds.csv").write_text("\n".join([f"{column},tier", *rows]))
    include = {"file": "kinds.csv", "column": "tier", "values": ["full"]}
    found = catalogues.read(data_11k(good, include=include))
    assert found.images["image_id"].tolist() == ["Hand_0000001"]
    assert "1 of 4 images taken by data.include" in found.notes


@pytest.mark.parametrize(
    "change, says",
    [
        ({"file": "kind.csv"}, "data.include: no file"),
        ({"file": "../secret.csv"}, "leaves"),
        ({"column": "teir"}, "'teir' not in .*nearest: tier"),
        ({"values": ["ful"]}, "'ful' not in .*nearest: full"),
    ],
)
def test_include_says_what_it_does_not_find(good, change, says):
    (good.parent / "secret.csv").write_text("imageName,tier\nHand_0000001.jpg,full\n")
    (good / "kinds.csv").write_text("imageName,tier\nHand_0000001.jpg,full\n")
    include = {"file": "kinds.csv", "column": "tier", "values": ["full"]} | change
    with pytest.raises(InputError, match=says):
        catalogues.read(data_11k(good, include=include))


def test_limit_spreads_people_and_takes_their_first_images_without_accessories(tmp_path):
    lines = [line(1, "9"), line(2, "5", accessories="1"), line(3, "5"), line(4, "5")]
    lines += [line(5, "5", "palmar left"), line(6, "5"), line(7, "8"), line(8, "8")]
    root = folder_11k(tmp_path / "a", lines, range(1, 9))
    images = catalogues.read(data_11k(root, limit={"people": 2, "images": 2})).images
    assert images["file_number"].tolist() == [1, 3, 4, 5]  # of 5, 8, 9 the first and the last
    assert sorted(images["pid"].unique()) == [5, 9]


# --- other layouts -------------------------------------------------------------------------------


def folder_hd(root, people, distractors):
    for part, counts in [("1-501", people), ("502-712", distractors)]:
        (root / "Original Images" / part).mkdir(parents=True)
        for pid, count in counts.items():
            for number in range(count):
                path = root / "Original Images" / part / f"{pid}_{number + 1}.JPG"
                path.touch()
    return root


def test_hd_takes_the_id_before_the_underscore_and_tells_the_two_folders_apart(tmp_path):
    root = folder_hd(tmp_path / "hd", {3: 2, 503: 2}, {503: 1})
    (root / "Original Images" / "1-501" / "x_1.jpg").touch()
    found = catalogues.read(DataParams(catalogue="hd", root=str(root)))
    assert found.images["pid"].tolist() == [3, 3, 503, 503, 1503]
    assert found.images["distractor"].tolist() == [False] * 4 + [True]
    assert found.images["image_id"].is_unique and set(found.images["aspect"]) == {"all"}
    assert found.set_aside["path"].tolist() == ["Original Images/1-501/x_1.jpg"]
    inside = DataParams(catalogue="hd", root=str(root / "Original Images"))
    assert catalogues.read(inside).images["path"][0] == "1-501/3_1.JPG"


def test_hd_at_its_full_number_of_files_must_have_the_published_people(tmp_path):
    people = {pid: 9 + (pid <= 132) for pid in range(1, 503)}
    distractors = {502 + pid: 6 + (pid < 64) for pid in range(213)}
    assert sum(people.values()) == 4650 and sum(distractors.values()) == 1342
    root = folder_hd(tmp_path / "hd", people, distractors)
    data = DataParams(catalogue="hd", root=str(root))
    assert catalogues.read(data).images["pid"].nunique() == 715
    (root / "Original Images/1-501/7_1.JPG").rename(root / "Original Images/1-501/900_1.JPG")
    with pytest.raises(InputError, match=r"found \(4650, 503\), published \(4650, 502\)"):
        catalogues.read(data)


def test_folders_give_people_numbers_and_keep_their_names(tmp_path):
    for name in ("12", "bea", "anna", "007"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "12" / "1.png").touch()
    (tmp_path / "12" / "deeper").mkdir()
    (tmp_path / "12" / "deeper" / "2.jpg").touch()
    (tmp_path / "loose.jpg").touch()
    (tmp_path / "12" / ".hidden.jpg").touch()
    found = catalogues.read(DataParams(catalogue="folders", root=str(tmp_path)))
    table = found.images.set_index("image_id")
    assert table["pid"].to_dict() == {"007/1": 7, "12/1": 12, "anna/1": 13, "bea/1": 14}
    assert table["pid_name"].to_dict() == {
        "007/1": "",
        "12/1": "",
        "anna/1": "anna",
        "bea/1": "bea",
    }
    assert found.set_aside["path"].tolist() == ["12/1.png"]
    assert "2 image files lie outside" in found.notes[0]
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "1.jpg").touch()
    with pytest.raises(InputError, match="are the same number"):
        catalogues.read(DataParams(catalogue="folders", root=str(tmp_path)))


def test_a_name_that_is_not_utf8_and_a_linked_folder_are_set_aside(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "1.jpg").touch()
    os.close(os.open(os.fsencode(tmp_path) + b"/1/\xff\xfe.jpg", os.O_CREAT))
    (tmp_path / "2").symlink_to(tmp_path / "1")
    found = catalogues.read(DataParams(catalogue="folders", root=str(tmp_path)))
    assert found.images["path"].tolist() == ["1/1.jpg"]
    assert found.set_aside["path"].tolist() == ["1/\\udcff\\udcfe.jpg", "2"]
    files.write_csv(tmp_path / "set_aside.csv", found.set_aside)  # UTF-8 holds it


# --- where the data is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "catalogue, says",
    [
        ("hands_11k", "HandInfo.csv, from sites.google.com/view/11khands"),
        ("hd", "Original Images/502-712/.*polyu.edu.hk"),
        ("folders", "<pid>/"),
        ("split_folders", "query0 ..., gallery0 ...,.* older scripts"),
    ],
)
def test_a_missing_folder_says_how_the_data_must_lie(tmp_path, catalogue, says):
    data = DataParams(catalogue=catalogue, root=str(tmp_path / "not there"))
    with pytest.raises(InputError, match=f"no folder .*not there; .*{says}") as why:
        catalogues.read(data)
    assert str(why.value) == catalogues.missing(data) and "\n" not in str(why.value)


def test_a_folder_without_its_table_is_missing_and_a_whole_one_is_not(good):
    assert catalogues.missing(data_11k(good)) == ""
    (good / "HandInfo.csv").unlink()
    assert catalogues.missing(data_11k(good)).startswith("HandInfo.csv not in ")


def test_data_without_root_and_drawing_is_refused():
    with pytest.raises(InputError, match="data.root is missing"):
        catalogues.missing(DataParams(catalogue="hands_11k"))


def test_the_digest_follows_content_and_not_file_times(good):
    before = catalogues.digest(data_11k(good))
    os.utime(good / "Hands" / "Hand_0000001.jpg", (1, 1))
    (good / "notes.txt").write_text("nothing to read here")
    moved = shutil.copytree(good, good.parent / "elsewhere")
    assert catalogues.digest(data_11k(good)) == catalogues.digest(data_11k(moved)) == before
    (good / "Hands" / "Hand_0000001.jpg").write_bytes(b"more")
    changed = catalogues.digest(data_11k(good))
    info = good / "HandInfo.csv"
    info.write_bytes(info.read_bytes().replace(b"27", b"28", 1))
    assert len({before, changed, catalogues.digest(data_11k(good))}) == 3


def test_a_drawn_set_is_drawn_once_where_its_parameters_say(project):
    draw = {"people": 2, "images": 2, "size": 32}
    data = DataParams(catalogue="hands_11k", draw=draw, cut="first_half")
    assert catalogues.missing(data) == "" and not catalogues.root(data).exists()
    catalogues.ensure(data, workers=1)
    found = catalogues.read(data)
    assert found.root.parent == project / "data" and found.root.name.startswith("demo-")
    assert found.images["pid"].nunique() == 2 and found.set_aside.empty and found.notes == []
    with Image.open(found.root / found.images["path"][0]) as image:
        assert image.size == (32, 24)
    times = {path: path.stat().st_mtime_ns for path in found.root.rglob("*")}
    catalogues.ensure(data)
    assert {path: path.stat().st_mtime_ns for path in found.root.rglob("*")} == times
    other = DataParams(catalogue="hands_11k", draw=draw | {"seed": 1}, cut="first_half")
    assert catalogues.root(other) != found.root
    assert catalogues.digest(other) != catalogues.digest(data)


def test_a_drawn_hd_set_is_halved_by_the_published_cut(project):
    draw = {"people": 4, "distractors": 3, "images": 2, "size": 32}
    data = DataParams(catalogue="hd", draw=draw)
    catalogues.ensure(data, workers=1)
    images = catalogues.read(data).images
    people = images.loc[~images["distractor"], "pid"].drop_duplicates()
    assert (people <= 447).tolist().count(True) == 2 and len(people) == 4
    assert images.loc[images["distractor"], "pid"].between(1502, 1712).all()


DRAWN = {"demo", "demo_hd"}
NAMES = DRAWN | {"11k_dorsal_r", "11k_dorsal_l", "11k_palmar_r", "11k_palmar_l", "11k_all"}
NAMES |= {"11k_sample", "hd", "folders", "split_folders"}


@pytest.mark.parametrize("dataset", sorted(NAMES))
def test_the_data_sets_of_params_are_drawn_or_say_what_is_missing(dataset, tmp_path):
    overrides = {} if dataset in DRAWN else {"data.root": str(tmp_path / "none")}
    line = catalogues.missing(params.load("prepare_data", dataset, overrides=overrides).data)
    assert (line == "") == (dataset in DRAWN)


def test_catalogues_splits_and_exports_open_without_torch():
    code = "import sys; from clipfh_lib.data import catalogues, exports, traps; "
    code += "sys.exit('torch' in sys.modules)"
    root = Path(catalogues.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_tables_are_frames_with_the_columns_that_are_promised(good):
    found = catalogues.read(data_11k(good))
    assert isinstance(found.images, pd.DataFrame)
    assert found.set_aside.columns.tolist() == ["path", "row", "reason"]


def test_a_drawn_hd_without_distractors_is_read_like_any_other(project):
    draw = {"people": 4, "distractors": 0, "images": 2, "size": 32}
    found = catalogues.read(DataParams(catalogue="hd", draw=draw))
    assert found.images["pid"].nunique() == 4 and not found.images["distractor"].any()
    split = splits.make(found.images, DataParams(catalogue="hd", draw=draw, val="published"))
    assert set(split["gallery"].dropna()) == {"default"} and not split["distractor"].any()
