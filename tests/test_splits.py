import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipfh_lib import files, params
from clipfh_lib.data import catalogues, demo_hands, exports, splits
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams, ExportParams

ASPECTS = ["dorsal_r", "dorsal_l", "palmar_r", "palmar_l"]
CROSSING = [1037, 1039, 1042, 1043, 1046, 1050, 1051]  # ids around the four cuts
PUBLISHED = {  # train people, images, val images, test people, images; MBA-Net's protocol
    "dorsal_r": (72, 890, 72, 71, 1042),
    "dorsal_l": (73, 735, 73, 73, 1061),
    "palmar_r": (72, 905, 72, 71, 988),
    "palmar_l": (76, 928, 76, 75, 1023),
}
WHOLE = {"dorsal_r": 2892, "dorsal_l": 2788, "palmar_r": 2813, "palmar_l": 2583}


def spread(total, people):
    """Image counts that differ from person to person, 2 at least, and have the sum."""
    counts = [2] * people
    for turn in range(total - 2 * people):
        counts[(turn * turn) % people] += 1
    return counts


@pytest.fixture(scope="session")
def handinfo(tmp_path_factory):
    """11,076 placeholder files and a table with the published numbers, of people that are not."""
    root = tmp_path_factory.mktemp("whole")
    (root / "Hands").mkdir()
    low, high = [13 * k for k in range(73)], [1058 + 3 * k for k in range(70)]
    high += [1200000, *(1_000_000 * k for k in range(2, 10))]
    rows = []
    for aspect in ASPECTS:
        train_people, train, val, test_people, test = PUBLISHED[aspect]
        cut = splits.CUTS[aspect]
        near = [pid for pid in CROSSING if pid <= cut]
        far = [pid for pid in CROSSING if pid > cut] if aspect != "palmar_r" else []
        people = low[: train_people - len(near)] + near
        others = far + high[-9:] + high[: test_people - len(far) - 9]
        counts = spread(train + val, train_people) + spread(test, test_people)
        for pid, count in zip(people + others, counts, strict=True):
            rows += [(pid, aspect, 0)] * count
        rows += [(people[0], aspect, 1)] * (WHOLE[aspect] - train - val - test)
    words = {short: long for long, short in catalogues.layouts.ASPECTS.items()}
    lines = ["id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"]
    for number, (pid, aspect, worn) in enumerate(sorted(rows), start=2):
        blank = " " if pid == 1200000 and aspect == "dorsal_r" else ""
        name = f"Hand_{number:07d}.jpg"
        lines.append(f'"{pid:07d}{blank}",20,"female","fair",{worn},0,"{words[aspect]}","{name}",0')
        (root / "Hands" / name).touch()
    assert len(lines) == 11_077
    (root / "HandInfo.csv").write_bytes("".join(line + "\r\n" for line in lines).encode())
    return root


@pytest.fixture(scope="session")
def whole(handinfo):
    return catalogues.read(data_11k(root=str(handinfo))).images


def data_11k(**others):
    return DataParams(**{"catalogue": "hands_11k", "root": "nowhere", **others})


def table_of(counts, aspects=("all",)):
    """An images table: pid -> number of images in each aspect."""
    rows = [
        (f"{aspect}-{pid}-{k}", f"{aspect}/{pid}/{k}.jpg", pid, aspect)
        for aspect in aspects
        for pid, count in counts.items()
        for k in range(count)
    ]
    return pd.DataFrame(rows, columns=["image_id", "path", "pid", "aspect"])


def of(split, role, aspect=None, trial=None, gallery=None):
    rows = split[split["role"] == role]
    for column, value in [("test_aspect", aspect), ("trial", trial), ("gallery", gallery)]:
        rows = rows if value is None else rows[rows[column] == value]
    return rows


def folders_of(images, split, root, target):
    """The split as folders at the target, which are linked to the files below the root."""
    nothing = images[:0]
    data = splits.Prepared(target, root, images, split, nothing, [], splits.sha256(split), False)
    return exports.write(data, ExportParams(folder=str(target)))


