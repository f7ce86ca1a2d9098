"""A run's folder: its name, what made it, what it holds, whether it is complete."""

import ast
import functools
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pandas as pd
import yaml
from filelock import Timeout

import clipfh_lib
from clipfh_lib import files
from clipfh_lib.files import InputError
from clipfh_lib.schema import Common
from clipfh_lib.study import StudyParams

IDENTITY = ["dataset", "test_aspect", "method", "backbone", "recipe", "seed", "weights"]
LONG = [*IDENTITY, "gallery", "subset", "direction", "metric", "value"]
PACKAGES = (
    "faiss-cpu lightning matplotlib numpy open_clip_torch pandas papermill pillow "
    "pytorch-metric-learning safetensors scikit-learn scipy snakemake timm torch torchvision"
).split()
# Of a run's parameters, what trained weights do not depend on.
NOT_TRAINED = {
    *("dataset", "backbone", "recipe", "overrides", "data"),
    *("embed", "evaluation", "loader", "naming", "device"),
}
NOT_OF_FIT = {"keep_epochs", "resume_from"}
DPI = 300  # of figures as PNG, and of the pictures within a PDF


def folder(notebook: str, p: Common | str, outputs: str | Path) -> Path:
    """Where a run stands; the same parameters come back to the same place.

    Args:
        notebook: file name without .ipynb, e.g. "02_zero_shot".
        p: the run's parameters; for 20_compare the plan's name.
        outputs: parameter of the notebook; relative to the project's root.
    """
    base = files.resolve(outputs)
    if isinstance(p, str):
        return base / p / notebook
    overrides = dict(p.overrides)
    if notebook == "01_prepare_data":
        overrides = {key: value for key, value in overrides.items() if key.startswith("data.")}
        name = f"seed{p.data.split_seed}"
    elif isinstance(p, StudyParams):
        name = f"{p.of.notebook}-{Path(p.of.folder).name}"
        name += f"-of-{p.of.dataset}" if p.of.dataset != p.dataset else ""
        name += f"-{p.recipe}" if p.recipe != "default" else ""
    else:
        name = f"{p.backbone}-{p.recipe}-seed{p.seed}"
    return (
        base
        / p.dataset
        / notebook
        / (name + (f"-{files.digest(overrides)[:8]}" if overrides else ""))
    )


def key(notebook: str, p: Common | str, data: str | list[str], weights: str | None = None) -> str:
    """SHA-256 of what decides a run's content: parameters, data, weights, prompts, code; no times.

    Whether photographs may be printed (`data.photographs`) decides a report, and no run.

    Args:
        data: what the run reads: the digest of its data set or split, the keys of other runs.
        weights: stands for what model.weights holds; for a run folder that is still to be made, the
            key of its run, so that this key does not change when it is there.
    """
    content = {"notebook": notebook, "code": code_digest(notebook), "data": data}
    if isinstance(p, str):
        content["plan"] = p
    else:
        content["params"] = p.model_dump(exclude={"overrides": True, "data": {"photographs"}})
        content["weights"] = _weights_digest(p) if weights is None else weights
        if (prompts := _prompts_digest(p)) is not None:
            content["prompts"] = prompts
    return files.digest(content)


def fit_content(p: Common, split_sha256: str, *modules: ModuleType, **more: object) -> dict:
    """What decides trained weights, flat and of plain values; `files.digest` of it is their key.

    Names, figures, what is evaluated, where and how fast do not count. How validation people are
    compared does where it chooses the epoch that is kept.

    Args:
        modules: those that the training goes through; with them count all that they import. Each is
            one entry, so that a fit cut short can tell which of them were changed.
        more: e.g. the hash of prompts that were learned before.

    Returns:
        Dotted keys as in the recipes, `start` for the weights that training begins with, `split`,
        `code.<module>`.
    """
    content = p.model_dump(mode="json", exclude=NOT_TRAINED)
    content |= {"data": {"resize": p.data.resize}, "start": _weights_digest(p)}
    content["fit"] = {k: v for k, v in content["fit"].items() if k not in NOT_OF_FIT}
    content["model"] = {k: v for k, v in content["model"].items() if k != "weights"}
    if content["fit"].get("best_by") in ("rank1", "mAP", "recall@1", "loss"):
        content["embed"] = p.embed.model_dump(include={"flip", "precision"})
        content["evaluation"] = {"distance": p.evaluation.distance}
    code = _closure({module.__name__ for module in modules})
    content |= {"split": split_sha256, **more}
    return _flat(content) | {f"code.{name}": files.digest(code[name]) for name in sorted(code)}


