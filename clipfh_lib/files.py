"""What every room needs of the disk: the project's root, atomic writes, hashes, locks, safe CSV."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

# A spreadsheet runs a text cell that begins with one of these, the wide ones in an Asian locale; an
# apostrophe is counted with them, so that what is read back is what was written.
FORMULA = r"'*[=+\-@\t\r\n＝＋－＠]"
NUMBER = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
SEAL = "seal"  # the key of a JSON file's own hash


class InputError(ValueError):
    """What a user gave cannot be used; one line that names the thing and the way out.

    In a notebook it is shown as that line alone, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def project() -> Path:
    """Nearest ancestor of the working folder with params/ and pyproject.toml, or the package's."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "params").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return Path(__file__).resolve().parents[1]


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one starts at the project's root."""
    return project() / Path(path).expanduser()


def cache() -> Path:
    """The project's cache, whatever the parameter `outputs` says; safe to delete."""
    return make(project() / "outputs" / ".cache")


def make(folder: Path) -> Path:
    """A folder to write into, made with all above it if it was missing.

    Raises:
        InputError: no permission, a full or read-only disk, a file in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def write(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write a temporary neighbour, then move it into place, whole or not at all.

    Args:
        path: where the file shall stand; missing folders are made.
        fill: called with the temporary path, which has the same suffix.

    Raises:
        InputError: the disk is full, the folder read-only and the like; an older file is kept.
    """
    make(path.parent)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        fill(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except Exception as error:
        if not _disk_says(error):
            raise
        raise unwritable(path, error) from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return path


def unwritable(path: Path, error: Exception) -> InputError:
    """What to raise when the disk does not take a file or folder."""
    return InputError(
        f"{path} cannot be written ({_disk_says(error)}); what stood there is kept: make room or "
        "permission, or choose another folder, then run again"
    )


def _disk_says(error: Exception) -> str:
    """Why the disk stopped a writer; empty if something else did.

    The writers of safetensors and torch have errors of their own.
    """
    if isinstance(error, OSError):
        return error.strerror or repr(error)
    if found := re.search(r"([^:]+) \(os error \d+\)", str(error)):
        return found[1].strip()
    return "the disk takes no more" if "inline_container" in str(error) else ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> Path:
    """Write JSON atomically, keys sorted."""
    return write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_sealed(path: Path, content: dict) -> Path:
    """Write JSON atomically, keys sorted, with a hash of itself, for `read_sealed`."""
    return write_text(path, _sealed(json.loads(json.dumps(content))))


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote, without the hash.

    Raises:
        OSError: there is no such file.
        ValueError: it is not, to the bit, what was written.
    """
    text = path.read_bytes().decode("utf-8")
    content = json.loads(text)
    if not isinstance(content, dict) or SEAL not in content:
        raise ValueError("it holds no hash of itself")
    del content[SEAL]
    if _sealed(content) != text:
        raise ValueError("it is not what was written")
    return content


def _sealed(content: dict) -> str:
    """The text of a file, its hash in it."""
    return json.dumps(content | {SEAL: digest(content)}, indent=2, sort_keys=True) + "\n"


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table atomically; text that a spreadsheet would run gets a leading apostrophe.

    Numbers are left alone, negative ones too, also where they stand as text; floats have at most
    ten significant digits. A name that is not UTF-8 is written with backslashes.
    """
    safe = table.rename(columns=defuse)
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = safe[column].map(defuse)
    how = {"index": False, "float_format": "%.10g", "lineterminator": "\n"}
    return write(path, lambda t: safe.to_csv(t, errors="backslashreplace", **how))


def defuse(cell: object) -> object:
    """The cell, with an apostrophe before text that a spreadsheet would take for a formula.

    A negative number is none. Carriage returns, which csv leaves unquoted and pandas reads as a new
    row, become blanks.
    """
    if not isinstance(cell, str):
        return cell
    runs = re.match(FORMULA, cell) and not NUMBER.fullmatch(cell)
    return ("'" if runs else "") + cell.replace("\r", " ")


def read_csv(path: Path, kinds: dict[str, str], may_be_empty: Sequence[str] = ()) -> pd.DataFrame:
    """A table that `write_csv` wrote: text stays text ("0012", "NA"), without its apostrophes.

    Args:
        kinds: dtype of a column, "str" for text; others are guessed.
        may_be_empty: text columns where an empty cell is NaN and not "".
    """
    header = pd.read_csv(path, nrows=0).columns
    kinds = {column: kind for column, kind in kinds.items() if column in header}
    empty = {name: [""] for name in header if kinds.get(name) != "str" or name in may_be_empty}
    table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=empty)
    for column in table:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = table[column].str.replace(f"^'(?={FORMULA})", "", regex=True)
            if column not in may_be_empty:
                table[column] = table[column].fillna("")
    return table


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is there and cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; it must be a readable file") from None


def digest(content: object) -> str:
    """Hex SHA-256 of anything that JSON can hold, the same for equal content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def lock(thing: str | Path) -> FileLock:
    """A lock in the project's cache for one thing, a folder or cache entry, with one writer."""
    folder = make(cache() / "locks")
    return FileLock(folder / f"{digest(str(thing))[:16]}.lock", is_singleton=True)