def back(root, **others):
    """The split that folders are."""
    data = DataParams(catalogue="split_folders", root=str(root), **others)
    found = catalogues.read(data)
    return splits.given(found.split, found.images, data)[0]


# --- the published protocol ----------------------------------------------------------------------


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_whole_table_splits_into_the_published_counts(whole, aspect):
    split = splits.make(whole, data_11k(aspects=[aspect], val="published"))
    train_people, train, val, test_people, test = PUBLISHED[aspect]
    assert (of(split, "train")["pid"].nunique(), len(of(split, "train"))) == (train_people, train)
    assert (of(split, "val")["pid"].nunique(), len(of(split, "val"))) == (train_people, val)
    for trial in range(10):
        query = of(split, "query", aspect, trial)
        gallery = of(split, "gallery", aspect, trial, "same_aspect")
        assert (len(query), len(gallery)) == (test - test_people, test_people)
        assert set(query["pid"]) == set(gallery["pid"]) and gallery["pid"].is_unique
        assert not set(query["image_id"]) & set(gallery["image_id"])
        everybody = of(split, "gallery", aspect, trial, "all_aspects")
        assert len(everybody) == 290 and everybody["pid"].is_unique
        assert everybody["pid"].isin(query["pid"]).sum() == test_people
    trained = {*of(split, "train")["pid"], *of(split, "val")["pid"]}
    assert not trained & set(of(split, "query")["pid"])
    assert max(trained) == splits.CUTS[aspect] < min(of(split, "query")["pid"])
    draws = {tuple(of(split, "gallery", aspect, t, "same_aspect")["image_id"]) for t in range(10)}
    assert len(draws) == 10


def test_first_half_of_the_whole_table_is_the_published_cut(whole):
    for aspect in ASPECTS:
        cuts = [data_11k(aspects=[aspect], cut=cut) for cut in ("published", "first_half")]
        pd.testing.assert_frame_equal(*(splits.make(whole, data) for data in cuts))


@pytest.mark.parametrize(
    "aspect, steps",
    [
        ("dorsal_r", {"dorsal_l": 11, "palmar_r": 21, "palmar_l": 31}),
        ("dorsal_l", {"dorsal_r": 11, "palmar_r": 21, "palmar_l": 31}),
        ("palmar_r", {"dorsal_l": 11, "dorsal_r": 21, "palmar_l": 31}),
        ("palmar_l", {"palmar_r": 11, "dorsal_r": 21, "dorsal_l": 31}),
    ],
)
def test_people_of_other_aspects_get_the_published_steps_and_own_come_first(whole, aspect, steps):
    alone = {a: splits.make(whole, data_11k(aspects=[a])) for a in ASPECTS}
    wide = of(alone[aspect], "gallery", aspect, 4, "all_aspects")
    assert wide["aspect"].drop_duplicates().tolist() == [aspect, *steps]
    for other, step in (steps | {aspect: 0}).items():
        theirs = of(alone[other], "gallery", other, 4, "same_aspect")
        mine = wide[wide["aspect"] == other]
        assert mine["image_id"].tolist() == theirs["image_id"].tolist()  # that aspect's own draw
        assert mine["pid"].tolist() == (theirs["pid"] + step * 1_000_000).tolist()
        assert mine["distractor"].eq(other != aspect).all()


def test_together_the_aspects_test_the_same_people_and_train_none_of_them(whole):
    together = splits.make(whole, data_11k(val="published"))
    for aspect in ASPECTS:
        alone = splits.make(whole, data_11k(aspects=[aspect]))
        for role in ("query", "gallery"):
            left, right = (of(s, role, aspect).reset_index(drop=True) for s in (together, alone))
            pd.testing.assert_frame_equal(left, right)
    trained = {*of(together, "train")["pid"], *of(together, "val")["pid"]}
    assert not trained & set(of(together, "query")["pid"])
    published = {pid for a in ASPECTS for pid in splits.sides(whole, data_11k())[a][0]}
    assert published - trained == {1039, 1042, 1043, 1046, 1050, 1051}
    val = of(together, "val").groupby(["pid", "aspect"]).size()
    assert (val == 1).all() and len(val) == len(of(together, "train").groupby(["pid", "aspect"]))


