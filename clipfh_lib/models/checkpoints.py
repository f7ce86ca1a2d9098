"""Checkpoints of a fit on disk: sealed, so that one changed bit is found; what they are of."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clipfh_lib import files

HEX = 64  # letters of a SHA-256


def write(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write a checkpoint, which is a zip file, and seal it, whole or not at all."""

    def sealed(temporary: Path) -> None:
        fill(temporary)
        _seal(temporary)

    return files.write(path, sealed)


def _seal(checkpoint: Path) -> None:
    """Put the SHA-256 of a checkpoint behind it, as the comment that a zip file may end with.

    So both are moved into place as one. Torch and its check sums pass over many a changed bit.
    """
    with checkpoint.open("r+b") as file:
        file.seek(-2, os.SEEK_END)  # the length of the comment, 0 until now
        file.write(HEX.to_bytes(2, "little"))
    content = files.sha256(checkpoint)
    with checkpoint.open("ab") as file:
        file.write(content.encode())


def read(path: Path) -> dict:
    """A checkpoint, its tensors on the CPU; no code in it is run.

    Raises:
        ValueError: it is not, to the bit, what was written, or holds more than plain values.
    """
    try:
        content = np.memmap(path, np.uint8, "r")
        if hashlib.sha256(content[:-HEX]).hexdigest().encode() != content[-HEX:].tobytes():
            raise ValueError("it is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make a reader raise nearly anything
        raise ValueError(next(iter(str(error).splitlines()), repr(error))) from None


def copy(source: Path, path: Path) -> Path:
    """The same file under a second name: a hard link, where the disk has them, takes no space.

    No checkpoint is written into once it is in place, so the two never part.
    """

    def fill(temporary: Path) -> None:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    return files.write(path, fill)


def difference(there: dict[str, object], here: dict[str, object]) -> str:
    """Key by key what two fits do not share: "fit.lr: 1e-05 there, 2e-05 here"; empty if equal.

    Of modules of code only the names are told.
    """
    keys = [key for key in {**there, **here} if there.get(key, ...) != here.get(key, ...)]
    code = [key.removeprefix("code.clipfh_lib.") for key in keys if key.startswith("code.")]
    said = [
        f"{key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} here"
        for key in keys
        if not key.startswith("code.")
    ]
    return "; ".join([*said, *(["code: " + ", ".join(sorted(code))] if code else [])])