def _flat(content: dict, start: str = "") -> dict[str, object]:
    """Nested tables as one, with dots between the names."""
    flat: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{start}{name}.")
        else:
            flat[start + name] = value
    return flat


def _weights_digest(p: Common) -> str:
    """Of local weights their hash, of a run folder its manifest's, of a tag the tag itself."""
    weights = p.model.weights if hasattr(p, "model") else "none"
    path = files.resolve(weights)
    if (path / "manifest.json").is_file():
        return str(manifest(path).get("weights_sha256"))
    return files.sha256(path) if path.is_file() else weights


def _prompts_digest(p: Common) -> str | None:
    """Hash of prompts.file, or of prompts.csv in the run folder it names; none without a file."""
    name = getattr(getattr(p, "prompts", None), "file", None)
    if name is None:
        return None
    path = files.resolve(name)
    path = path / "prompts.csv" if path.is_dir() else path
    return files.sha256(path) if path.is_file() else None


def code_digest(notebook: str) -> str:
    """SHA-256 of a notebook's code and of every module of ours that it imports, near or far.

    Comments, docstrings of modules and layout do not count.
    """
    path = files.project() / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise InputError(f"notebooks/{notebook}.ipynb does not exist")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    own = "\n".join(line for line in lines.splitlines() if not line.startswith(("%", "!")))
    return files.digest([ast.unparse(ast.parse(own)), _closure(_imports(ast.parse(own)))])


def _closure(modules: set[str]) -> dict[str, str]:
    """The code of modules and of all that they import, near or far."""
    sources, queue = {}, set(modules)
    while queue:
        module = queue.pop()
        if module not in sources:
            path = _source(module)
            sources[module], imported = _read_module(path, path.stat().st_mtime_ns)
            queue |= imported
    return sources


@functools.lru_cache
def _read_module(path: Path, _changed: int) -> tuple[str, frozenset[str]]:
    """A module's code without comments and docstrings, and what it imports; kept by file time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree), frozenset(_imports(tree))


def _source(module: str) -> Path:
    path = Path(clipfh_lib.__file__).parents[1].joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def _imports(tree: ast.AST) -> set[str]:
    """Modules of clipfh_lib that a source imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {n for n in names if n.split(".")[0] == "clipfh_lib" and _source(n).is_file()}
    return found


class Results(Protocol):
    """What an evaluation returns: long tables, with ranks where it ranked."""

    trials: pd.DataFrame
    metrics: pd.DataFrame