def test_the_gallery_image_is_the_one_of_the_lowest_hash(whole):
    split = splits.make(whole, data_11k(aspects=["palmar_l"], split_seed=3))
    test = whole[(whole["aspect"] == "palmar_l") & (whole["pid"] > 1042)]
    test = test[test["accessories"] == 0]
    for trial in (0, 9):
        drawn = {
            min(own, key=lambda i: hashlib.sha256(f"3/palmar_l/{trial}/{i}".encode()).hexdigest())
            for _, own in test.groupby("pid")["image_id"]
        }
        assert drawn == set(of(split, "gallery", "palmar_l", trial, "same_aspect")["image_id"])


def test_the_published_val_image_is_the_one_of_the_lowest_hash(whole):
    split = splits.make(whole, data_11k(aspects=["dorsal_l"], val="published", split_seed=2))
    val = set(of(split, "val")["image_id"])
    for _, own in split[split["role"].isin(["train", "val"])].groupby("pid"):
        ids = own["image_id"]
        lowest = min(ids, key=lambda i: hashlib.sha256(f"2/dorsal_l/val/{i}".encode()).hexdigest())
        assert val & set(ids) == {lowest}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_exported_folders_have_the_published_counts_and_come_back(
    whole, handinfo, aspect, tmp_path
):
    split = splits.make(whole, data_11k(aspects=[aspect], val="published"))
    folders_of(whole, split, handinfo, tmp_path / "out")
    train_people, train, val, test_people, test = PUBLISHED[aspect]
    counts = {"train": (train_people, train), "val": (train_people, val)}
    counts["train_all"] = train_people, train + val
    for trial in range(10):
        counts[f"query{trial}"] = test_people, test - test_people
        counts[f"gallery{trial}"] = test_people, test_people
        counts[f"gallery{trial}_all"] = 290, 290
    found = {
        part.name: (len(list(part.iterdir())), len(list(part.glob("*/*.jpg"))))
        for part in (tmp_path / "out" / aspect).iterdir()
    }
    assert found == counts
    pd.testing.assert_frame_equal(back(tmp_path / "out" / aspect, aspects=[aspect]), split)


PINNED = {  # of the drawn table; a change here changes every result and needs a line in CHANGELOG
    ("dorsal_r",): "2e68cba753d25bd56f58663ebd84ab2723460fcac4f3d67992f055a475c4154d",
    tuple(ASPECTS): "bece672e40ed0ae09bbd5412e39caacaaba06f5e71a2fdf18e4b1994e5fa4399",
}


@pytest.mark.parametrize("aspects", PINNED, ids=len)
def test_the_manifest_has_the_pinned_hash_whatever_the_order_of_the_table(whole, aspects):
    shuffled = whole.sample(frac=1, random_state=0)
    assert splits.sha256(splits.make(shuffled, data_11k(aspects=aspects))) == PINNED[aspects]


def test_held_out_people_are_a_fifth_of_train_with_all_their_images(whole):
    published = splits.make(whole, data_11k(aspects=["dorsal_r"], val="published"))
    held_out = splits.make(whole, data_11k(aspects=["dorsal_r"]))
    val, train = of(held_out, "val"), of(held_out, "train")
    assert (val["pid"].nunique(), train["pid"].nunique()) == (14, 58)  # 20 % of 72
    assert not set(val["pid"]) & set(train["pid"])
    both = of(published, "val")["image_id"].tolist() + of(published, "train")["image_id"].tolist()
    assert sorted(both) == sorted([*val["image_id"], *train["image_id"]])
    order = sorted(
        {*val["pid"], *train["pid"]}, key=lambda p: hashlib.sha256(f"0/val/{p}".encode()).digest()
    )
    assert set(order[:14]) == set(val["pid"])


