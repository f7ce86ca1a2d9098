"""Images with captions: a JSON of annotations, or train, val and test with a text beside each."""

from pathlib import Path

from clipfh_lib.data.layouts import Found
from clipfh_lib.schema import DataParams


def needed(folder: Path, data: DataParams) -> list[str]:
    """What must lie in the folder."""
    return []


def tables(folder: Path, data: DataParams) -> list[str]:
    """Files whose content decides the images table, relative to the folder."""
    return []


def read(folder: Path, data: DataParams) -> Found:
    """Read images and captions."""
    return Found()
