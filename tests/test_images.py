"""Pixels equal CLIP's own, odd files come out right or are named, and nothing is decoded twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from clipfh_lib.data import images
from clipfh_lib.data.images import Size
from clipfh_lib.files import InputError

SMALL = Size(32, 32)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder for photographs, in a project of its own so that the cache starts empty."""
    return make_project(tmp_path, monkeypatch)


def make_project(folder, monkeypatch):
    (folder / "params").mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.chdir(folder)
    (folder / "photos").mkdir()
    return folder / "photos"


def scene(width, height, seed=0):
    """A picture without any symmetry: smooth colours, an edge, noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(9 * x + 5 * y + seed)], axis=2)
    pixels[(x > 0.6) & (y < 0.3)] = (250, 40, 10)
    return Image.fromarray((pixels + draw.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))


def save(root, count, width=90, height=70, suffix="jpg"):
    names = [f"{number}.{suffix}" for number in range(count)]
    for number, name in enumerate(names):
        scene(width, height, number).save(root / name)
    return names


def save_large(root, count):
    """Links to one photograph of the real ones' size: a second of decoding, made in no time."""
    scene(1600, 1200).save(root / "0.jpg")
    names = [f"{number}.jpg" for number in range(count)]
    for name in names[1:]:
        os.link(root / "0.jpg", root / name)
    return names


def entries(kind="pixels.npy"):
    return sorted(Path("outputs/.cache/pixels").glob(f"*/*/{kind}"))


def other_content_same_stamp(path):
    """Change the bytes and hide it: whoever still gives the old pixels has not read the file."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- parity ------------------------------------------------------------------------------------


def theirs(path, size, **options):
    """(H, W, 3) uint8 of open_clip's own preprocessing, undone after ToTensor."""
    transform = open_clip.image_transform(
        size, is_train=False, mean=(0,) * 3, std=(1,) * 3, **options
    )
    with Image.open(path) as image:
        exact = transform(image).double().numpy().transpose(1, 2, 0) * 255
    assert np.abs(exact - exact.round()).max() < 1e-4
    return exact.round().astype(np.uint8)


SHAPES = [
    (160, 120),
    (120, 160),
    (400, 300),
    (333, 251),
    (251, 333),
    (64, 200),
    (50, 41),
    (224, 224),
    (1200, 900),  # large enough that a JPEG decoder could skip detail
]
MODES = {
    "clip": {},
    "squash": {"resize_mode": "squash"},
    "letterbox": {"resize_mode": "longest", "fill_color": (255, 255, 255)},
}


@pytest.mark.parametrize("size", [112, 224, (256, 128), (96, 224)])
@pytest.mark.parametrize("resize", MODES)
def test_pixels_equal_those_of_open_clip_bit_for_bit(root, size, resize):
    names = [f"{width}x{height}.jpg" for width, height in SHAPES]
    for name, (width, height) in zip(names, SHAPES, strict=True):
        scene(width, height).save(root / name)
    height, width = (size, size) if isinstance(size, int) else size
    ours = images.decode(root, names, Size(height, width, resize)).pixels
    for name, pixels in zip(names, ours, strict=True):
        np.testing.assert_array_equal(pixels, theirs(root / name, size, **MODES[resize]), name)


def test_grey_and_bilinear_pixels_equal_those_of_open_clip_too(root):
    scene(150, 100).convert("L").save(root / "grey.jpg")
    ours = images.decode(root, ["grey.jpg"], Size(64, 64, interpolation="bilinear")).pixels[0]
    np.testing.assert_array_equal(ours, theirs(root / "grey.jpg", 64, interpolation="bilinear"))
    assert ours.std() > 20


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    resize=st.sampled_from(["clip", "squash", "letterbox"]),
)
def test_any_shape_fills_any_target(shape, target, resize):
    """A crop outside the picture would be black, and a letterbox shows no black either."""
    fitted = images._fit(Image.new("RGB", shape, (9, 200, 90)), Size(*target, resize))
    assert fitted.size == target[::-1]
    colours = {colour for _, colour in fitted.getcolors()}
    allowed = {(9, 200, 90), (255, 255, 255)} if resize == "letterbox" else {(9, 200, 90)}
    assert (9, 200, 90) in colours and colours <= allowed