@pytest.mark.parametrize("people, held_out", [(12, 5), (30, 6), (8, 4), (3, 1), (1, 0)])
def test_of_few_train_people_five_are_held_out_but_never_more_than_half(people, held_out):
    table = table_of(dict.fromkeys(range(people), 2))
    split = splits.make(table, DataParams(catalogue="folders", cut="all_train"))
    assert of(split, "val")["pid"].nunique() == held_out
    assert of(split, "train")["pid"].nunique() == people - held_out


def test_a_changed_whole_table_is_refused_with_the_counts(handinfo, tmp_path):
    (tmp_path / "Hands").symlink_to(handinfo / "Hands")
    text = (handinfo / "HandInfo.csv").read_bytes()
    (tmp_path / "HandInfo.csv").write_bytes(text.replace(b'"0001058"', b'"0000013"'))
    with pytest.raises(
        InputError, match=r"dorsal_r .*found \(2892, 2004, 142\), published .*143\)"
    ):
        catalogues.read(data_11k(root=str(tmp_path)))


# --- HD, folders, and choices --------------------------------------------------------------------


@pytest.fixture(scope="module")
def hd():
    people = {pid: 9 + (pid <= 148) for pid in range(197, 448)}
    people |= dict(zip(range(448, 699), [9] * 235 + [8] * 16, strict=True))
    table = table_of(people).assign(distractor=False)
    crowd = table_of({1502 + k: 6 + (k < 64) for k in range(213)}).assign(distractor=True)
    return pd.concat([table, crowd], ignore_index=True)


def test_hd_has_the_published_queries_and_gallery(hd):
    split = splits.make(hd, DataParams(catalogue="hd", val="published"))
    for trial in range(10):
        query, gallery = (of(split, role, "all", trial) for role in ("query", "gallery"))
        assert (len(query), len(gallery)) == (1992, 1593)
        assert (query["pid"].nunique(), gallery["pid"].nunique()) == (251, 464)
        assert gallery["distractor"].sum() == 1342 and set(gallery["gallery"]) == {"default"}
        assert set(gallery.loc[gallery["distractor"], "pid"]) == set(range(1502, 1715))
    assert of(split, "train")["pid"].nunique() == len(of(split, "val")) == 251
    assert not of(split, "train")["pid"].ge(448).any()


def test_a_drawn_hd_set_at_full_numbers_has_the_published_structure(tmp_path):
    counts = [9 + (k < 148) for k in range(251)] + [8 + (k < 235) for k in range(251)]
    counts += [6 + (k < 64) for k in range(213)]
    demo_hands.write_hd(tmp_path / "hd", 502, 213, counts, size=32, seed=0, workers=2)
    data = DataParams(catalogue="hd", root=str(tmp_path / "hd"), val="published")
    found = catalogues.read(data)
    table = found.images
    assert (len(table), table["pid"].nunique(), len(found.set_aside)) == (5992, 715, 0)
    people = table.loc[~table["distractor"], "pid"]
    low = sorted(set(people[people <= 447]))
    assert (len(low), people.nunique()) == (251, 502) and low[-1] - low[0] > 250  # with gaps
    assert ((people <= 447).sum(), (people > 447).sum()) == (2407, 2243)
    assert set(table.loc[table["distractor"], "pid"]) == set(range(1502, 1715))
    split = splits.make(table, data)
    assert (len(of(split, "train")), len(of(split, "val"))) == (2156, 251)
    assert of(split, "train")["pid"].nunique() == of(split, "val")["pid"].nunique() == 251
    tested = split[split["role"].isin(["query", "gallery"]) & ~split["distractor"]]
    assert (tested["image_id"].nunique(), tested["pid"].nunique()) == (2243, 251)
    assert sorted(split["trial"].dropna().unique()) == list(range(10))
    for trial in range(10):
        query, gallery = (of(split, role, "all", trial) for role in ("query", "gallery"))
        assert (len(query), query["pid"].nunique()) == (1992, 251)
        assert (len(gallery), gallery["pid"].nunique()) == (1593, 464)
        assert (gallery["distractor"].sum(), (~gallery["distractor"]).sum()) == (1342, 251)
        assert not set(gallery["image_id"]) & set(query["image_id"])
    with Image.open(tmp_path / "hd" / table["path"].iloc[-1]) as image:
        assert image.size == (32, 24)
    counted = folders_of(table, split, tmp_path / "hd", tmp_path / "out").set_index("folder")
    assert counted.loc["gallery9", ["people", "images"]].tolist() == [464, 1593]
    again = back(tmp_path / "out" / "all", val="published")
    ids = split["image_id"].str.rpartition("/")[2]
    order = ["role", "trial", "pid", "image_id"]
    same = (
        each.sort_values(order, ignore_index=True) for each in (again, split.assign(image_id=ids))
    )
    pd.testing.assert_frame_equal(*same, check_dtype=False)