class Run:
    """An open run folder; `finish` completes it. Made by `start`."""

    def __init__(self, notebook: str, p: Common | str, path: Path, lock: object):
        self.notebook, self.params, self.folder, self._lock = notebook, p, path, lock
        self.started = time.time()
        self.facts: dict[str, object] = {}
        self.logger = logging.getLogger("clipfh_lib")
        self.logger.setLevel(logging.INFO)
        self._close_log()
        handler = logging.FileHandler(path / "log.txt", mode="a", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handler.handleError = lambda record: None  # of a full disk the next file will tell
        self.logger.addHandler(handler)

    def _close_log(self) -> None:
        for handler in [h for h in self.logger.handlers if isinstance(h, logging.FileHandler)]:
            self.logger.removeHandler(handler)
            handler.close()

    def record(self, **facts: object) -> None:
        """Keep facts for the manifest, e.g. split_sha256, weights_sha256, device."""
        self.facts |= facts

    def save_figure(self, name: str, figure: object) -> object:
        """Write figures/<name>.pdf and .png, as wide as the figure is; gives the figure back.

        Letters in the PDF are TrueType: they can be searched, and journals take them.
        """
        from matplotlib import rc_context  # only who draws pays for the import

        for suffix in ("pdf", "png"):
            data = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
            with rc_context({"pdf.fonttype": 42}):  # asked when a file is written, not before
                files.write(
                    self.folder / "figures" / f"{name}.{suffix}",
                    lambda path, s=suffix, d=data: figure.savefig(path, format=s, dpi=DPI, **d),
                )
        return figure

    def save_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write <name>.csv; gives the table back."""
        files.write_csv(self.folder / f"{name}.csv", table)
        return table

    def save_text(self, name: str, text: str) -> str:
        """Write a file of text; gives the text back."""
        files.write_text(self.folder / name, text)
        return text

    def save_results(self, results: Iterable[Results]) -> pd.DataFrame:
        """Write ranks.csv, trials.csv and metrics.csv of all evaluations; gives metrics back."""
        results, p = list(results), self.params
        ranks = [result.ranks for result in results if hasattr(result, "ranks")]
        if ranks:
            self.save_table("ranks", pd.concat(ranks, ignore_index=True))
        who = {"dataset": p.dataset, "method": p.method, "backbone": p.backbone}
        who |= {"recipe": p.recipe, "seed": p.seed}
        if isinstance(p, StudyParams):
            who |= {"method": p.of.method, "recipe": p.of.recipe}
        for name, extra in [
            ("trials", ["trial", "queries", "people"]),
            ("metrics", ["sd", "low", "high", "queries", "people"]),
        ]:
            parts = [getattr(result, name) for result in results]
            table = pd.concat(parts, ignore_index=True).assign(**who)[[*LONG, *extra]]
            self.save_table(name, table)
        return table

    def finish(self) -> pd.DataFrame:
        """Write manifest.json, last and atomic: with it the run is complete. Shows what it says."""
        seconds = round(time.time() - self.started, 1)
        self.logger.info("finished after %s s", seconds)
        self._close_log()
        content = {
            "notebook": self.notebook,
            "params": self.params if isinstance(self.params, str) else self.params.model_dump(),
            "code_sha256": code_digest(self.notebook),
            "version": clipfh_lib.__version__,
            **commit(),
            "seconds": seconds,
            "peak_memory_mb": _peak_memory(),
            "threads": _threads(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), **_versions()},
            **self.facts,
            "files": {
                path.relative_to(self.folder).as_posix(): files.sha256(path)
                for path in sorted(self.folder.rglob("*"))
                if path.is_file() and not path.name.startswith(("notebook.ipynb", "manifest.json"))
            },
        }
        files.write_sealed(self.folder / "manifest.json", content)
        self._lock.release(force=True)  # also when the cell that starts the run was run twice
        shown = {n: content.get(n) for n in ("commit", "clean", "seconds", "peak_memory_mb")}
        shown |= {"split": str(content.get("split_sha256"))[:12], "files": len(content["files"])}
        shown["folder"] = _relative(self.folder)
        return pd.DataFrame({"manifest": shown})


def start(notebook: str, p: Common | str, outputs: str | Path) -> Run:
    """Open a run's folder for writing; its manifest goes, so that a run cut short is not complete.

    Raises:
        InputError: another process is writing this folder.
    """
    path = files.make(folder(notebook, p, outputs))
    lock = files.lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{_relative(path)} is being written by another process") from None
    content = {"plan": p} if isinstance(p, str) else p.model_dump()

    def fill(temporary: Path) -> None:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        (path / "manifest.json").unlink(missing_ok=True)  # now: a full disk would have stopped us

    files.write(path / "params.yaml", fill)
    for left in [*path.glob("figures/*"), *path.rglob(".writing-*")]:  # of another code, of a kill
        left.unlink()
    run = Run(notebook, p, path, lock)
    run.logger.info("started %s in %s", notebook, _relative(path))
    return run


def is_complete(path: Path) -> bool:
    """Whether a run folder holds a manifest."""
    return (path / "manifest.json").is_file()


def manifest(path: Path) -> dict:
    """What a complete run says of itself.

    Raises:
        InputError: no manifest there, or one that is not, to the bit, what was written.
    """
    try:
        return files.read_sealed(path / "manifest.json")
    except FileNotFoundError:
        raise InputError(f"{_relative(path)}: no complete run, manifest.json is missing") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not as its run wrote it"
        raise InputError(
            f"{_relative(path)}/manifest.json is damaged ({reason}); run it again"
        ) from None


def kept(path: Path, name: str) -> Path:
    """A file of a complete run, after a look at its hash in the manifest.

    Args:
        path: the run folder.
        name: of the file, relative to it, e.g. "embeddings.safetensors".

    Raises:
        InputError: no complete run, no such file in it, or one that was changed since.
    """
    expected = manifest(path)["files"].get(name)
    if expected is None or not (path / name).is_file():
        raise InputError(f"{_relative(path)}: the run kept no {name}, or it is gone; run it again")
    if files.sha256(path / name) != expected:
        raise InputError(f"{_relative(path)}/{name} is not what its manifest says; run it again")
    return path / name


def commit() -> dict[str, object]:
    """The commit of the project's folder and whether nothing changed since; none outside git."""
    try:
        ask = {"cwd": files.project(), "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], **ask).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}
    return {"commit": head, "clean": not changes}


def _relative(path: Path) -> str:
    root = files.project()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def _threads() -> int:
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def _peak_memory() -> float | None:
    """Megabytes that this process held at most."""
    status = Path("/proc/self/status")  # ru_maxrss would begin at the parent's
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return round(int(lines["VmHWM"].split()[0]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