# --- odd files ---------------------------------------------------------------------------------


def test_the_same_picture_in_eight_orientations_has_the_same_pixels(root):
    upright = scene(90, 60)
    stored = {  # what a camera stores for each orientation, undone by the viewer
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }
    names = []
    for orientation, image in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "tiff", "webp"):  # a TIFF is turned by Pillow itself while it loads
            names.append(f"{orientation}.{suffix}")
            image.save(
                root / names[-1], exif=exif, **({"lossless": True} if suffix == "webp" else {})
            )
    found = images.decode(root, names, SMALL)
    assert set(found.table["reason"]) == {""}
    assert (found.table["width"] == 90).all() and (found.table["height"] == 60).all()
    assert (found.pixels == found.pixels[0]).all()
    assert (found.pixels[0] != found.pixels[0, ::-1]).any()  # the scene is not its own mirror


def test_odd_kinds_come_out_right(root):
    plain = scene(64, 64)
    grey = plain.convert("L")
    half = plain.convert("RGBA")
    half.putalpha(Image.fromarray(np.repeat([[255, 0]], 32, axis=1).astype(np.uint8).repeat(64, 0)))
    on_white = Image.new("RGB", (64, 64), (255, 255, 255))
    on_white.paste(plain.crop((0, 0, 32, 64)))
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 30, 60])
    palette.paste(0, (0, 0, 64, 32))
    palette_seen = Image.new("RGB", (64, 64), (200, 30, 60))
    palette_seen.paste((255, 255, 255), (0, 0, 64, 32))
    deep = (np.asarray(grey).astype(int) * 257 - 128).clip(0).astype(np.uint16)  # rounds to grey
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray(deep).save(root / "deep.tiff")
    plain.convert("CMYK").save(root / "cmyk.tiff")
    plain.convert("CMYK").save(root / "cmyk.jpg", quality=100, subsampling=0)
    grey.save(root / "grey.png")
    half.save(root / "rgba.png")
    half.convert("LA").save(root / "la.png")
    palette.save(root / "palette.png", transparency=0)
    plain.save(root / "frames.png", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    plain.save(root / "frames.webp", save_all=True, append_images=[on_white], lossless=True)
    plain.quantize(256).save(root / "frames.gif", save_all=True, append_images=[palette])
    Image.new("RGB", (1, 1), (7, 80, 200)).save(root / "one.png")
    plain.save(root / "plain.bmp")
    expected = {
        "deep.png": (grey, 0, "I;16"),
        "deep.tiff": (grey, 0, "I;16"),
        "cmyk.tiff": (plain, 0, "CMYK"),
        "cmyk.jpg": (plain, 6, "CMYK"),
        "grey.png": (grey, 0, "L"),
        "rgba.png": (on_white, 0, "RGBA"),
        "la.png": (on_white.convert("L"), 1, "LA"),
        "palette.png": (palette_seen, 0, "P"),
        "frames.png": (plain, 0, "RGB"),
        "frames.webp": (plain, 0, "RGB"),
        "frames.gif": (plain.quantize(256).convert("RGB"), 0, "P"),
        "one.png": (Image.new("RGB", (64, 64), (7, 80, 200)), 0, "RGB"),
        "plain.bmp": (plain, 0, "RGB"),
    }
    found = images.decode(root, list(expected), Size(64, 64))
    assert dict(zip(found.table["path"], found.table["reason"], strict=True)) == dict.fromkeys(
        expected, ""
    )
    for name, pixels, mode in zip(expected, found.pixels, found.table["mode"], strict=True):
        image, tolerance, kind = expected[name]
        wanted = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(pixels - wanted).max() <= tolerance, name
        assert mode == kind


def claim(width, height):
    """The PNG header of a huge picture: nothing but its size is ever read."""
    one = tempfile.SpooledTemporaryFile()
    Image.new("L", (1, 1)).save(one, "PNG")
    one.seek(0)
    body = one.read()
    head = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + body[24:29]
    return body[:12] + head + zlib.crc32(head).to_bytes(4) + body[33:]


def spoil(root):
    """Broken files of every kind, and a word of the reason that each must get."""
    scene(300, 200).save(root / "whole.jpg", quality=95)
    scene(300, 200).save(root / "whole.png")
    scene(300, 200).save(root / "whole.webp")
    jpeg, png, webp = ((root / f"whole.{kind}").read_bytes() for kind in ("jpg", "png", "webp"))
    written = {
        "empty.jpg": (b"", "empty"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "no image"),
        "start.jpg": (jpeg[:300], "cannot be decoded"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "end.jpg": (jpeg[:-400], "truncated"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.webp": (webp[: len(webp) // 2], "cannot be decoded"),
        "noise.jpg": (np.random.default_rng(0).bytes(5000), "no image"),
        "vector.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        "large.png": (claim(8000, 8000), "above 50 megapixels"),
        "larger.png": (claim(12_000, 12_000), "above 50 megapixels"),  # Pillow only warns
        "bomb.png": (claim(60_000, 60_000), "above 50 megapixels"),
        "strip.png": (claim(1, 20_000), "more than 50 times"),
    }
    reasons = {}
    for name, (content, reason) in written.items():
        (root / name).write_bytes(content)
        reasons[name] = reason
    Image.fromarray(np.ones((9, 9), np.float32)).save(root / "float.tiff")
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "fifo.jpg")
    (root / "nowhere.jpg").symlink_to(root / "gone")
    (root / "circle.jpg").symlink_to(root / "circle.jpg")
    shutil.copy(root / "whole.jpg", os.fsencode(root) + b"/caf\xe9.jpg")
    return reasons | {
        "float.tiff": "no known range",
        "folder.jpg": "a folder",
        "fifo.jpg": "not a regular file",
        "nowhere.jpg": "missing",
        "circle.jpg": "symbolic links",
        "never.jpg": "missing",
        os.fsdecode(b"caf\xe9.jpg"): "not UTF-8",
        "nul\0.jpg": "NUL",
        "../photos/whole.jpg": "leaves the folder",
        str(root / "whole.jpg"): "leaves the folder",
    }


def test_broken_files_among_good_ones_are_named_and_the_good_ones_unchanged(root, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries do
    good = save(root, 30)
    alone = np.array(images.decode(root, good, SMALL).pixels)
    shutil.rmtree("outputs")
    bad = spoil(root)
    mixed = sorted([*good, *bad])  # good and bad alternate
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = images.decode(root, mixed, SMALL)
    assert time.perf_counter() - started < 5
    again = images.decode(root, mixed, SMALL)
    for found in (first, again):
        table = found.table.set_index("path")
        assert table.index.tolist() == mixed
        assert set(table.index[table["reason"] != ""]) == set(bad)
        for name, word in bad.items():
            assert word in table.loc[name, "reason"] and "\n" not in table.loc[name, "reason"]
            assert not found.pixels[mixed.index(name)].any()
        np.testing.assert_array_equal(found.pixels[[mixed.index(name) for name in good]], alone)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # theirs again


def test_a_file_without_permission_is_named_and_read_once_it_has_it(monkeypatch):
    folder = Path(tempfile.mkdtemp())  # not pytest's own, which another user may not enter
    root = make_project(folder, monkeypatch)
    names = save(root, 3)
    images.decode(root, names[:1], Size(8, 8))  # all imports and folders are there
    (root / "1.jpg").chmod(0)
    try:
        if os.geteuid() == 0:  # root may read everything: become nobody
            for path in [folder, *folder.rglob("*")]:
                path.chmod(
                    path.stat().st_mode
                    | (0o777 if path.is_dir() else 0o666 * (path.name != "1.jpg"))
                )
            os.seteuid(65534)
        found = images.decode(root, names, SMALL)
        if os.geteuid() == 65534:
            os.seteuid(0)
        assert found.table["reason"].tolist() == ["", "Permission denied", ""]
        assert not found.pixels[1].any() and found.pixels[2].any()
        before = (root / "1.jpg").stat()
        (root / "1.jpg").chmod(0o644)
        assert (root / "1.jpg").stat().st_mtime_ns == before.st_mtime_ns  # no stamp tells of it
        assert images.decode(root, names, SMALL).pixels[1].any()
    finally:
        if os.geteuid() == 65534:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_size_that_does_not_exist_is_refused():
    for wrong in [{"resize": "crop"}, {"interpolation": "lanczos"}, {"height": 0}]:
        with pytest.raises(InputError):
            Size(**({"height": 8, "width": 8} | wrong))


# --- the cache ---------------------------------------------------------------------------------


def test_what_was_decoded_once_is_not_read_again(root):
    names = save(root, 6)
    first = images.decode(root, names, SMALL)
    for name in names:
        other_content_same_stamp(root / name)
    (made,) = entries()
    before = made.stat()
    again = images.decode(root, names, SMALL)
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert isinstance(again.pixels, np.memmap) and not again.pixels.flags.writeable
    assert first.pixels.std() > 20
    other = images.decode(root, names, Size(32, 32, "squash"))  # another size must read
    assert set(other.table["reason"]) != {""}


def test_subsets_orders_and_unions_come_from_what_is_there(root):
    names = save(root, 8)
    whole = np.array(images.decode(root, names[:6], SMALL).pixels)
    for name in names[:6]:
        other_content_same_stamp(root / name)
    subset = images.decode(root, [names[4], names[1], names[4]], SMALL)
    np.testing.assert_array_equal(subset.pixels, whole[[4, 1, 4]])
    assert subset.table["path"].tolist() == [names[4], names[1], names[4]]
    union = images.decode(root, names[3:], SMALL)  # two of them are new
    np.testing.assert_array_equal(union.pixels[:3], whole[3:])
    assert set(union.table["reason"]) == {""} and union.pixels[4].any()


def test_a_changed_file_is_decoded_anew(root):
    names = save(root, 3)
    before = np.array(images.decode(root, names, SMALL).pixels)
    scene(90, 70, seed=99).save(root / names[1])
    after = images.decode(root, names, SMALL).pixels
    assert (after[1] != before[1]).any()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    stamps = [(root / name).stat() for name in names]
    (root / names[0]).write_bytes(b"x" * stamps[0].st_size)  # another time
    os.utime(root / names[0], ns=(stamps[0].st_mtime_ns + 1,) * 2)
    (root / names[2]).write_bytes(b"x" * (stamps[2].st_size + 1))  # another length
    os.utime(root / names[2], ns=(stamps[2].st_mtime_ns,) * 2)
    reasons = images.decode(root, names, SMALL).table["reason"]
    assert "no image" in reasons[0] and reasons[1] == "" and "no image" in reasons[2]


def test_every_flipped_bit_is_found_and_repaired(root, caplog):
    names = save(root, 2)
    size = Size(8, 8)
    right = np.array(images.decode(root, names, size).pixels)
    draw = np.random.default_rng(0)
    flips = 0
    for kind in ["pixels.npy", "files.json", "sha256"]:
        for _ in range(40):
            (path,) = entries(kind)
            content = bytearray(path.read_bytes())
            place = draw.integers(len(content))
            content[place] ^= 1 << int(draw.integers(8))
            path.write_bytes(content)
            np.testing.assert_array_equal(images.decode(root, names, size).pixels, right)
            flips += 1
            assert caplog.text.count("is damaged") == flips, (kind, place)


def test_a_damaged_name_is_told_of_though_no_other_file_is_there(root, caplog):
    (name,) = save(root, 1)
    images.decode(root, [name], SMALL)
    (path,) = entries("files.json")
    path.write_text(path.read_text().replace(f'"{name}"', '"1.jpg"'))
    assert images.decode(root, [name], SMALL).pixels.any()
    assert "is damaged (SHA-256 of files.json differs)" in caplog.text


@pytest.mark.parametrize("kind", ["pixels.npy", "files.json", "sha256"])
def test_a_truncated_or_missing_cache_file_is_made_again(root, kind, caplog):
    names = save(root, 4)
    right = np.array(images.decode(root, names, SMALL).pixels)
    for damage in (lambda path: os.truncate(path, 20), lambda path: path.unlink()):
        (path,) = entries(kind)
        damage(path)
        np.testing.assert_array_equal(images.decode(root, names[1:3], SMALL).pixels, right[1:3])
        np.testing.assert_array_equal(images.decode(root, names, SMALL).pixels, right)
        for folder in Path("outputs/.cache/pixels").glob("*/*"):
            if json.loads((folder / "files.json").read_text())["files"][0][0] != names[0]:
                shutil.rmtree(folder)  # the subset's
    assert caplog.text.count("is damaged") == 2


CHILD = """
import sys
from clipfh_lib.data import images
found = images.decode("photos", sys.argv[1:], images.Size(224, 224))
print(int(found.pixels.sum(dtype="int64")), found.table["reason"].ne("").sum())
"""


def child(*names):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[2])},
    )