def test_folders_have_no_published_cut_but_the_others():
    table = table_of({4: 3, 7: 2, 9: 3})
    with pytest.raises(InputError, match="choose first_half, none or all_train"):
        splits.make(table, DataParams(catalogue="folders"))
    tested = {}
    for cut in ("first_half", "none", "all_train"):
        split = splits.make(table, DataParams(catalogue="folders", cut=cut))
        tested[cut] = set(of(split, "query")["pid"])
        assert {*of(split, "train")["pid"], *of(split, "val")["pid"]} == {4, 7, 9} - tested[cut]
    assert tested == {"first_half": {9}, "none": {4, 7, 9}, "all_train": set()}


def test_rest_makes_one_query_of_each_person_and_a_gallery_of_the_others():
    table = table_of({1: 1, 2: 2, 3: 5})
    one, rest = (
        splits.make(table, DataParams(catalogue="folders", cut="none", gallery=gallery))
        for gallery in ("one", "rest")
    )
    for trial in range(10):
        query = of(rest, "query", "all", trial)
        assert query["pid"].tolist() == [2, 3]
        assert of(rest, "gallery", "all", trial)["pid"].tolist() == [1, 2, 3, 3, 3, 3]
        drawn = of(one, "gallery", "all", trial)
        assert set(query["image_id"]) == set(drawn.loc[drawn["pid"] > 1, "image_id"])


def test_people_with_one_image_are_gallery_without_query_or_train_without_val():
    table = table_of({1: 1, 2: 3, 3: 1, 4: 3})
    split = splits.make(table, DataParams(catalogue="folders", cut="first_half", val="published"))
    assert set(of(split, "val")["pid"]) == {2} and set(of(split, "train")["pid"]) == {1, 2}
    gallery = of(split, "gallery", trial=0)
    assert gallery.set_index("pid")["distractor"].to_dict() == {3: True, 4: False}
    assert set(of(split, "query")["pid"]) == {4}


def test_images_with_accessories_take_no_part():
    table = table_of({1: 4, 2: 4}, ["dorsal_r"]).assign(accessories=[0, 0, 0, 1] * 2)
    split = splits.make(table, data_11k(cut="none"))
    assert not set(split["image_id"]) & set(table.loc[table["accessories"] == 1, "image_id"])
    assert split["image_id"].nunique() == 6


def test_aspects_chooses_what_is_tested_and_others_stay_in_the_wide_gallery():
    table = table_of({2000: 3, 2001: 3}, ASPECTS)
    split = splits.make(table, data_11k(aspects=["palmar_r", "dorsal_l"]))
    assert set(split["test_aspect"]) == {"dorsal_l", "palmar_r"}
    assert len(of(split, "gallery", "dorsal_l", 0, "all_aspects")) == 8
    with pytest.raises(InputError, match="no image of palmar_l"):
        splits.make(table[table["aspect"] != "palmar_l"], data_11k(aspects=["palmar_l"]))


