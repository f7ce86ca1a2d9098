"""Broken files, odd tables, flipped bits and a full disk: named, counted, and nothing else changes.

What a module does with each of these alone is tested beside it; here the whole way is gone.
"""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_fit
import torch
from PIL import Image
from torch import nn

from clipfh_lib import files, params, runs
from clipfh_lib.data import demo_hands, images, splits
from clipfh_lib.data.images import Size
from clipfh_lib.evaluation import embeddings
from clipfh_lib.evaluation.embeddings import Embeddings
from clipfh_lib.files import InputError
from clipfh_lib.methods import training
from clipfh_lib.models import backbones
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import EmbedParams, LoopParams, ModelParams

PACKAGE = Path(files.__file__).parents[1]
TURN = Image.Transpose
STORED = {  # what a camera stores for each EXIF orientation
    1: None,
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}
POWERLESS = """
import ctypes, sys
if sys.platform == "linux":  # root, too, may then read and write only what its modes allow
    header, none = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
"""


def child(code):
    """What a program says, run in the project of the test."""
    path = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), str(Path(__file__).parent)])}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- broken and odd pictures ----------------------------------------------------------------------


def save(image, path, kind="PNG", **how):
    with path.open("wb") as file:  # whatever the name says
        image.save(file, kind, **how)


def turned(image, orientation, path, kind="PNG", **how):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if STORED[orientation] is None else image.transpose(STORED[orientation])
    save(stored, path, kind, exif=exif, **how)


def odd(number, path, image):
    """Write a picture in the odd form of this number; gives what it must look like."""
    grey = image.convert("L")
    if number <= 8:
        turned(image, number, path, ["PNG", "TIFF"][number % 2])
    elif number == 9:
        save(image.convert("CMYK"), path, "TIFF")
    elif number == 10:
        save(grey, path)
        return grey
    elif number == 11:
        deep = np.asarray(grey).astype(int) * 257 - 100  # rounds to the grey
        save(Image.fromarray(deep.clip(0).astype(np.uint16)), path)
        return grey
    elif number == 12:
        image = image.quantize(200)
        save(image, path, "GIF", save_all=True, append_images=[grey.quantize(9)])
    elif number == 13:
        save(image, path, "WEBP", lossless=True, save_all=True, append_images=[grey])
    elif number == 14:
        clear = image.copy()
        clear.putalpha(Image.new("L", image.size, 255))
        clear.paste((1, 2, 3, 0), (0, 0, 20, 20))
        save(clear, path)
        image.paste((255, 255, 255), (0, 0, 20, 20))
    else:
        image = Image.new("RGB", (1, 1), image.getpixel((40, 40)))
        save(image, path, "BMP")
        return image.resize((64, 48))
    return image


ODD = range(1, 16)


def claim(width, height):
    """A PNG file of this size without a pixel."""
    head = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    content = b"\x89PNG\r\n\x1a\n"
    for part in (head, b"IDAT", b"IEND"):
        content += (len(part) - 4).to_bytes(4) + part + zlib.crc32(part).to_bytes(4)
    return content


