import pandas as pd
import pytest

from clipfh_lib.data import splits, traps
from clipfh_lib.schema import DataParams


def table_of(*groups):
    """An images table of (pid, aspect, file numbers), with words that can be grouped."""
    rows = [(pid, aspect, number) for pid, aspect, numbers in groups for number in numbers]
    table = pd.DataFrame(rows, columns=["pid", "aspect", "file_number"])
    ids = table["aspect"] + table["file_number"].map("-{:05d}".format)
    return table.assign(
        image_id=ids, path=ids + ".jpg", file_number=table["file_number"].astype("Int64")
    )


def data_11k(**others):
    return DataParams(**{"catalogue": "hands_11k", "root": "nowhere", **others})


def rows(table, data, trap, root=None, split=None):
    split = splits.make(table, data) if split is None else split
    report = traps.report(table, split, data, root)
    assert set(report.columns) == {"trap", "finding", "count", "people", "images", "verdict"}
    assert report["trap"].nunique() == 7
    return report[report["trap"] == trap].reset_index(drop=True)


BOTH_SIDES = [
    (1, "dorsal_r", [1, 2]),  # trains everywhere
    (1, "dorsal_l", [3, 4]),
    (1045, "dorsal_r", [5, 6]),  # trains dorsal right (cut 1050), tests dorsal left (cut 1037)
    (1045, "dorsal_l", [7, 8, 9]),
    (2000, "dorsal_r", [10, 11]),  # tests everywhere
    (2000, "dorsal_l", [12, 13]),
]


def test_a_person_on_both_sides_is_counted_with_the_images_and_told_what_to_do():
    table = table_of(*BOTH_SIDES)
    here, apart = rows(table, data_11k(aspects=["dorsal_r"]), "person on both sides").itertuples()
    assert (here.count, here.people) == (1, 1) and 1 <= here.images <= 3  # dorsal left's galleries
    assert here.verdict.startswith("only distractors of all_aspects")
    assert (apart.count, apart.images) == (1, 5) and apart.verdict.endswith("another: 1045")
    here, apart = rows(table, data_11k(), "person on both sides").itertuples()
    assert here.count == 0 and here.verdict == "nothing to do"
    assert apart.verdict == "left out of training here: 1045"
    here, apart = rows(
        table_of(*BOTH_SIDES[:2], *BOTH_SIDES[4:]), data_11k(), here.trap
    ).itertuples()
    assert here.count == apart.count == 0


def test_a_split_that_searches_for_a_train_person_is_called_invalid():
    table, data = table_of(*BOTH_SIDES), data_11k()
    split = splits.make(table, data)
    split.loc[split["role"].eq("query").idxmax(), "image_id"] = table["image_id"][0]
    here = rows(table, data, "person on both sides", split=split).iloc[0]
    assert here["count"] == 1 and here["verdict"].startswith("INVALID: 1 of them")


def test_the_mirror_of_a_right_hand_is_the_left_one_of_the_same_side():
    table = table_of(*BOTH_SIDES, (2000, "palmar_r", [14, 15]))
    trained, beside = rows(table, data_11k(), "mirrored hands").itertuples()
    assert trained.count == 0
    # 2000: a query in each of both dorsal aspects meets the other hand; 1045 tests dorsal_l alone.
    assert (beside.people, beside.images) == (1, 4) and "embed.flip" in beside.verdict
    split = splits.make(table, data_11k())
    left = split["role"].eq("train") & split["aspect"].eq("dorsal_l")
    split.loc[left.idxmax(), "image_id"] = "dorsal_l-00012"  # a left hand of 2000 trains
    trained, _ = rows(table, data_11k(), "mirrored hands", split=split).itertuples()
    assert (trained.people, trained.images) == (1, 2) and trained.verdict == "train without flips"


def test_bursts_are_the_shares_of_queries_near_their_gallery_image():
    table = table_of(
        (2000, "dorsal_r", [1, 2]), (2001, "dorsal_r", [10, 14]), (2002, "dorsal_r", [50, 99])
    )
    found = rows(table, data_11k(trials=4), "bursts")
    assert found["count"].tolist() == [4, 4, 8, 8]  # of 12 queries in 4 trials: gaps 1, 4 and 49
    assert "33.3% of queries within 1 file" in found["finding"][0]
    assert "66.7% of queries within 10 file" in found["finding"][3]


def test_the_gap_of_a_query_is_to_its_nearest_right_gallery_image():
    table = table_of((2000, "dorsal_r", [1, 4, 20]), (2001, "dorsal_r", [21, 22]))
    data = data_11k(gallery="rest", trials=5)
    split = splits.make(table, data)
    nearest = {"dorsal_r-00001": 3, "dorsal_r-00004": 3, "dorsal_r-00020": 16}
    nearest |= {"dorsal_r-00021": 1, "dorsal_r-00022": 1}
    gaps = traps.gaps(table, split)
    assert len(gaps) == 10 and gaps["image_id"].nunique() > 2
    assert gaps["gap"].tolist() == gaps["image_id"].map(nearest).tolist()


def test_without_file_numbers_bursts_are_said_to_be_unchecked():
    table = table_of((2000, "dorsal_r", [1, 2])).drop(columns="file_number")
    assert "not checked" in rows(table, data_11k(), "bursts")["finding"][0]