def test_two_processes_at_once_decode_once(root):
    names = save_large(root, 80)
    both = [child(*names), child(*names)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert outputs[0][0] == outputs[1][0] and outputs[0][0].endswith(" 0\n")
    assert sum("decode to 224x224" in errors for _, errors in outputs) == 1  # one progress bar
    assert len(entries()) == 1


def test_a_killed_decode_leaves_nothing_that_counts(root, caplog):
    names = save_large(root, 80)
    process = child(*names)
    started = time.monotonic()
    while not list(Path(".").glob("outputs/.cache/pixels/*/.writing-*/pixels.npy")):
        assert time.monotonic() - started < 30 and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(path.parent.name.startswith(".writing-") for path in entries())
    found = images.decode(root, names, Size(224, 224))
    assert set(found.table["reason"]) == {""} and len(entries()) == 1
    assert not list(Path(".").glob("outputs/.cache/pixels/*/.writing-*"))
    assert "damaged" not in caplog.text


def test_a_failed_write_leaves_nothing_and_says_so(root, monkeypatch):
    names = save(root, 5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "replace", full)
    with pytest.raises(InputError, match=r"pixels/.* cannot be written \(No space left"):
        images.decode(root, names, SMALL)
    assert not list(Path("outputs/.cache/pixels").glob("*/*"))


def test_the_cache_may_be_deleted_at_any_moment(root, monkeypatch):
    names = save(root, 5)
    right = np.array(images.decode(root, names, SMALL).pixels)
    shutil.rmtree("outputs/.cache")
    np.testing.assert_array_equal(images.decode(root, names, SMALL).pixels, right)
    shutil.rmtree("outputs/.cache")
    read, called = images._read, []

    def sweep(*arguments):
        if not called:
            shutil.rmtree("outputs/.cache")
        called.append(1)
        return read(*arguments)

    monkeypatch.setattr(images, "_read", sweep)
    np.testing.assert_array_equal(images.decode(root, names, SMALL, workers=1).pixels, right)
    assert len(called) == 10  # once more, all of them


MEASURE = r"""
import re, resource, sys
from pathlib import Path
from clipfh_lib.data import images
def peak():  # MB; Linux's ru_maxrss begins with that of the process that started this one
    if (status := Path("/proc/self/status")).exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
images.decode("photos", ["small.png"], images.Size(8, 8))
before = peak()
found = images.decode("photos", sys.argv[1:], images.Size(512, 512, "squash", "box"), workers=4)
assert not found.table["reason"].any()
print(peak() - before)
"""


@pytest.mark.parametrize(
    "width, height, count, limit",
    [(2500, 2000, 40, 150), (6600, 6600, 4, 300)],  # held together they were 800 and 700 MB
)
def test_memory_does_not_grow_with_pictures_or_threads(root, width, height, count, limit):
    scene(20, 20).save(root / "small.png")
    Image.new("RGB", (width, height), (200, 150, 130)).save(root / "0.jpg")
    names = [f"{number}.jpg" for number in range(count)]
    for name in names[1:]:
        os.link(root / "0.jpg", root / name)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *names],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[2])},
    )
    assert 5 < float(measured.stdout) < limit


