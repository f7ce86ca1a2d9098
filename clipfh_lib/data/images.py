"""Files -> uint8 pixels at the size that is wanted, decoded once and kept; what could not be read.

The cache: outputs/.cache/pixels/<root, size, versions>/<paths, file sizes, times>/ holds
`pixels.npy`, `files.json` (one row per file) and `sha256` (as `sha256sum -c` reads it). A folder is
written once and never changed. A request finds its own folder, or else takes rows from its
neighbours (the same root at the same size) and decodes only what none of them has.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features
from tqdm.auto import tqdm

from clipfh_lib import files

log = logging.getLogger(__name__)

ALGORITHM = 1  # raise it when the pixels made here change, so that older caches are left alone
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")  # Pillow's holes are in the exotic ones
MAX_PIXELS = 50_000_000  # 200 MB in Pillow; a bomb of a few kB can claim more
HEAVY = {"WEBP": 3}  # its decoder holds several frames, so that a pixel counts as three
MAX_RATIO = 50  # longer to shorter side: `clip` would blow a 1 x 50,000 strip up to gigabytes
SINGLY = 16_000_000  # larger pictures share one thread: memory must not grow with the cores
STRIP = 1_000_000  # pixels that are brought to RGB at a time, so that few copies are whole
WHITE = (255, 255, 255)  # behind transparency, beside a letterbox: the hands' own background
WRITING = ".writing-"
INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,  # the mean over the area of a pixel
}
TURN = {  # the EXIF orientation, and what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Size:
    """The size that pixels are brought to, and how.

    Args:
        height: pixels.
        width: pixels.
        resize: `clip`, CLIP's own: the shorter side to the target (for a rectangle: so that both
            are filled), then the centre; `squash`: both sides to the target, the ratio is lost;
            `letterbox`: the whole picture with its ratio, white beside it.
        interpolation: `bicubic` (CLIP), `bilinear`, or `box`, the mean over a pixel's area.
    """

    height: int
    width: int
    resize: Literal["clip", "squash", "letterbox"] = "clip"
    interpolation: Literal["bicubic", "bilinear", "box"] = "bicubic"

    def __post_init__(self) -> None:
        if self.resize not in ("clip", "squash", "letterbox"):
            raise files.InputError(f"resize {self.resize!r}: choose clip, squash or letterbox")
        if self.interpolation not in INTERPOLATION:
            raise files.InputError(
                f"interpolation {self.interpolation!r}: choose {', '.join(INTERPOLATION)}"
            )
        if self.height < 1 or self.width < 1:
            raise files.InputError(f"size {self.height} x {self.width}: at least one pixel each")


SURVEY = Size(16, 16, "squash", "box")


class Decoded(NamedTuple):
    """What `decode` found.

    Args:
        pixels: (N, H, W, 3) uint8 memory map, read-only, in the order of the paths; zeros where a
            file could not be read.
        table: one row per path: `path`, `width` and `height` of the file as it is displayed (after
            the EXIF turn; 0 if unknown), `mode` (Pillow's, of the file), and `reason`: "" where it
            was read, else why not, in one line.
    """

    pixels: np.ndarray
    table: pd.DataFrame


class Row(NamedTuple):
    """A file as the cache knows it; the first three say whether it is still the same."""

    path: str
    bytes: int = -1
    mtime_ns: int = -1
    width: int = 0
    height: int = 0
    mode: str = ""
    reason: str = ""


class Kept(NamedTuple):
    """A file's place in a folder of the cache."""

    folder: Path
    pixels: np.ndarray
    index: int
    row: Row


def decode(root: str | Path, paths: Sequence[str], size: Size, workers: int = 0) -> Decoded:
    """Read image files once and keep their pixels at one size.

    Colour is RGB without its ICC profile, as CLIP was trained; the EXIF turn is applied, what is
    transparent shows white, the first frame stands for an animation. For RGB and grey files with
    `clip` the pixels equal those of open_clip's own preprocessing bit for bit.

    Args:
        root: folder that the paths start from; itself relative to the project.
        paths: relative to the root; one that leaves it (`..`, absolute) is not read.
        size: what the pixels are brought to.
        workers: threads that decode; 0 for one per core.

    Returns:
        Pixels and table, row for row as the paths. A file that cannot be read never raises.
    """
    root = files.resolve(root).resolve()
    try:
        return _decode(root, paths, size, workers)
    except FileNotFoundError:
        log.warning("the decode cache was emptied while it was being filled: once more")
        return _decode(root, paths, size, workers)


def survey(root: str | Path, paths: Sequence[str], workers: int = 0) -> Decoded:
    """Sizes and modes of all files, what is broken, and the 16 x 16 pixels for `pixels16`."""
    return decode(root, paths, SURVEY, workers)


def uncached(root: str | Path, paths: Sequence[str], size: Size) -> Decoded:
    """`decode` past the cache: neither pixels nor names of these files are kept anywhere.

    For people who may ask to be forgotten. Pixels are an array in memory, equal to `decode`'s.
    """
    root = files.resolve(root).resolve()
    rows, pixels = [_look(root, str(path)) for path in paths], []
    with _strict_pillow(), ThreadPool(1) as singly:
        for number, row in enumerate(rows):
            content = None
            if not row.reason:
                content, rows[number] = _read(root, size, singly, row)
            pixels.append(content or bytes(size.height * size.width * 3))
    shape = (len(rows), size.height, size.width, 3)
    return Decoded(np.frombuffer(b"".join(pixels), np.uint8).reshape(shape), _table(rows))


def fit(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Bring pixels that are decoded already, (H, W, 3) uint8, to another size, as `decode` would."""
    return np.asarray(_fit(Image.fromarray(pixels), size))


def thumbnails(root: str | Path, paths: Sequence[str], height: int = 96) -> np.ndarray:
    """(N, height, 4/3 height, 3) uint8 for sample sheets: whole frames; black if not readable."""
    return decode(root, paths, Size(height, round(height * 4 / 3), "letterbox")).pixels


def pixels16(decoded: Decoded) -> np.ndarray:
    """The `pixels` embedding: 16 x 16 RGB means, 127 subtracted, of norm 1.

    A picture that is 127 everywhere stays zero.

    Args:
        decoded: from `survey`, or from `decode` with SURVEY.

    Returns:
        (N, 768) float32.

    Raises:
        ValueError: another size, or a file that could not be read.
    """
    if decoded.pixels.shape[1:] != (16, 16, 3):
        raise ValueError(f"pixels of shape {decoded.pixels.shape[1:]}, not (16, 16, 3)")
    broken = decoded.table[decoded.table["reason"] != ""]
    if len(broken):
        first = broken.iloc[0]
        raise ValueError(f"{len(broken)} unread, first {first['path']!r}: {first['reason']}")
    flat = decoded.pixels.reshape(len(decoded.pixels), -1).astype(np.float32) - 127
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


# --- the cache ---------------------------------------------------------------------------------


def _decode(root: Path, paths: Sequence[str], size: Size, workers: int) -> Decoded:
    rows = [_look(root, str(path)) for path in paths]
    made_by = {
        "root": str(root),
        "size": asdict(size),
        "algorithm": ALGORITHM,
        "pillow": Image.__version__,
        "libjpeg": f"{features.version('jpg')} {features.version('libjpeg_turbo')}",
    }
    group = files.cache() / "pixels" / files.digest(made_by)[:16]
    entry = group / files.digest([row[:3] for row in rows])[:16]
    with files.lock(group):
        files.make(group)
        wanted = {row[:3] for row in rows if not row.reason}
        kept: dict[tuple, Kept] = {}
        for folder in [entry, *sorted(set(group.iterdir()) - {entry})]:
            if folder.name.startswith(WRITING):  # of a killed process: who writes holds the lock
                shutil.rmtree(folder, ignore_errors=True)
            else:
                kept |= _kept(folder, wanted - kept.keys())
        folders = {place.folder for place in kept.values()}
        if wanted == kept.keys() and folders == {entry}:
            rows = [row if row.reason else kept[row[:3]].row for row in rows]
            return Decoded(next(iter(kept.values())).pixels, _table(rows))
        rows = _fill(entry, root, rows, kept, size, workers, made_by)
        return Decoded(np.load(entry / "pixels.npy", mmap_mode="r"), _table(rows))


def _look(root: Path, path: str) -> Row:
    """What the disk says of a file without opening it; a reason if it shall not be opened."""
    try:
        path.encode()
        if os.path.isabs(path) or ".." in PurePath(path).parts:
            return Row(path, reason="leaves the folder of the data")
        found = os.stat(os.path.join(root, path))
    except UnicodeEncodeError:
        return Row(path, reason="its name is not UTF-8")
    except FileNotFoundError:
        return Row(path, reason="missing")
    except ValueError:
        return Row(path, reason="its name holds a NUL")
    except OSError as error:  # no permission, a loop of links, too long a name
        return Row(path, reason=_reason(error))
    if stat.S_ISDIR(found.st_mode):
        return Row(path, reason="a folder, not a file")
    if not stat.S_ISREG(found.st_mode):  # to open a FIFO would wait for ever
        return Row(path, reason="not a regular file")
    return Row(path, found.st_size, found.st_mtime_ns, reason="" if found.st_size else "empty")


def _kept(folder: Path, wanted: set[tuple]) -> dict[tuple, Kept]:
    """Those of the wanted files that a folder of the cache has; a damaged folder is removed."""
    try:
        if not wanted or not folder.is_dir():
            return {}
        text, sums = (folder / "files.json").read_bytes(), (folder / "sha256").read_bytes()
        line = _sum("files.json", hashlib.sha256(text).hexdigest())
        if not sums.endswith(line):
            raise ValueError("SHA-256 of files.json differs")
        rows = [Row(*row) for row in json.loads(text)["files"]]
        found = {row[:3]: index for index, row in enumerate(rows) if row[:3] in wanted}
        if not found:
            return {}
        if sums != _sum("pixels.npy", files.sha256(folder / "pixels.npy")) + line:
            raise ValueError("SHA-256 of pixels.npy differs")
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("decode cache %s is damaged (%s): made again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return {}
    return {stamp: Kept(folder, pixels, index, rows[index]) for stamp, index in found.items()}


def _sum(name: str, sha256: str) -> bytes:
    """A line of the file `sha256`."""
    return f"{sha256}  {name}\n".encode()


def _fill(
    entry: Path,
    root: Path,
    rows: list[Row],
    kept: dict[tuple, Kept],
    size: Size,
    workers: int,
    made_by: dict,
) -> list[Row]:
    """Write a folder of the cache, whole or not at all: kept rows are copied, the others decoded.

    Rows go into the file in order and through the hash as they come, so that neither many pictures
    nor the map are ever in memory.
    """
    todo = [row for row in rows if not row.reason and row[:3] not in kept]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, min(workers or cores or 1, len(todo)))
    shape = (len(rows), size.height, size.width, 3)
    blank = bytes(size.height * size.width * 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    temporary = Path(tempfile.mkdtemp(prefix=WRITING, dir=entry.parent))
    try:
        bar = tqdm(total=len(todo), desc=f"decode to {size.height}x{size.width}", disable=not todo)
        with bar, _strict_pillow(), ThreadPool(threads) as pool, ThreadPool(1) as singly:
            read = partial(_read, root, size, singly)
            with (temporary / "pixels.npy").open("wb") as file:
                fresh, done, total = pool.imap(read, todo), [], hashlib.sha256(header.getvalue())
                file.write(header.getvalue())
                for row in rows:
                    pixels = blank
                    if row[:3] in kept:
                        place = kept[row[:3]]
                        pixels, row = place.pixels[place.index].tobytes(), place.row
                    elif not row.reason:
                        pixels, row = next(fresh)
                        bar.update()
                    file.write(pixels or blank)
                    total.update(pixels or blank)
                    done.append(row)
        content = {"made_by": made_by, "files": done}
        text = json.dumps(content).encode()
        (temporary / "files.json").write_bytes(text)
        sums = _sum("pixels.npy", total.hexdigest())
        sums += _sum("files.json", hashlib.sha256(text).hexdigest())
        (temporary / "sha256").write_bytes(sums)
        shutil.rmtree(entry, ignore_errors=True)  # one with files that could not be opened then
        os.replace(temporary, entry)
    except FileNotFoundError:
        raise  # somebody emptied the cache
    except OSError as error:
        raise files.unwritable(entry, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def _table(rows: list[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=Row._fields)
    return table[["path", "width", "height", "mode", "reason"]]


# --- one file ----------------------------------------------------------------------------------


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """No warnings (a file gets its reason in the table) and no truncated file read as grey."""
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES  # some libraries set it for the whole process
    with warnings.catch_warnings():  # here, around all threads: it is not safe within them
        warnings.simplefilter("ignore")
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = truncated


def _read(root: Path, size: Size, singly: ThreadPool, row: Row) -> tuple[bytes | None, Row]:
    """Pixels of one file (H * W * 3 bytes, or none) and its row with what was learnt."""
    try:
        with open(os.path.join(root, row.path), "rb") as file:
            image = Image.open(file, formats=FORMATS)
            row = row._replace(width=image.width, height=image.height, mode=image.mode)
            pixels, weight = image.width * image.height, HEAVY.get(image.format, 1)
            if pixels > MAX_PIXELS // weight:
                return None, row._replace(reason=_above(MAX_PIXELS // weight))
            if max(image.size) > MAX_RATIO * min(image.size):
                raise ValueError(f"one side more than {MAX_RATIO} times the other")
            large = pixels > SINGLY // weight
            made = singly.apply(_pixels, (image, size)) if large else _pixels(image, size)
            content, width, height = made
        return content, row._replace(width=width, height=height)
    except Exception as error:  # a hostile file can make Pillow raise nearly anything
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            row = row._replace(bytes=-1, mtime_ns=-1)  # the machine's fault: tried again next time
        return None, row._replace(reason=_reason(error))


def _above(pixels: int) -> str:
    return f"above {pixels // 1_000_000} megapixels"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return _above(MAX_PIXELS)
    if isinstance(error, UnidentifiedImageError):
        return f"no image of a kind that is read ({', '.join(FORMATS)})"
    text = getattr(error, "strerror", None) or f"cannot be decoded: {error or type(error).__name__}"
    return " ".join(text.split())[:200]


def _pixels(image: Image.Image, size: Size) -> tuple[bytes, int, int]:
    """Its H * W * 3 bytes, and width and height as it is displayed."""
    upright = _upright_rgb(image)
    made = _fit(upright, size).tobytes(), upright.width, upright.height
    image.close()  # frees the pixels here, not when the thread that opened it comes round to it
    return made


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Decode in full: Pillow's `draft` is three times faster, but its pixels are not CLIP's."""
    image.load()
    turn = TURN.get(image.getexif().get(ExifTags.Base.Orientation))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no known range")
    if image.mode != "RGB" or image.has_transparency_data:
        page, rows = Image.new("RGB", image.size), max(1, STRIP // image.width)
        for top in range(0, image.height, rows):
            box = (0, top, image.width, min(top + rows, image.height))
            page.paste(_rgb(image.crop(box)), box)
        image.close()
        image = page
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("RGB") would cut everything above 255 to white
        image = image.convert("I").point([(value + 128) // 257 for value in range(65536)], "L")
    elif image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.new("RGBA", image.size, WHITE)
        image.alpha_composite(clear)
    return image.convert("RGB")


def _fit(image: Image.Image, size: Size) -> Image.Image:
    """Bring an RGB image to the size; the rounding is that of torchvision and open_clip."""
    method, target = INTERPOLATION[size.interpolation], (size.width, size.height)
    if size.resize == "squash":
        return image.resize(target, method)
    ratios = image.width / size.width, image.height / size.height
    if size.resize == "clip" and size.width == size.height:
        short = min(image.size)
        inner = tuple(int(size.width * side / short) for side in image.size)
    else:
        ratio = min(ratios) if size.resize == "clip" else max(ratios)
        inner = tuple(max(1, round(side / ratio)) for side in image.size)
    image = image.resize(inner, method)
    if size.resize == "letterbox":
        page = Image.new("RGB", target, WHITE)
        page.paste(image, ((size.width - inner[0]) // 2, (size.height - inner[1]) // 2))
        return page
    left, top = (int(round((have - want) / 2.0)) for have, want in zip(inner, target, strict=True))
    return image.crop((left, top, left + size.width, top + size.height))