def of_prepared(table, data, tmp_path):
    split = splits.make(table, data)
    return splits.Prepared(tmp_path, tmp_path, table, split, table[:0], [], "", False)


def test_texts_search_only_tested_aspects_and_nobody_who_trains(tmp_path):
    table = table_of({1040: 3, 1045: 3, 2000: 3, 2001: 3}, ASPECTS).iloc[::-1]
    found = of_prepared(table, data_11k(aspects=["dorsal_r"], val="published"), tmp_path)
    trained = {*found.train["pid"], *found.val["pid"]}
    assert trained == {1040, 1045} <= set(found.test["pid"])  # by their other aspects
    assert not trained & set(found.searched["pid"])
    right = table["aspect"].eq("dorsal_r") & table["pid"].isin([2000, 2001])
    pd.testing.assert_frame_equal(found.searched, table[right].reset_index(drop=True))


def test_with_all_aspects_texts_search_every_test_image(tmp_path):
    table = table_of({900: 2, 901: 2, 2000: 3, 2001: 3}, ASPECTS)
    found = of_prepared(table, data_11k(), tmp_path)
    assert len(found.searched) == 24
    pd.testing.assert_frame_equal(found.searched, found.test)
    crowd = table_of({1: 2, 2: 2, 448: 2, 449: 2, 1502: 1}).assign(distractor=[False] * 8 + [True])
    hd = of_prepared(crowd, DataParams(catalogue="hd", root="nowhere"), tmp_path)
    assert set(hd.searched["pid"]) == {448, 449, 1502}
    pd.testing.assert_frame_equal(hd.searched, hd.test)


def test_of_a_captions_set_texts_search_the_images_that_it_calls_test(tmp_path):
    table = table_of({number: 1 for number in range(9)})
    table["partition"] = ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    data = DataParams(catalogue="captions", root="nowhere")
    found = of_prepared(table, data, tmp_path)
    assert found.searched["pid"].tolist() == [6, 7, 8]
    pd.testing.assert_frame_equal(found.searched, found.test)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.drop(columns="pid"), "columns pid are missing"),
        (lambda t: t.iloc[:0], "no image is left"),
        (lambda t: t.assign(image_id="a"), "image_id 'a' stands twice"),
        (lambda t: t.assign(pid=t["pid"].astype(str)), "pid must be whole numbers"),
        (lambda t: t.assign(pid=-1), "pid must be whole numbers"),
        (lambda t: t.assign(accessories=0.5), "accessories must be whole"),
        (lambda t: t.assign(aspect="left"), "aspects .*left"),
        (lambda t: t.assign(aspect=["all", "dorsal_r"] * 4), "aspects .*all.*dorsal_r"),
        (lambda t: t.assign(pid=11_000_001, aspect="dorsal_r"), "meets those of other aspects"),
        (lambda t: t.assign(distractor=[True, False] * 4), "is a distractor and is not"),
    ],
)
def test_a_table_that_cannot_be_split_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        splits.check_table(change(table_of({1: 4, 2: 4})))


@pytest.mark.parametrize("counts, cut", [({1: 3, 2: 3}, "published"), ({2000: 1}, "none")])
def test_a_split_without_any_query_is_refused(counts, cut):
    with pytest.raises(InputError, match=f"no test person has two images .* data.cut {cut}"):
        splits.make(table_of(counts, ["dorsal_r"]), data_11k(cut=cut))


# --- what holds for every table ------------------------------------------------------------------

tables = st.builds(
    table_of,
    st.dictionaries(st.integers(900, 1200), st.integers(1, 4), min_size=2, max_size=8),
    st.lists(st.sampled_from(ASPECTS), min_size=1, max_size=4, unique=True),
)
choices = st.fixed_dictionaries(
    {
        "cut": st.sampled_from(["published", "first_half", "none"]),
        "val": st.sampled_from(["held_out", "published"]),
        "gallery": st.sampled_from(["one", "rest"]),
        "trials": st.integers(1, 3),
        "split_seed": st.integers(0, 99),
    }
)