def test_the_largest_pictures_of_any_kind_cost_two_copies(root):
    """Held whole in each mode that they go through, the transparent one was 750 MB."""
    scene(20, 20).save(root / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (7000, 7000), (200, 150, 130, 90))
    clear.save(root / "clear.png", exif=exif, compress_level=1)
    deep = np.full((7000, 7000), 40_000, np.uint16)
    Image.fromarray(deep).save(root / "deep.png", exif=exif, compress_level=1)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, "clear.png", "deep.png"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[2])},
    )
    assert 300 < float(measured.stdout) < 480
    Image.new("RGB", (4200, 4200)).save(root / "frames.webp", lossless=True, method=0)
    table = images.survey(root, ["frames.webp"]).table
    assert table["reason"].tolist() == ["above 16 megapixels"]


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_strips_make_the_same_pixels_as_the_whole(root, monkeypatch, rows):
    clear = scene(31, 45).convert("RGBA")
    clear.putalpha(scene(31, 45, seed=1).convert("L"))
    forms = {"rgba": clear, "la": clear.convert("LA"), "cmyk": clear.convert("CMYK")}
    forms["i16"] = Image.fromarray(np.asarray(scene(31, 45).convert("L")).astype(np.uint16) * 257)
    monkeypatch.setattr(images, "STRIP", 31 * rows)
    for name, image in forms.items():
        image.save(root / f"{name}.tiff")
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    expected = {
        "rgba": Image.alpha_composite(white, clear),
        "la": Image.alpha_composite(white, forms["la"].convert("RGBA")),
        "cmyk": forms["cmyk"],
        "i16": scene(31, 45).convert("L"),
    }
    found = images.decode(root, [f"{name}.tiff" for name in forms], Size(45, 31)).pixels
    for name, pixels in zip(forms, found, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(expected[name].convert("RGB")), name)


