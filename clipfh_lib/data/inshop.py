"""DeepFashion In-Shop: images of garments, who is query and who is gallery, and descriptions."""

from pathlib import Path

from clipfh_lib.data.layouts import Found
from clipfh_lib.schema import DataParams

TABLES = ["Eval/list_eval_partition.txt", "Anno/list_description_inshop.json"]


def needed(folder: Path) -> list[str]:
    """What must lie in the folder."""
    return [TABLES[0]]


def read(folder: Path, data: DataParams) -> Found:
    """Read partition and descriptions."""
    return Found()