def test_resolutions_that_give_a_person_away_are_measured():
    table = table_of(
        (2000, "dorsal_r", [1, 2]), (2001, "dorsal_r", [3, 4]), (2002, "dorsal_r", [5, 6])
    )
    sizes, several = rows(
        table.assign(width=[8, 8, 4, 4, 8, 4], height=6), data_11k(), "mixed resolutions"
    ).itertuples()
    assert sizes.count == 2 and "8 x 6" in sizes.finding
    assert "67% within people, 40% over all" in sizes.verdict  # 2 of 3 pairs; 6 of 15
    assert (several.count, several.images) == (1, 2)
    sizes, several = rows(table.assign(width=8, height=6), data_11k(), sizes.trap).itertuples()
    assert (sizes.count, several.count) == (1, 0) and sizes.verdict == "nothing to do"


@pytest.mark.parametrize(
    "contents, count, verdict",
    [
        ([b"a", b"b", b"c", b"d"], 0, "nothing to do"),
        ([b"a", b"a", b"c", b"d"], 2, "a query may be its own gallery image"),
        ([b"a", b"b", b"a", b"d"], 2, "INVALID: 1 pictures are of several people"),
        ([b"a" * 70_000 + b"1", b"a" * 70_000 + b"2", b"c", b"d"], 0, "nothing to do"),
        ([b"a" * 70_000 + b"1", b"a" * 70_000 + b"1", b"c", b"d"], 2, "a query may be"),
    ],
)
def test_doubled_files_are_found_by_their_bytes(tmp_path, contents, count, verdict):
    table = table_of((2000, "dorsal_r", [1, 2]), (2001, "dorsal_r", [3, 4]))
    for path, content in zip(table["path"], contents, strict=True):
        (tmp_path / path).write_bytes(content)
    found = rows(table, data_11k(), "doubled files", tmp_path).iloc[0]
    assert found["count"] == count and found["verdict"].startswith(verdict)


def test_groups_of_fewer_than_ten_test_people_are_not_to_be_reported():
    table = table_of(*((2000 + k, "dorsal_r", [3 * k, 3 * k + 1]) for k in range(12)))
    women = table["pid"] < 2010
    table = table.assign(
        gender=women.map({True: "female", False: "male"}), age=30, skin_color="fair"
    )
    found = rows(table, data_11k(), "small groups").set_index("finding")
    assert found["count"].to_dict() == {
        "gender female: people searched for": 10,
        "gender male: people searched for": 2,
        "skin_color fair: people searched for": 12,
        "age 25 to 34: people searched for": 12,
    }
    small = found["verdict"] == "fewer than 10: do not report alone"
    assert found.index[small].tolist() == ["gender male: people searched for"]


def test_people_with_one_image_are_counted_in_test_and_in_train():
    table = table_of(
        (1, "dorsal_r", [1]), (2, "dorsal_r", [2, 3]), (2000, "dorsal_r", [4]),
        (2001, "dorsal_r", [5, 6]), (2002, "dorsal_r", [7]),
    )  # fmt: skip
    found = rows(table, data_11k(), "people with one image").set_index("finding")["count"]
    assert found.to_dict() == {"dorsal_r: test people": 2, "train people (each aspect apart)": 1}


def test_a_set_of_one_aspect_gets_a_report_too():
    table = table_of((1, "all", [1, 2]), (500, "all", [3, 4]), (1502, "all", [5])).drop(
        columns="file_number"
    )
    table["distractor"] = table["pid"] == 1502
    data = DataParams(catalogue="hd", root="nowhere")
    assert rows(table, data, "person on both sides")["count"].tolist() == [0, 0]


def test_images_that_are_searched_by_words_have_traps_of_their_own(tmp_path):
    images = pd.DataFrame(
        {
            "image_id": list("abcdef"), "path": [f"{name}.jpg" for name in "abcdef"],
            "pid": range(6), "aspect": "all", "width": [4, 4, 4, 4, 4, 8], "height": 3,
            "caption": ["cup", "ball", "cup", "key", "key", "box"],
            "partition": ["train", "val", "test", "test", "test", "test"],
        }
    )  # fmt: skip
    for name, content in zip("abcdef", [b"1", b"2", b"3", b"1", b"4", b"4"], strict=True):
        (tmp_path / f"{name}.jpg").write_bytes(content)
    data = DataParams(catalogue="captions", root=str(tmp_path))
    split = splits.make(images, data)
    found = traps.report(images, split, data, tmp_path).set_index("trap")
    assert found["count"].to_dict() == {
        "image on both sides": 1,  # d is a
        "doubled files": 2,  # e is f
        "caption on both sides": 1,  # of c
        "shared captions": 2,  # of d and e
        "mixed resolutions": 2,
    }
    assert found["verdict"]["image on both sides"].startswith("INVALID")
    assert "nothing to do" not in set(found["verdict"])
    harmless = images.assign(caption=list("uvwxyz"), width=4).drop(index=[3, 5])
    found = traps.report(harmless, splits.make(harmless, data), data, tmp_path)
    assert found["verdict"].eq("nothing to do").all()
    assert "not checked" in traps.report(harmless, split, data)["finding"][0]


def test_a_split_without_any_query_gets_a_report():
    table = table_of((1, "all", [1, 2]), (2, "all", [3, 4])).drop(columns="file_number")
    data = DataParams(catalogue="folders", root="nowhere", cut="all_train")
    assert rows(table, data, "mirrored hands")["count"].tolist() == [0, 0]