# --- what is made of them ----------------------------------------------------------------------


def test_pixels16_equals_its_formula(root):
    names = save(root, 3, width=160, height=96, suffix="png")
    scene(16, 16).resize((160, 96), Image.Resampling.NEAREST).save(root / names[2])
    ours = images.pixels16(images.survey(root, names))
    assert ours.shape == (3, 768) and ours.dtype == np.float32
    # Pillow rounds twice, by rows and by columns: 1 of 255; blocks of one colour are exact
    for name, row, tolerance in zip(names, ours, [2e-3, 2e-3, 1e-6], strict=True):
        with Image.open(root / name) as image:
            pixels = np.asarray(image).astype(float)
        means = pixels.reshape(16, 6, 16, 10, 3).mean(axis=(1, 3)).ravel() - 127
        assert np.abs(row - means / np.sqrt((means**2).sum())).max() < tolerance
    assert np.abs(ours @ ours.T - np.eye(3)).max() > 0.01  # they are near, and not the same
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_pixels16_refuses_broken_files_and_other_sizes(root):
    names = save(root, 2)
    (root / names[1]).write_bytes(b"x")
    with pytest.raises(ValueError, match="1 unread, first '1.jpg'"):
        images.pixels16(images.survey(root, names))
    with pytest.raises(ValueError, match="shape"):
        images.pixels16(images.decode(root, names[:1], SMALL))


