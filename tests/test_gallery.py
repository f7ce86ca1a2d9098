"""Who is enrolled stands in one file, whole or not at all; who is removed leaves nothing there."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_gallery
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_gallery import NAMES

from clipfh_lib import files
from clipfh_lib.data import splits
from clipfh_lib.files import InputError
from clipfh_lib.schema import EmbedParams
from clipfh_lib.studies import gallery
from clipfh_lib.study import EnrolParams


def plain(found):
    return found.embeddings.tobytes(), found.table.to_dict("list"), found.made_by, found.threshold


# --- the file ----------------------------------------------------------------------------------


def test_a_gallery_comes_back_to_the_bit_and_holds_no_pixels(tmp_path):
    made, model = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    again = gallery.read(path, model)
    assert plain(again) == plain(made)
    assert again.settings == {"params": {}, "outputs": "o"}
    np.testing.assert_allclose(np.linalg.norm(again.embeddings, axis=1), 1, atol=1e-6)
    with safe_open(path, "np") as file:
        assert list(file.keys()) == ["embeddings"]
        assert file.get_tensor("embeddings").shape == (9, 32)
    assert path.stat().st_size < 9 * 32 * 4 + 3000  # a picture at the model's size has 6,912 bytes
    assert again.people == sorted(NAMES)
    assert again.first.tolist() == [0, 3, 6]


def test_embeddings_are_the_encoder_s_and_no_cache_knows_the_people(tmp_path, project):
    import torch
    from PIL import Image

    made, model = tiny_gallery.enrolled(tmp_path)
    assert not list((project / "outputs").rglob("*.safetensors"))
    assert not list((project / "outputs").rglob("pixels.npy"))
    row = made.table["image"].tolist().index("1051/1051 at 2.png")
    picture = Image.open(tmp_path / "people/1051/1051 at 2.png").resize((64, 48), 3)
    pixels = torch.from_numpy(np.array(picture)[:, 8:56].copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in model.preprocess[3:])
    with torch.no_grad():
        vector = model.network.encode_image((pixels - mean) / std)[0].numpy()
    np.testing.assert_allclose(made.embeddings[row], vector / np.linalg.norm(vector), atol=1e-5)


def test_a_removed_person_leaves_nothing_behind(tmp_path):
    made, _ = tiny_gallery.enrolled(tmp_path)
    folder = tmp_path / "kept"
    path = gallery.write(made, folder / "g.safetensors")
    who = made.table["person"] == "Annegret Ünlü"
    vectors = made.embeddings[who.to_numpy()]
    before = path.read_bytes()
    assert all(vector.tobytes() in before for vector in vectors)
    assert "Annegret Ünlü".encode() in before and b"1051 at 0" in before
    gone = gallery.of_people(made, "Annegret Ünlü")
    assert len(gallery.traces(path, gone)) == 1 + 3 + 3
    left = gallery.remove(path, "Annegret Ünlü")
    after = path.read_bytes()
    for vector in vectors:
        assert vector.tobytes() not in after
        for start in range(0, 128, 8):  # nor any piece of one
            assert vector.tobytes()[start : start + 8] not in after
    for word in ("Annegret", "Ünlü", "nl\\u00fc"):
        assert word.encode() not in after
    assert gallery.traces(path, gone) == []
    assert [entry.name for entry in folder.iterdir()] == ["g.safetensors"]
    assert left.people == gallery.read(path).people == ["1051", "zoë-3"]
    np.testing.assert_array_equal(left.embeddings, made.embeddings[~who.to_numpy()])
    for name in ("1051", "zoë-3"):
        left = gallery.remove(path, name)
    assert left.people == gallery.read(path).people == [] and left.embeddings.shape == (0, 32)


@pytest.mark.parametrize("change", ["remove", "add"])
def test_a_gallery_that_was_changed_is_not_enrolled_over(tmp_path, change):
    made, _ = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    gallery.write(made, path)  # as it was enrolled: once more is the same
    if change == "remove":
        gallery.remove(path, "1051")
    else:
        gallery.add(path, gallery.of_people(made, "1051"))
    before = path.read_bytes()
    for again in (lambda: gallery.write(made, path), lambda: gallery.unchanged(path)):
        with pytest.raises(InputError, match="g.safetensors is kept: .*delete the file") as error:
            again()
        assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    path.unlink()
    assert gallery.read(gallery.write(made, path)).people == made.people
    path.write_bytes(b"damaged")
    assert gallery.read(gallery.write(made, path)).people == made.people


@pytest.mark.parametrize("change", ["remove", "add", "write"])
def test_what_a_killed_program_left_beside_the_file_goes_with_the_next_change(tmp_path, change):
    made, _ = tiny_gallery.enrolled(tmp_path)
    folder = tmp_path / "kept"
    path = gallery.write(made, folder / "g.safetensors")
    (folder / ".writing-table.csv").write_text("of somebody else")
    child = os.fork()
    if not child:  # killed between writing and moving into place
        files.os.replace = lambda *_: os._exit(9)
        gallery.remove(path, "1051")
    assert os.waitpid(child, 0)[1]
    (left,) = folder.glob(".writing-*.safetensors")
    gone = gallery.of_people(made, "zoë-3")
    assert gallery.traces(path, gone)
    path.write_bytes(gallery.write(gallery.removed(made, "zoë-3"), tmp_path / "h.st").read_bytes())
    assert len(gallery.traces(path, gone)) == 1 + 3 + 3, "in the left-over alone"
    more = gallery.of_people(made, "Annegret Ünlü")
    if change == "remove":
        gallery.remove(path, "1051")
    elif change == "add":
        gallery.add(path, more)
    else:
        gallery.write(more, path)
    assert not left.exists() and gallery.traces(path, gone) == []
    assert sorted(os.listdir(folder)) == [".writing-table.csv", "g.safetensors"]


def test_who_is_added_stands_among_the_others_and_newer_images_replace_older(tmp_path):
    made, model = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    for name, seed in (("1051 at 2", 8), ("1051 at 7", 9)):  # the first is known by its name
        tiny_gallery.photograph(tmp_path / f"more/1051/{name}.png", seed)
    tiny_gallery.photograph(tmp_path / "more/bert/b.png", 10)
    newer = gallery.of_folder(tmp_path / "more")
    more = gallery.enrol(newer, model, {}, tiny_gallery.LIMIT).gallery
    found = gallery.add(path, more)
    assert plain(gallery.read(path)) == plain(found)
    assert found.people == sorted([*NAMES, "bert"])
    assert len(found.table) == 9 + 2 and found.first.tolist() == [0, 4, 7, 8]
    for source in (more, made):
        for image, vector in zip(source.table["image"], source.embeddings, strict=True):
            row = found.table["image"].tolist().index(image)
            newest = source is more or image != "1051/1051 at 2.png"
            assert (found.embeddings[row] == vector).all() == newest
    assert found.settings == made.settings and found.threshold == made.threshold


def test_a_gallery_of_another_model_is_refused_by_what_differs(tmp_path):
    made, model = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    others = {
        "weights: ": tiny_gallery.model(tmp_path, seed=1),
        "flip: none there, add here": tiny_gallery.model(tmp_path, embed=EmbedParams(flip="add")),
        "precision: 32 there, bf16": tiny_gallery.model(
            tmp_path, embed=EmbedParams(precision="bf16")
        ),
        "resize: clip there, squash": tiny_gallery.model(tmp_path, resize="squash"),
        "preprocess: .*48, 48": tiny_gallery.model(tmp_path, name="other", size=56),
    }
    assert len({one.sha256 for one in [model, *others.values()]}) == 6
    for said, other in others.items():
        with pytest.raises(InputError, match=rf"of another model \(.*{said}.*enrol") as error:
            gallery.read(path, other)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match="another model"):
            gallery.added(made, made.__class__(**{**vars(made), "made_by": other.made_by}))
    assert gallery.read(path, tiny_gallery.model(tmp_path)).people == made.people


def test_what_is_no_gallery_or_was_changed_is_refused_in_one_line(tmp_path):
    made, _ = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    good = path.read_bytes()
    with pytest.raises(InputError, match="no such gallery; enrol"):
        gallery.read(tmp_path / "none.safetensors")
    spoilt = {
        "cut": good[:-40],
        "text": b"no gallery",
        "empty": b"",
        "name": good.replace(b"1051 at 0", b"1051 at 5"),
        "vector": good[:-1] + bytes([good[-1] ^ 1]),
    }
    for content in spoilt.values():
        path.write_bytes(content)
        with pytest.raises(InputError, match="no gallery of ours, or damaged") as error:
            gallery.read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    save_file({"embeddings": made.embeddings}, path)
    with pytest.raises(InputError, match="no gallery of ours"):
        gallery.read(path)


def test_a_full_disk_keeps_the_older_gallery(tmp_path, monkeypatch):
    made, _ = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "kept" / "g.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match="cannot be written .No space left"):
        gallery.remove(path, "1051")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["g.safetensors"]


def test_two_processes_that_remove_at_once_both_do(tmp_path, project):
    path = gallery.write(
        tiny_gallery.of_vectors(np.eye(12), [f"p{n:02d}" for n in range(12)]), tmp_path / "g.st"
    )
    children = []
    for start in (0, 1):
        if child := os.fork():
            children.append(child)
            continue
        for number in range(start, 10, 2):
            gallery.remove(path, f"p{number:02d}")
        os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert gallery.read(path).people == ["p10", "p11"]


def test_who_is_not_enrolled_cannot_be_removed(tmp_path):
    made, _ = tiny_gallery.enrolled(tmp_path)
    with pytest.raises(InputError, match="'1052' is not enrolled; nearest: 1051"):
        gallery.removed(made, "1052")


# --- whom to enrol -------------------------------------------------------------------------------


def test_a_broken_image_is_named_and_set_aside(tmp_path):
    people = tiny_gallery.people(tmp_path / "people")
    (tmp_path / "people/zoë-3/zoë-3 at 1.png").write_bytes(b"no picture")
    model = tiny_gallery.model(tmp_path)
    made, aside = gallery.enrol(people, model, {}, tiny_gallery.LIMIT)
    assert aside["path"].tolist() == ["zoë-3/zoë-3 at 1.png"]
    assert aside["reason"].str.startswith("no image of a kind that is read").all()
    kept = people.table[people.table["path"] != "zoë-3/zoë-3 at 1.png"].reset_index(drop=True)
    assert made.table["image"].tolist() == kept["path"].tolist()
    others = gallery.enrol(people._replace(table=kept), model, {}, made.threshold).gallery
    np.testing.assert_allclose(others.embeddings, made.embeddings, atol=1e-6)
    for path in (tmp_path / "people").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 9 images can be read, first: 1051/1051 at 0.png"):
        gallery.enrol(people, model, {}, tiny_gallery.LIMIT)


def test_a_table_of_people_is_read_from_its_own_folder(tmp_path):
    tiny_gallery.people(tmp_path / "photos")
    rows = [
        "path,pid,note",
        "photos/1051/1051 at 0.png,7,x",
        "photos/zoë-3/zoë-3 at 0.png,Zoë,",
        "photos/zoë-3/zoë-3 at 1.png,Zoë,",
        "photos/zoë-3/zoë-3 at 1.png,Zoë,",  # twice
        "photos/Annegret Ünlü/Annegret Ünlü at 0.png,,",  # of nobody
        "photos/1051/1051 at 1.png,7,",
        "photos/1051/1051 at 1.png,8,",  # of two people
        "../elsewhere.png,9,",
    ]
    (tmp_path / "people.csv").write_text("\n".join(rows), encoding="utf-8")
    found = gallery.of_table(tmp_path / "people.csv")
    assert found.root == tmp_path
    assert found.table[["person", "path"]].to_numpy().tolist() == [
        ["7", "photos/1051/1051 at 0.png"],
        ["9", "../elsewhere.png"],
        ["Zoë", "photos/zoë-3/zoë-3 at 0.png"],
        ["Zoë", "photos/zoë-3/zoë-3 at 1.png"],
    ]
    assert sorted(zip(found.aside["row"], found.aside["reason"], strict=True)) == [
        (5, "it stands twice"),
        (6, "path or pid is empty"),
        (7, "it is of two people"),
        (8, "it is of two people"),
    ]
    made = gallery.enrol(found, tiny_gallery.model(tmp_path), {}, tiny_gallery.LIMIT)
    assert made.gallery.people == ["7", "Zoë"]
    assert made.aside["reason"].iloc[-1] == "leaves the folder of the data"


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda root: gallery.of_folder(root / "none"), "no such folder; it must hold one folder"),
        (lambda root: gallery.of_folder(root), "no image of anybody to enrol; one folder"),
        (lambda root: gallery.of_table(root / "none.csv"), "no such file; it must be CSV with"),
        (lambda root: gallery.of_table(root / "a.csv"), "columns pid are missing; it has path"),
        (lambda root: gallery.of_table(root / "b.csv"), "first set aside: x.png: path or pid is"),
    ],
)
def test_what_cannot_be_enrolled_is_said(tmp_path, make, said):
    (tmp_path / "a.csv").write_text("path\nx.png\n")
    (tmp_path / "b.csv").write_text("path,pid\nx.png,\n")
    with pytest.raises(InputError, match=said):
        make(tmp_path)


def split(distractors=False):
    """Ten people, one gallery image and two queries of each aspect and trial."""
    rows = [
        (f"{pid}{aspect[0]}{image}", pid, aspect, image)
        for pid in range(20, 30)
        for aspect in ("dorsal_r", "palmar_l")
        for image in range(3)
    ]
    images = pd.DataFrame(rows, columns=["image_id", "pid", "aspect", "image"])
    images = images.assign(path="p/" + images["image_id"] + ".jpg")
    parts = []
    for trial in (0, 1):
        role = np.where(images["image"] == trial, "gallery", "query")
        away = (images["pid"] > 26) & distractors
        own = images.assign(role=role, trial=trial, test_aspect=images["aspect"], distractor=away)
        own["gallery"] = np.where(own["role"] == "gallery", "same_aspect", None)
        parts.append(own[~(away & (own["role"] == "query"))])
        both = own[own["role"] == "gallery"]
        parts.append(both.assign(gallery="all_aspects", pid=both["pid"] + 11_000_000))
    manifest = pd.concat(parts, ignore_index=True).astype({"trial": "Int64"})
    return splits.Prepared(None, "root", images, manifest, None, [], "", False)


def test_test_people_of_trial_0_are_enrolled_but_for_a_share_of_strangers():
    found = gallery.of_split(split(), 0.3)
    who = {role: set(one.table["person"]) for role, one in found.items()}
    assert who["enrolled"] == who["queries"] and len(who["enrolled"]) == 7
    assert len(who["strangers"]) == 3 and not who["strangers"] & who["enrolled"]
    assert found["enrolled"].table["path"].str.endswith("0.jpg").all()  # trial 0's gallery
    assert len(found["enrolled"].table) == 7 * 2 and len(found["queries"].table) == 7 * 2 * 2
    assert not found["queries"].table["path"].str.endswith("0.jpg").any()
    assert gallery.of_split(split(), 0.3)["strangers"].table.equals(found["strangers"].table)
    assert len(gallery.of_split(split(), 0)["strangers"].table) == 0


def test_people_without_a_query_are_the_strangers():
    found = gallery.of_split(split(distractors=True), 0.3)
    assert set(found["strangers"].table["person"]) == {"27", "28", "29"}
    assert found["enrolled"].table["person"].nunique() == 7


def test_people_of_one_s_own_are_enrolled_in_place_of_the_test_people(tmp_path):
    tiny_gallery.people(tmp_path / "mine")
    found = gallery.people(EnrolParams(folder=str(tmp_path / "mine")), split())
    assert sorted(set(found["enrolled"].table["person"])) == sorted(NAMES)
    assert found["queries"].table.empty
    assert found["strangers"].table["person"].nunique() == 10 and found["strangers"].root == "root"
    with pytest.raises(ValueError, match="leave one out"):
        EnrolParams(folder="a", table="b")


def test_a_newcomer_has_two_images_and_a_name_that_nobody_has():
    strangers = gallery.of_split(split(), 0.3)["strangers"]
    first, second = strangers.table["person"].unique()[:2]
    own = strangers.table[strangers.table["person"] == first]
    newcomer, last = gallery.newcomer(strangers, [first, "a"])
    assert newcomer.table["path"].tolist() == own["path"].tolist()[:-1]
    assert last == own["path"].iloc[-1] and set(newcomer.table["person"]) == {"newcomer"}
    newcomer, _ = gallery.newcomer(strangers, ["newcomer", "newcomer 1"])
    assert set(newcomer.table["person"]) == {"newcomer 2"}
    one_of_first = strangers._replace(table=strangers.table.drop(own.index[1:]))
    newcomer, last = gallery.newcomer(one_of_first, [])
    assert last in strangers.table.loc[strangers.table["person"] == second, "path"].tolist()
    single = strangers.table.drop_duplicates("person")
    assert gallery.newcomer(strangers._replace(table=single), []) is None
    assert gallery.newcomer(strangers._replace(table=single[:0]), []) is None


def test_a_split_that_searches_for_nobody_is_refused(tmp_path):
    data = split()
    data = replace(data, split=data.split[data.split["role"] == "gallery"])
    tiny_gallery.people(tmp_path / "mine")
    for enrol in (EnrolParams(strangers=0), EnrolParams(folder=str(tmp_path / "mine"))):
        with pytest.raises(InputError, match="enrol: trial 0 has no image to search for"):
            gallery.people(enrol, data)
    nobody = gallery.of_split(split(), 0)["strangers"]
    with pytest.raises(InputError, match="no image of anybody to enrol"):
        gallery.enrol(nobody, None, {}, tiny_gallery.LIMIT)


def test_changes_are_tried_on_a_copy_that_goes(tmp_path):
    made, _ = tiny_gallery.enrolled(tmp_path)
    folder = tmp_path / "run"
    path = gallery.write(made, folder / "gallery.safetensors")
    (folder / "rehearsal").mkdir()
    (folder / "rehearsal/.writing-x.safetensors").write_bytes(b"left by a kill")
    before = path.read_bytes()
    with gallery.rehearsal(made, folder) as copy:
        assert copy.is_relative_to(folder) and os.listdir(copy.parent) == [copy.name]
        gallery.remove(copy, "1051")
        assert gallery.read(copy).people != made.people
    with pytest.raises(InputError), gallery.rehearsal(made, folder) as copy:
        gallery.remove(copy, "nobody")
    assert os.listdir(folder) == ["gallery.safetensors"] and path.read_bytes() == before


def test_the_metadata_is_json_that_others_can_read(tmp_path):
    made, model = tiny_gallery.enrolled(tmp_path)
    path = gallery.write(made, tmp_path / "g.safetensors")
    with safe_open(path, "np") as file:
        content = json.loads(file.metadata()["gallery"])
    assert content["people"][0] == {
        "person": "1051",
        "images": [f"1051/1051 at {n}.png" for n in range(3)],
    }
    assert content["made_by"] == model.made_by
    assert content["threshold"]["far"] == 0.1