def made(table, **others):
    """The split; a table in which nobody can be searched for is not looked at."""
    try:
        return splits.make(table, data_11k(**others))
    except InputError as error:
        assert "no test person has two images" in str(error)
        assume(False)


@settings(max_examples=40, deadline=None)
@given(table=tables, chosen=choices)
def test_every_split_keeps_people_and_images_apart(table, chosen):
    split = made(table, **chosen)
    pids = table.set_index("image_id")["pid"]
    split["person"] = split["image_id"].map(pids)
    trained = split["role"].isin(["train", "val"])
    assert not set(split.loc[trained, "person"]) & set(of(split, "query")["person"])
    assert not split[trained]["image_id"].duplicated().any()
    for _, trial in split[~trained].groupby(["test_aspect", "trial"]):
        own = trial[trial["aspect"] == trial["test_aspect"]]
        queries = of(own, "query")
        gallery = of(own, "gallery", gallery="same_aspect")
        assert not set(queries["image_id"]) & set(gallery["image_id"])
        assert set(queries["pid"]) <= set(gallery["pid"])  # each query can be found
        assert (gallery["distractor"] == ~gallery["pid"].isin(queries["pid"])).all()
        single = gallery if chosen["gallery"] == "one" else queries
        assert single["pid"].is_unique
        halves = splits.sides(table, data_11k(**chosen))[own["aspect"].iloc[0]]
        assert set(gallery["pid"]) == set(halves[1])
        mine = table[(table["aspect"] == own["aspect"].iloc[0]) & table["pid"].isin(halves[1])]
        assert sorted([*queries["image_id"], *gallery["image_id"]]) == sorted(mine["image_id"])


@settings(max_examples=30, deadline=None)
@given(table=tables, chosen=choices, stranger=st.integers(1, 2000), images=st.integers(1, 4))
def test_a_stranger_changes_nobody_elses_draws(table, chosen, stranger, images):
    chosen["cut"] = "none"
    assume(stranger not in set(table["pid"]))
    aspect = table["aspect"].iloc[0]
    more = pd.concat([table_of({stranger: images}, [aspect]), table], ignore_index=True)
    before, after = made(table, **chosen), made(more, **chosen)
    theirs = set(table["image_id"])
    after = after[after["image_id"].isin(theirs)].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, after)


@settings(max_examples=30, deadline=None)
@given(table=tables, chosen=choices)
def test_a_manifest_comes_back_from_its_csv_file_as_it_was(table, chosen, tmp_path_factory):
    table["image_id"] = table["image_id"].radd("=")  # a name that a spreadsheet would run
    split = made(table, **chosen)
    path = tmp_path_factory.mktemp("split") / "split.csv"
    files.write_csv(path, split)
    assert "\n'=" in path.read_text()
    pd.testing.assert_frame_equal(splits.read(path), split)
    assert splits.sha256(splits.read(path)) == splits.sha256(split) == files.sha256(path)


@settings(max_examples=15, deadline=None)
@given(table=tables, chosen=choices)
def test_every_split_comes_back_from_its_folders_as_it_was(table, chosen, tmp_path_factory):
    table = table.assign(path=table["image_id"] + ".jpg")
    split = made(table, **chosen)
    root = tmp_path_factory.mktemp("there")
    (root / "photographs").mkdir()
    for path in table["path"]:
        (root / "photographs" / path).touch()
    folders_of(table, split, root / "photographs", root / "out")
    for aspect in split["test_aspect"].dropna().unique():
        own = split["test_aspect"].eq(aspect)
        own |= split["test_aspect"].isna() & split["aspect"].eq(aspect)
        theirs = back(root / "out" / aspect, aspects=[aspect])
        pd.testing.assert_frame_equal(theirs, split[own].reset_index(drop=True))