def test_survey_knows_the_files_own_sizes_and_thumbnails_show_whole_frames(root):
    scene(160, 120).save(root / "wide.jpg")
    scene(120, 160).save(root / "tall.jpg")
    table = images.survey(root, ["wide.jpg", "tall.jpg"]).table
    assert table[["width", "height"]].to_numpy().tolist() == [[160, 120], [120, 160]]
    wide, tall = images.thumbnails(root, ["wide.jpg", "tall.jpg"], height=48)
    assert wide.shape == tall.shape == (48, 64, 3)
    assert (tall[:, :14] == 255).all() and (tall[:, 14:50] < 250).any(axis=2).mean() > 0.9


def test_pictures_read_past_the_cache_are_the_same_and_leave_nothing_there(root):
    names = [*save(root, 3), "none.jpg", "../0.jpg", "broken.jpg"]
    (root / "broken.jpg").write_bytes(b"no picture")
    found = images.uncached(root, names, SMALL)
    assert not entries() and not list(Path("outputs").rglob("*.json"))
    cached = images.decode(root, names, SMALL)
    assert len(entries()) == 1
    np.testing.assert_array_equal(found.pixels, cached.pixels)
    pd.testing.assert_frame_equal(found.table, cached.table)
    assert found.table["reason"].ne("").tolist() == [False] * 3 + [True] * 3
    assert found.pixels[:3].any() and not found.pixels[3:].any()


def test_nothing_asked_gives_an_empty_result(root):
    found = images.decode(root, [], SMALL)
    assert found.pixels.shape == (0, 32, 32, 3) and len(found.table) == 0
    assert list(found.table) == ["path", "width", "height", "mode", "reason"]
