"""What each run took: parameters, seconds, memory, from its folder alone."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import yaml
from safetensors import safe_open

from clipfh_lib import runs
from clipfh_lib.reports import photographs, tables

COLUMNS = [
    "dataset", "notebook", "run", "method", "backbone", "recipe", "seed", "parameters", "trained",
    "seconds", "fit_seconds", "peak_memory_mb", "threads", "device", "machine", "remark",
]  # fmt: skip


def of_runs(folders: Iterable[str | Path]) -> pd.DataFrame:
    """A row for each complete run.

    Returns:
        COLUMNS: `parameters` of the whole model with its heads, `trained` those that some epoch
        trains (0 where nothing is), `seconds` of the notebook from its start to its end,
        `fit_seconds` of the training within it, `peak_memory_mb` of the process at most. Empty is
        what a run does not tell.
    """
    rows = []
    for folder in map(Path, folders):
        if runs.is_complete(folder):
            made = runs.manifest(folder)
            params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) or {}
            row = {name: params.get(name) for name in COLUMNS[3:7]}
            row |= {name: made.get(name) for name in COLUMNS[9:15]}
            row |= {"dataset": params.get("dataset"), "notebook": folder.parent.name}
            row |= {"run": folder.name, **_parameters(folder, made, params)}
            row["remark"] = photographs.remark(params)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """`of_runs` to read: millions of parameters, minutes and seconds, gigabytes."""
    shown = table[["dataset", "notebook", "run"]].rename(columns=tables.WORDS)
    for name in ("parameters", "trained"):
        shown[f"{name}, millions"] = [_number(each, 1e6, 2) for each in table[name]]
    for name, word in (("seconds", "time"), ("fit_seconds", "of it training")):
        shown[word] = ["" if pd.isna(each) else _time(each) for each in table[name]]
    shown["peak memory, GB"] = [_number(each, 1000, 1) for each in table["peak_memory_mb"]]
    for name in ("threads", "device", "machine"):
        shown[name] = ["" if each is None or pd.isna(each) else str(each) for each in table[name]]
    return shown.assign(remark=table["remark"])


def _parameters(folder: Path, made: dict, params: dict) -> dict[str, int]:
    """How many there are and how many are trained: said, listed by part, or counted in the file."""
    if (folder / "parts.csv").is_file():
        parts = pd.read_csv(runs.kept(folder, "parts.csv"))
        return {name: int(parts[name].sum()) for name in ("parameters", "trained")}
    trained = {"trained": 0} if "model" in params and "fit" not in params else {}
    if "parameters" in made:
        return {"parameters": int(made["parameters"]), **trained}
    path = folder / "checkpoints" / "best.safetensors"
    return {"parameters": counted(path), **trained} if path.is_file() else trained


def counted(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone; statistics of batch norm among them."""
    total = 0
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  (it is no dict)
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def _number(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None or pd.isna(value) else f"{value / unit:.{digits}f}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