# --- prepared on disk ----------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """Folders of ten people with names that a table may confuse, one broken picture among them."""
    root = tmp_path / "photographs"
    noise = np.random.default_rng(0)
    for name, number in itertools.product(["NA", "0012", "-x", "=y", "3", "null"], range(3)):
        (root / name).mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / "3" / "broken.jpg").write_text("<html>no picture</html>")
    return root


def prepare(root, outputs, **overrides):
    overrides = {f"data.{key}": value for key, value in overrides.items()}
    overrides |= {"data.root": str(root)}
    p = params.load("prepare_data", "folders", overrides=overrides)
    return splits.prepare(p, outputs)


def test_prepare_writes_tables_that_come_back_as_they_were(photographs, tmp_path):
    first = prepare(photographs, tmp_path / "out")
    assert first.set_aside["path"].tolist() == ["3/broken.jpg"]
    assert "no image of a kind" in first.set_aside["reason"][0]
    assert "1 images cannot be read" in first.notes[-1]
    names = first.images.drop_duplicates("pid").set_index("pid")["pid_name"].to_dict()
    assert names == {3: "", 12: "", 13: "-x", 14: "=y", 15: "NA", 16: "null"}
    assert set(zip(first.images["width"], first.images["height"], strict=True)) == {(8, 6)}
    assert all((first.root / path).is_file() for path in first.images["path"])
    assert first.sha256 == files.sha256(first.folder / "split.csv") == splits.sha256(first.split)
    assert not first.limited and prepare(photographs, tmp_path / "o", limit={"people": 4}).limited
    pd.testing.assert_frame_equal(first.split, splits.make(first.images, first_params(photographs)))


def first_params(root):
    return DataParams(catalogue="folders", cut="first_half", root=str(root))


def test_train_val_and_test_are_each_image_once_in_order(photographs, tmp_path):
    found = prepare(photographs, tmp_path / "out")
    assert set(found.train["pid"]) | set(found.val["pid"]) == {3, 12, 13}
    assert set(found.test["pid"]) == {14, 15, 16} and len(found.test) == 9
    for part in (found.train, found.val, found.test):
        assert part["image_id"].is_monotonic_increasing and part["image_id"].is_unique
        assert "width" in part


def test_prepare_reads_what_is_there_and_makes_it_again_when_something_changed(
    photographs, tmp_path
):
    def age():
        return (found.folder / "split.csv").stat().st_mtime_ns

    found = prepare(photographs, tmp_path / "out")
    made_at = age()
    (photographs / "3" / "0.png").touch()
    again = prepare(photographs, tmp_path / "out")
    assert age() == made_at and again.sha256 == found.sha256
    pd.testing.assert_frame_equal(again.images, found.images)
    flip = bytearray((found.folder / "images.csv").read_bytes())
    flip[40] ^= 1  # one bit
    (found.folder / "images.csv").write_bytes(flip)
    pd.testing.assert_frame_equal(prepare(photographs, tmp_path / "out").images, found.images)
    made_again = age()
    assert made_again != made_at
    (photographs / "null" / "2.png").unlink()
    smaller = prepare(photographs, tmp_path / "out")
    assert smaller.sha256 != found.sha256 and len(smaller.test) == 8


def test_a_damaged_prepared_json_is_made_again(photographs, tmp_path):
    found = prepare(photographs, tmp_path / "out")
    for text in ("", "[]", "{", json.dumps({"key": "x"})):
        (found.folder / "prepared.json").write_text(text)
        assert prepare(photographs, tmp_path / "out").sha256 == found.sha256
        assert "split.csv" in Path(found.folder / "prepared.json").read_text()


def test_a_limited_run_by_the_published_cut_still_has_people_on_both_sides():
    pids = list(range(1000, 1100))  # the published cut of dorsal right lies at 1050
    assert {pid <= 1050 for pid in catalogues._spread(pd.Series(pids), 20)} == {True, False}
    assert catalogues._spread(pd.Series([3, 3, 7]), 5).tolist() == [3, 7]
