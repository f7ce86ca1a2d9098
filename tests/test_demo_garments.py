import itertools
import json
import re
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import catalogues, demo_clothes, demo_garments, inshop, splits
from clipfh_lib.schema import DataParams

PINNED = np.array(
    [
        [[76, 87, 98, 83], [87, 115, 106, 106], [108, 118, 134, 118], [111, 130, 151, 128]],
        [[159, 109, 140, 149], [146, 84, 112, 140], [128, 86, 109, 131], [128, 86, 115, 123]],
    ]
)


def drawn(pid, number, seed=0, size=64, **changes):
    item = demo_clothes.garment(seed, pid)
    return demo_clothes.draw(replace(item, **changes), demo_clothes.shot(seed, pid, number), size)


def thumbnail(image):
    """16 x 16 pixels, normalised: the `pixels` rows of the results."""
    small = cv2.resize(image.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA) - 127
    return small.ravel() / np.linalg.norm(small)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "inshop"
    demo_garments.write(root, items=18, images=6, size=48, seed=5)
    return root


def rows_of(root):
    lines = (root / "Eval" / "list_eval_partition.txt").read_bytes().decode().split("\n")
    return lines[0], lines[1], [line.split() for line in lines[2:-1]]


def test_the_partition_has_the_official_format_and_every_row_its_picture(written):
    count, header, rows = rows_of(written)
    assert count == "108" and header == "image_name item_id evaluation_status"
    name = r"img/(WOMEN|MEN)/[A-Z][A-Za-z_]+/(id_\d{8})/0\d_\d_(front|side|back|full)\.jpg"
    assert all(re.fullmatch(name, image)[2] == item for image, item, _ in rows)
    files = {path.relative_to(written / "Img").as_posix() for path in written.rglob("*.jpg")}
    assert files == {image for image, _, _ in rows} and len(files) == len(rows) == 108
    with Image.open(written / "Img" / rows[0][0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
    said = json.loads((written / "Anno" / "list_description_inshop.json").read_text())
    assert [entry["item"] for entry in said] == [f"id_{pid:08d}" for pid in range(1, 19)]
    assert all(set(entry) == {"item", "color", "description"} for entry in said)


def test_half_of_the_items_train_and_the_others_are_query_and_gallery_alike(written):
    _, _, rows = rows_of(written)
    by_item = {}
    for _, item, status in rows:
        by_item.setdefault(item, []).append(status)
    kinds = [tuple(sorted(statuses)) for statuses in by_item.values()]
    assert kinds.count(("train",) * 6) == 9
    assert kinds.count(("gallery",) * 3 + ("query",) * 3) == 9
    many = demo_garments.table(400, 3, seed=0)
    trained = {pid for _, pid, _, status in many if status == "train"}
    assert len(trained) == 200 and 0.3 < np.mean([pid % 2 for pid in trained]) < 0.7
    places = [number for _, _, number, status in many if status == "gallery"]
    assert set(places) == {0, 1, 2}  # no view is always the one that is searched in


def test_the_reader_takes_every_row_with_its_words(written):
    data = DataParams(catalogue="inshop", root=str(written), trials=1)
    found = catalogues.read(data)
    assert len(found.images) == 108 and found.set_aside.empty and found.notes == []
    assert len(found.captions) == 108 and found.captions["caption"].str.len().min() > 20
    row = found.images.iloc[0]
    assert row["color"] and row["caption"].startswith(row["color"] + ". A ")
    assert found.images.groupby("pid")["category"].nunique().max() == 1
    split = splits.make(found.images, data)
    assert split.groupby("role")["pid"].nunique()[["query", "gallery"]].tolist() == [9, 9]


def test_the_same_seed_writes_the_same_bytes_in_any_number_of_processes(written, tmp_path):
    demo_garments.write(tmp_path / "again", items=12, images=6, size=48, seed=5, workers=2)
    paths = sorted((tmp_path / "again").rglob("*.jpg"))
    for path in paths:
        first = written / path.relative_to(tmp_path / "again")
        assert path.read_bytes() == first.read_bytes()
    assert len(paths) == 72
    fewer, more = (rows_of(root)[2] for root in (tmp_path / "again", written))
    assert more[:72] == fewer
    words = [json.loads((root / inshop.DESCRIPTIONS).read_text()) for root in
             (tmp_path / "again", written)]  # fmt: skip
    assert words[1][:12] == words[0]
    assert demo_garments.table(18, 6, seed=6) != demo_garments.table(18, 6, seed=5)
    assert not np.array_equal(drawn(3, 0, seed=5), drawn(3, 0, seed=6))


def test_pixels_are_pinned():
    # The middle of coarse pictures, a grey level to spare: another build of numpy does not matter.
    coarse = [cv2.resize(drawn(pid, number, 1, 128), (6, 6), interpolation=cv2.INTER_AREA)
              for pid, number in ((2, 0), (30, 3))]  # fmt: skip
    found = np.stack(coarse)[:, 1:5, 1:5, 1].astype(int)
    assert np.abs(found - PINNED).max() <= 1, found.tolist()


def test_nothing_appears_unless_everything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="items=1 images=6: 2 of each"):
        demo_garments.write(tmp_path / "a", items=1, images=6, size=32, seed=0)
    with pytest.raises(ValueError, match="items=3 images=1"):
        demo_garments.write(tmp_path / "a", items=3, images=1, size=32, seed=0)
    with pytest.raises(np.linalg.LinAlgError):  # a picture without pixels
        demo_garments.write(tmp_path / "a", items=2, images=2, size=0, seed=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="remove it first"):
        demo_garments.write(tmp_path / "a", items=2, images=2, size=32, seed=0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine.txt"]


def test_eight_garments_are_alike_and_no_two_of_them_the_same():
    for family in range(6):
        items = [demo_clothes.garment(0, 8 * family + k) for k in range(1, 9)]
        assert len({(item.kind, item.folder, item.color, item.pattern) for item in items}) == 1
        taken = demo_clothes.shot(0, 1, 0)
        again = replace(taken, noise_seed=taken.noise_seed + 1)
        first = demo_clothes.draw(items[0], taken, 96).astype(float)
        noise = np.abs(demo_clothes.draw(items[0], again, 96) - first).mean()
        looks = [demo_clothes.draw(item, taken, 96).astype(float) for item in items]
        for one, other in itertools.combinations(looks, 2):
            assert np.abs(one - other).mean() > 1.3 * noise
    seen = [demo_clothes.garment(0, 8 * family + 1) for family in range(200)]
    assert {item.kind for item in seen} == {*demo_clothes.FOLDERS}
    assert {item.color for item in seen} == {*demo_clothes.COLORS}
    assert {item.pattern for item in seen} == {*demo_clothes.PATTERNS}


def test_pixels_find_the_right_garment_more_often_than_chance_and_seldom():
    rows = [row for row in demo_garments.table(160, 8, seed=0) if row[3] != "train"]
    codes = np.stack([thumbnail(drawn(pid, number, size=32)) for _, pid, number, _ in rows])
    pids = np.array([pid for _, pid, _, _ in rows])
    query = np.array([status == "query" for *_, status in rows])
    nearest = np.argmax(codes[query] @ codes[~query].T, axis=1)
    right = np.mean(pids[~query][nearest] == pids[query])
    assert len(set(pids)) == 80 and 0.05 < right < 0.45  # chance is 1 in 80


PAINTED = {  # what an item has, and whether its back shows it too
    "printed": (dict(printed="disc"), dict(printed=""), False),
    "pockets": (dict(pockets=2), dict(pockets=0), False),
    "buttons": (dict(buttons=6), dict(buttons=0), False),
    "neck": (dict(neck="round"), dict(neck="square"), False),
    "depth": (dict(depth=0.1), dict(depth=0.3), False),
    "trim": (dict(trim=0.09), dict(trim=0.0), True),
    "second": (dict(second="red"), dict(second="green"), True),
    "period": (dict(period=0.08), dict(period=0.2), True),
    "share": (dict(share=0.25), dict(share=0.55), True),
    "angle": (dict(angle=0.0), dict(angle=np.pi / 2), True),
    "length": (dict(length=0.0), dict(length=1.0), True),
    "sleeve": (dict(sleeve=0.3), dict(sleeve=1.0), True),
    "flare": (dict(flare=0.0), dict(flare=1.0), True),
}


@pytest.mark.parametrize("one, other, behind", PAINTED.values(), ids=PAINTED)
def test_what_a_garment_has_is_painted_where_it_can_be_seen(one, other, behind):
    plain = dict(
        kind="shirt", color="white", pattern="striped", second="blue", angle=0.0, printed="",
        place=(0.15, 0.4), pockets=0, buttons=0, trim=0.0, neck="round", depth=0.15, accent="red",
    )  # fmt: skip
    for number, shown in ((0, True), (2, behind), (3, True)):  # front, back, full
        a, b = (drawn(1, number, size=96, **(plain | what)).astype(int) for what in (one, other))
        assert (np.abs(a - b).max(axis=2) > 24).any() == shown


@pytest.mark.parametrize("kind", demo_clothes.FOLDERS)
def test_the_garment_stands_in_the_picture_from_every_side(kind):
    for number in range(8):
        one, other = (drawn(2, number, kind=kind, pattern="plain", color=color, neck="round")
                      for color in ("red", "green"))  # fmt: skip
        cloth = np.abs(one.astype(int) - other).max(axis=2) > 24
        assert 0.02 < cloth.mean() < 0.6
        assert cloth[20:44, 20:44].any()


def test_sessions_differ_in_who_wears_it_and_photographs_of_one_in_pose_alone():
    shots = [demo_clothes.shot(0, 4, number) for number in range(8)]
    assert [shot.view for shot in shots] == ["front", "side", "back", "full"] * 2
    for name in ("skin", "beside", "backdrop"):
        values = [getattr(shot, name) for shot in shots]
        assert len(set(values[:4])) == len(set(values[4:])) == 1 and values[0] != values[4]
    assert len({shot.arms for shot in shots}) == len({shot.scale for shot in shots}) == 8


def test_the_description_says_what_is_drawn():
    item = replace(
        demo_clothes.garment(0, 1), kind="shirt", color="navy", pattern="striped", second="pink",
        length=0.9, sleeve=0.3, neck="v", buttons=4, accent="red", pockets=1, printed="ring",
        trim=0.0,
    )  # fmt: skip
    said = demo_garments.described(item)
    assert said["item"] == "id_00000001" and said["color"] == "Navy"
    assert said["description"] == [
        "A long navy shirt, pink striped, with a v neck and short sleeves.",
        "Four red buttons, one pocket, a red ring as print.",
    ]
    bare = replace(item, kind="skirt", pattern="plain", neck="", buttons=0, pockets=0, printed="")
    assert demo_garments.described(bare)["description"] == ["A long navy skirt, plain."]
    pair = demo_garments.described(replace(bare, kind="trousers"))
    assert pair["description"] == ["A long pair of navy trousers, plain."]
    texts = [str(demo_garments.described(demo_clothes.garment(0, pid))) for pid in range(1, 201)]
    assert len(set(texts)) == 200 and max(len(text.split()) for text in texts) < 60


def test_a_run_draws_the_demo_set_and_reads_it(tmp_path):
    overrides = {"data.draw.people": 24, "data.draw.images": 3, "data.draw.size": 32}
    p = params.read("prepare_data", "demo_inshop", overrides=overrides)
    found = splits.prepare(p, tmp_path)
    assert len(found.images) == 72 and len(found.captions) == 72
    roles = found.split.groupby("role")["pid"].nunique()
    assert roles["query"] == roles["gallery"] == 12 and roles["train"] + roles["val"] == 12
    assert found.root.name.startswith("demo-") and found.root == catalogues.root(p.data)


def test_drawing_the_demo_set_takes_seconds():
    start = time.perf_counter()
    for number in range(16):
        drawn(1 + 8 * number, number, size=128)
    each = (time.perf_counter() - start) / 16
    assert each < 0.15  # 0.014 s on a quiet core; 1,600 pictures