def break_files(hands, good):
    """Write files that nobody can use; gives their names with a word of the reason."""
    jpeg, outside = good.read_bytes(), hands.parents[1] / "outside.jpg"
    shutil.copy(good, outside)
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    contents = {
        "empty": (b"", "empty"),
        "page": (page, "no image"),
        "at the start": (jpeg[:300], "cannot be decoded"),
        "in the middle": (jpeg[: len(jpeg) // 2], "truncated"),
        "near the end": (jpeg[:-200], "truncated"),
        "noise": (np.random.default_rng(0).bytes(5000), "no image"),
        "vector": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        "drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        "archive": (b"PK\x05\x06" + bytes(18), "no image"),
        "no pixels": (claim(640, 480), "truncated"),
        "bomb": (claim(60_000, 60_000), "above 50 megapixels"),
        "large": (claim(8000, 8000), "above 50 megapixels"),
        "strip": (claim(1, 20_000), "more than 50 times"),
    }
    made = {}
    for number, (content, reason) in enumerate(contents.values(), start=1):
        made[f"Hand_99{number:05d}.jpg"] = reason
        (hands / f"Hand_99{number:05d}.jpg").write_bytes(content)
    for number, (kind, reason) in enumerate(
        {
            "float": "no known range",
            "fifo": "not a regular file",
            "folder": "a folder",
            "forbidden": "Permission denied",
            "dangling": "not a regular file",
            "circle": "symbolic links",
            "leaving": "a link that leaves the folder",
            "heavy": "above 16 megapixels",
        }.items(),
        start=50,
    ):
        path = hands / f"Hand_99{number:05d}.jpg"
        made[path.name] = reason
        if kind == "float":
            save(Image.fromarray(np.ones((9, 9), np.float32)), path, "TIFF")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "forbidden":
            shutil.copy(good, path)
            path.chmod(0)
        elif kind == "heavy":
            save(Image.new("RGB", (4200, 4200)), path, "WEBP", lossless=True, method=0)
        else:
            path.symlink_to({"dangling": "gone.jpg", "circle": path, "leaving": outside}[kind])
    return made


@pytest.fixture(scope="module")
def plain_and_hostile(tmp_path_factory):
    """Two data sets of the same people and pictures, and what in the second one is broken."""
    folder = tmp_path_factory.mktemp("hostile")
    plain, hostile = folder / "plain" / "11k", folder / "hostile" / "11k"
    demo_hands.write_11k(plain, people=14, images=2, size=64, seed=3)
    table = pd.read_csv(plain / "HandInfo.csv", dtype=str)
    free = table.loc[table["accessories"] == "0", "imageName"].tolist()
    assert len(free) == 112
    shutil.copytree(plain, hostile)
    for number, name in zip(ODD, free[::7], strict=False):
        with Image.open(plain / "Hands" / name) as image:
            seen = odd(number, hostile / "Hands" / name, image.convert("RGB"))
        save(seen.convert("RGB"), plain / "Hands" / name)
    broken = break_files(hostile / "Hands", plain / "Hands" / free[1])
    assert len(broken) + len(ODD) - 7 >= 20, "kinds; the eight turns are one"
    lines = (hostile / "HandInfo.csv").read_text().splitlines()[1:]
    free_lines = [line for line in lines if ",0," in line]
    rows = []
    for number, name in enumerate(broken):  # of people who are there, and of one who is not
        cells = free_lines[5 * number].split(",")
        cells[0] = '"0001777"' if number % 7 == 0 else cells[0]
        rows.append(",".join([*cells[:7], f'"{name}"', "0"]))
    with (hostile / "HandInfo.csv").open("a", newline="") as file:
        file.write("".join(f"{row}\r\n" for row in rows))
    shutil.copy(plain / "Hands" / free[1], os.fsencode(hostile / "Hands") + b"/caf\xe9.jpg")
    broken["caf\\udce9.jpg"] = "not UTF-8"  # no row can name it
    return plain, hostile, broken


WHOLE = """
import json, re
from pathlib import Path
from clipfh_lib import params
from clipfh_lib.data import splits
from clipfh_lib.evaluation import embeddings, retrieval
from clipfh_lib.models import backbones
def peak():  # kB
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) if status.exists() else 0
said = {"imported": peak()}
for name, root in ROOTS.items():
    p = params.load("zero_shot", "demo", "demo", "default", 0, {"data.root": root, "device": "cpu"})
    data = splits.prepare(p, name)
    encoder, preprocess = backbones.load(p.model)
    found = embeddings.of(encoder, preprocess, data.test, data.root, p)
    results = retrieval.evaluate(*found, data.split, "pretrained", resamples=200)
    for kind in ("ranks", "metrics"):
        getattr(results, kind).to_csv(f"{name}_{kind}.csv", index=False)
    images = data.images.drop(columns=["width", "height"])  # of 1 x 1
    images.to_csv(f"{name}_images.csv", index=False)
    data.set_aside.to_csv(f"{name}_set_aside.csv", index=False)
    said[name] = {"split": data.sha256, "notes": " ".join(data.notes), "peak": peak()}
print(json.dumps(said))
"""


def test_broken_and_odd_files_change_nothing_for_the_good_ones(plain_and_hostile):
    plain, hostile, broken = plain_and_hostile
    roots = {"hostile": str(hostile), "plain": str(plain)}
    said = json.loads(child(f"{POWERLESS}ROOTS = {roots!r}\n{WHOLE}"))
    assert said["hostile"]["split"] == said["plain"]["split"]
    for kind in ("ranks", "metrics", "images"):
        ours, theirs = (Path(f"{name}_{kind}.csv").read_text() for name in roots)
        assert ours == theirs, kind
    metrics = pd.read_csv("hostile_metrics.csv")
    rank1 = metrics.query("metric == 'rank1' & subset == 'all' & gallery == 'all_aspects'")["value"]
    assert rank1.between(0.1, 0.9).any(), "they agree on a number, not on nothing"
    assert pd.read_csv("plain_set_aside.csv").empty
    aside = pd.read_csv("hostile_set_aside.csv")
    assert sorted(aside["path"]) == sorted(f"Hands/{name}" for name in broken)
    reasons = aside.set_index("path")["reason"]
    for name, word in broken.items():
        assert word in reasons[f"Hands/{name}"], name
    notes = said["hostile"]["notes"]
    assert f"{aside['row'].notna().sum() + 1} rows or files set aside" in notes
    assert f"{aside['row'].isna().sum() - 1} images cannot be read" in notes
    imported = said["imported"]  # 860,000 with the largest builds of torch, before any picture
    assert said["hostile"]["peak"] < max(1e6, imported + 150_000), said


def test_the_same_picture_in_eight_orientations_has_the_same_embedding(drawn, tmp_path):
    weights = "clipfh_lib/assets/demo_clip.safetensors"
    clip = backbones.load(ModelParams(name="demo_clip", weights=weights))
    with Image.open(sorted(drawn.glob("Hands/*.jpg"))[3]) as image:
        small = image.convert("RGB")
    large = small.resize((1600, 1200), Image.Resampling.BICUBIC)  # as the real photographs
    names = []
    for number in STORED:
        turned(small, number, tmp_path / f"{number}.png")
        turned(large, number, tmp_path / f"{number}.jpg", "JPEG", quality=95, subsampling=0)
        names += [f"{number}.png", f"{number}.jpg"]
    save(small.transpose(STORED[5]), tmp_path / "lost.png")  # the control: no file says so
    table = pd.DataFrame({"path": [*names, "lost.png"], "pid": 0})
    found = embeddings.extract(*clip, table, tmp_path, EmbedParams(), where="cpu").array
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    lossless, photographs = found[:16:2], found[1:16:2]
    assert np.abs(lossless - lossless[0]).max() < 1e-6
    cosine = photographs @ photographs[0]  # each was compressed anew
    assert 0 < 1 - cosine.min() < 1e-4
    assert found[16] @ found[0] < 0.99


# --- odd tables -----------------------------------------------------------------------------------


def prepare(root, outputs="outputs", **overrides):
    p = params.load("prepare_data", "demo", overrides={"data.root": str(root), **overrides})
    return splits.prepare(p, outputs)


def with_table(drawn, folder, change, encoding="utf-8"):
    """The drawn data set with another HandInfo.csv: `change` gets and gives its lines."""
    shutil.copytree(drawn, folder)
    lines = change((drawn / "HandInfo.csv").read_text().splitlines())
    (folder / "HandInfo.csv").write_bytes("\r\n".join(lines).encode(encoding))
    return folder


def spoil_rows(lines):
    """Nothing that takes away an image that is there: blanks, doubled rows, rows of no use."""
    header, *rows = lines
    blank = [row.replace('"0', '" 0', 1).replace('",', ' ",', 1) for row in rows]
    other = [rows[0].replace("Hand_0", name, 1) for name in ("Hand_8", "Hand_9")]
    other[0] = other[0].replace("dorsal", "frontal").replace("palmar", "frontal")
    useless = ["", ",,", "7,27", '"one",27,"male","fair",0,0,"dorsal right","Hand_7.jpg",0', *other]
    return [header, *blank[:9], blank[4], *useless, *blank[9:], blank[-1]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_an_odd_table_gives_the_split_of_a_clean_one_and_counts_what_it_set_aside(
    drawn, tmp_path, encoding
):
    def change(lines):
        return [line.replace("fair", "très fair") for line in spoil_rows(lines)]

    clean = prepare(drawn)
    found = prepare(with_table(drawn, tmp_path / "11k", change, encoding))
    assert found.sha256 == clean.sha256
    columns = ["image_id", "path", "pid", "aspect", "accessories", "width"]
    pd.testing.assert_frame_equal(found.images[columns], clean.images[columns])
    reasons = found.set_aside["reason"].tolist()
    said = ["stands in row 6", "cells under", "no whole number", "is none of", "stands in row"]
    assert all(word in reason for word, reason in zip(said, reasons, strict=True)), reasons
    assert found.set_aside["row"].tolist()[:2] == [11, 14] and clean.set_aside.empty
    assert "5 rows or files set aside; set_aside.csv has the reasons" in found.notes
    assert "1 of " in found.notes[-2] and "no image file" in found.notes[-2]
    assert (encoding in ("utf-16", "cp1252")) == ("not UTF-8" in found.notes[0])


@pytest.mark.parametrize(
    "name, fix", [("../Hand_0", "correct or remove the row"), ("x" * 200_000, "save it again")]
)
def test_a_table_that_stops_leaves_no_split_behind(drawn, tmp_path, name, fix):
    def change(lines):
        return [*lines, lines[1].replace("Hand_0", name)]

    root = with_table(drawn, tmp_path / "11k", change)
    row = len((root / "HandInfo.csv").read_text().splitlines())
    with pytest.raises(InputError, match=rf"HandInfo.csv row {row}: .*{fix}"):
        prepare(root)
    assert not list(Path("outputs").rglob("*.csv")) and not list(Path("outputs").rglob("*.json"))


@pytest.mark.parametrize("kind", ["folder", "forbidden", "missing"])
def test_a_table_that_cannot_be_opened_is_one_line(drawn, tmp_path, kind):
    root = with_table(drawn, tmp_path / "11k", list)
    info = root / "HandInfo.csv"
    if kind == "forbidden":
        info.chmod(0)
    else:
        info.unlink()
        _ = info.mkdir() if kind == "folder" else None
    code = f"""{POWERLESS}
from clipfh_lib import files, params
from clipfh_lib.data import splits
p = params.load("prepare_data", "demo", overrides={{"data.root": {str(root)!r}}})
try:
    splits.prepare(p, "outputs")
except files.InputError as error:
    print(error)
"""
    lines = child(code).splitlines()
    reason = {"folder": "Is a directory", "forbidden": "Permission denied", "missing": "not in"}
    assert len(lines) == 1 and "HandInfo.csv" in lines[0] and reason[kind] in lines[0]


def test_a_name_of_a_person_that_a_spreadsheet_would_run_comes_back(tmp_path):
    names = ["=cmd|' -C calc'!A0", "-2+3", "@SUM(1)", "+49 30", "-5", "＝1", "0012"]
    for name in names:
        (tmp_path / "11k" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("RGB", (9, 9), (number, 99, len(name)))
            picture.save(tmp_path / "11k" / name / f"{number}.png")
    p = params.load("prepare_data", "folders", overrides={"data.root": str(tmp_path / "11k")})
    found = splits.prepare(p, "outputs")
    assert set(found.images["pid_name"]) == {*names[:6], ""}
    assert all((found.root / path).is_file() for path in found.images["path"])
    for path in found.folder.glob("*.csv"):
        for cell in pd.read_csv(path, dtype=str).stack().dropna():
            assert cell == "-5" or not cell.startswith(("=", "+", "-", "@", "＝")), cell


# --- flipped bits ---------------------------------------------------------------------------------
# Each kind gives its files and a function that uses them: what it gives must be refused, or made
# again with a line in the log.


class Tiny(nn.Module):
    """The least that can be embedded with, saved and packed."""

    def __init__(self):
        super().__init__()
        self.token_embedding, self.visual_ = nn.Embedding(40, 4), nn.Conv2d(3, 5, 4, 4)

    def encode_image(self, pixels):
        return self.visual_(pixels).mean((2, 3))


def finished(weights=None, found=None):
    """A complete run folder."""
    p = params.load("zero_shot", "demo", "demo", "default")
    run = runs.start("02_zero_shot", p, "outputs")
    if weights is not None:
        backbones.save(weights, run.folder / "checkpoints" / "best.safetensors", "key")
    if found is not None:
        embeddings.save(found, run.folder)
    run.finish()
    return run.folder


def manifest(drawn):
    folder = finished()
    return [folder / "manifest.json"], lambda: runs.manifest(folder)


def weights_of_a_run(drawn):
    folder = finished(Tiny())
    path = folder / "checkpoints" / "best.safetensors"
    return [path], lambda: backbones._best_of_run(folder, "demo_clip")


def weights_of_a_file(drawn):
    path = backbones.save(Tiny(), Path("weights.safetensors"), "key")
    return [path], lambda: str(backbones.read_state(path))


def weights_taken_up_again(drawn):
    path = backbones.save(Tiny(), Path("weights.safetensors"), "key")

    def use():
        if not backbones.restore(Tiny(), path, "key"):
            raise InputError("it is trained again")
        return True

    return [path], use


def packed_weights(drawn):
    path = backbones.pack(Tiny(), torch.arange(7), Path("packed.safetensors"))
    return [path], lambda: str(backbones.read_state(path))


def cached_embeddings(drawn):
    clip = Tiny(), Preprocess(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
    table = tiny_fit.make_table(drawn)[:3]

    def use():
        found = embeddings.extract(*clip, table, drawn, EmbedParams(), workers=1, where="cpu")
        return found.array.tobytes()

    use()
    return [*(files.cache() / "embeddings").iterdir()], use


def embeddings_of_a_run(drawn):
    array = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    table = pd.DataFrame({"image_id": list("abcd"), "path": list("abcd"), "pid": range(4)})
    folder = finished(found=Embeddings(array, table))
    names = ("embeddings.safetensors", "embeddings.csv")
    return [folder / name for name in names], lambda: str(embeddings.read(folder))


def decoded_pictures(drawn):
    paths = list(tiny_fit.make_table(drawn)["path"][:3])

    def use():
        return images.decode(drawn, paths, Size(4, 4), workers=1).pixels.tobytes()

    use()
    return [*files.cache().glob("pixels/*/*/*")], use


def prepared_tables(drawn):
    (Path("small") / "Hands").mkdir(parents=True)
    lines = (drawn / "HandInfo.csv").read_text().splitlines()[:25]
    Path("small/HandInfo.csv").write_text("\n".join([*lines, lines[-1]]))
    for line in lines[1:]:
        name = line.split(",")[7].strip('"')
        shutil.copy(drawn / "Hands" / name, Path("small/Hands") / name)

    def use():
        found = prepare("small")
        assert len(found.set_aside) == 1
        return str([each.to_csv() for each in (found.images, found.split, found.set_aside)])

    use()
    return [*Path("outputs").rglob("*.csv"), *Path("outputs").rglob("prepared.json")], use


def checkpoint(drawn):
    run, method, _ = tiny_fit.fit(drawn, "outputs", loop={"epochs": 1})
    path = run.folder / "checkpoints" / "last.ckpt"
    fit = method, run, tiny_fit.WHAT, LoopParams(epochs=1), None
    return [path], lambda: training._begin(*fit)[1] == path


KINDS = [
    (manifest, 1),
    (weights_of_a_run, 1),
    (weights_of_a_file, 1),
    (weights_taken_up_again, 1),
    (packed_weights, 1),
    (cached_embeddings, 1),
    (embeddings_of_a_run, 2),
    (decoded_pictures, 3),
    (prepared_tables, 5),
    (checkpoint, 1),
]


@pytest.mark.parametrize("kind, count", KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_each_of_a_hundred_flipped_bits_is_found(drawn, caplog, kind, count):
    paths, use = kind(drawn)
    assert len(paths) == count
    right, draw, missed = use(), np.random.default_rng(0), []
    for flip in range(100):
        path = sorted(paths)[flip % count]
        before = path.read_bytes()
        place, bit = draw.integers(len(before)), draw.integers(8)
        changed = bytearray(before)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        caplog.clear()
        try:
            again = use()
        except InputError as error:
            assert "\n" not in str(error)
        else:  # it was made again, or the fit starts anew
            if "is damaged" not in caplog.text or again not in (right, False):
                missed.append((path.name, int(place), int(bit)))
        path.write_bytes(before)
    assert not missed and use() == right
    assert len(KINDS) * 100 == 1000


@pytest.mark.parametrize("kind", [weights_of_a_file, weights_taken_up_again, packed_weights])
def test_each_byte_of_what_a_file_of_weights_says_beside_its_tensors_counts(drawn, kind):
    """Also those of the word that says where the hash stands."""
    (path,), use = kind(drawn)
    before = path.read_bytes()
    for place in range(8 + int.from_bytes(before[:8], "little")):
        changed = bytearray(before)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError):
            use()
    path.write_bytes(before)
    assert use()


# --- a disk that takes no more --------------------------------------------------------------------

FULL = """
import json, resource
from pathlib import Path
import numpy as np, pandas as pd, tiny_fit
from torch import nn
from clipfh_lib import files, params, runs
from clipfh_lib.data import images
from clipfh_lib.evaluation import embeddings
from clipfh_lib.models import backbones
p = params.load("zero_shot", "demo", "demo", "default")
run = runs.start("02_zero_shot", p, "outputs")
def writers(n):
    paths = list(tiny_fit.make_table(ROOT)["path"][:n // 500 + 1])
    table = pd.DataFrame({"image_id": range(n)})
    found = embeddings.Embeddings(np.zeros((n, 4), np.float32), table)
    best = run.folder / "checkpoints" / "best.safetensors"
    return {
        "big.csv": lambda: run.save_table("big", table),
        "embeddings.safetensors": lambda: embeddings.save(found, run.folder),
        "best.safetensors": lambda: backbones.save(nn.Linear(n, 9), best, "key"),
        "pixels": lambda: images.decode(ROOT, paths, images.Size(64, 64)),
        "last.ckpt": lambda: tiny_fit.fit(ROOT, f"outputs{n}", loop={"epochs": 1}),
    }
for write in writers(3).values():
    write()
run.finish()
def stand():
    there = [path for path in Path("outputs").rglob("*") if path.is_file()]
    return {path.as_posix(): files.sha256(path) for path in there}
before, said = stand(), {}
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for name, write in writers(9000).items():
    try:
        write()
    except files.InputError as error:
        said[name] = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 30_000))
try:
    runs.start("02_zero_shot", p, "outputs")
except files.InputError as error:
    said["params.yaml"] = str(error)
after = {path: sha for path, sha in stand().items() if path in before}
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
complete = runs.is_complete(run.folder)
Path("said.json").write_text(json.dumps([said, before == after, complete]))
"""


def test_a_full_disk_is_one_line_with_the_file_and_takes_nothing_away(drawn):
    pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    child(f"ROOT = {str(drawn)!r}\n{FULL}")
    said, kept, complete = json.loads(Path("said.json").read_text())
    names = ["big.csv", "embeddings.safetensors", "best.safetensors", "pixels", "last.ckpt"]
    assert list(said) == [*names, "params.yaml"]
    for name, line in said.items():
        assert name in line and "\n" not in line and "make room" in line, line
        assert "File too large" in line or "takes no more" in line, line
    assert kept and complete
    assert not [path for out in Path().glob("outputs*") for path in out.rglob(".writing-*")]


def test_a_folder_without_permission_is_one_line_and_a_finished_run_stays_finished():
    folder = finished()
    code = f"""{POWERLESS}
from clipfh_lib import files, params, runs
p = params.load("zero_shot", "demo", "demo", "default")
try:
    runs.start("02_zero_shot", p, "outputs")
except files.InputError as error:
    print(error)
"""
    for locked in (folder, files.cache() / "locks"):
        locked.chmod(0o555)
        (line,) = child(code).splitlines()
        locked.chmod(0o755)
        assert f"{locked} cannot be written (Permission denied)" in line
        assert runs.manifest(folder)["notebook"] == "02_zero_shot"
