"""Model and images -> (N, D) array with its table; each image is encoded once."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from clipfh_lib import files, runs
from clipfh_lib.data import images, loaders, splits, transforms
from clipfh_lib.files import InputError
from clipfh_lib.learning import TrainedParams
from clipfh_lib.models import backbones
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import EmbedParams, ZeroShotParams

CPU_BATCH = 8  # on a CPU more at a time is no faster, MobileNetV2 even half as fast
PRECISION = {"16": torch.float16, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


class Embeddings(NamedTuple):
    """(N, D) float32, as the model gives them, and the table whose rows they are."""

    array: np.ndarray
    table: pd.DataFrame


def device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["cpu"] = True
    if name == "auto":
        name = next(kind for kind in there if there[kind])
    if not there[name]:
        raise InputError(f"device: there is no {name} here; choose auto or cpu")
    return torch.device(name)


def extract(
    encoder: nn.Module,
    preprocess: Preprocess,
    table: pd.DataFrame,
    root: Path,
    embed: EmbedParams,
    resize: str = "clip",
    workers: int = 0,
    where: str = "auto",
) -> Embeddings:
    """One embedding per row of the table; what was encoded before comes from the cache.

    Kept by weights, preprocessing, flip, precision and kind of device, and in there by image (path,
    size in bytes and time of its file), so that data sets which share images share the work. An
    embedding depends on nothing else: not on what was in the cache, nor on the other images.

    Args:
        encoder: has `encode_image`, (B, 3, H, W) -> (B, D); it is left on the CPU in eval mode.
        table: columns `path` and `pid`; any others are kept.
        root: folder the paths start from.
        resize: `clip`, `squash` or `letterbox`, see images.Size.
        workers: threads that decode.
        where: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        Embeddings, not normalised, in the order of the table.

    Raises:
        InputError: there are no images, one cannot be read, or the device is not there.
    """
    if table.empty:
        raise InputError("there are no images to embed")
    root = files.resolve(root).resolve()
    table = table.reset_index(drop=True)
    target = device(where)
    made_by = [backbones.sha256(encoder), preprocess, resize, embed.flip, embed.precision]
    made_by += [target.type, torch.__version__, images.ALGORITHM]
    path = files.cache() / "embeddings" / f"{files.digest(made_by)[:24]}.safetensors"
    keys = [_identity(root, name) for name in table["path"]]
    known = _read(path)
    new = [row for row, key in enumerate(keys) if key not in known]
    log.info("embeddings: %d of %d images are in the cache", len(table) - len(new), len(table))
    if new:
        data = loaders.HandImages(table.iloc[new], root, preprocess.size(resize), workers)
        found = encode(encoder.to(target).eval(), preprocess, data, embed, target)
        encoder.cpu()
        known |= {keys[row]: vector for row, vector in zip(new, found, strict=True)}
        with files.lock(path):
            _write(path, _read(path) | known)  # another process may have added to it meanwhile
    return Embeddings(np.stack([known[key] for key in keys]), table)


@torch.inference_mode()
def encode(
    encoder: nn.Module,
    preprocess: Preprocess,
    data: loaders.HandImages,
    embed: EmbedParams,
    target: torch.device,
    quiet: bool = False,
) -> np.ndarray:
    """(N, D) float32 of a data set, so many at a time, past the cache; the last batch is filled up.

    A matrix product may round otherwise when its shape differs, so all batches have one shape.

    Args:
        encoder: in eval mode on the device `target`; left there.
        quiet: no progress bar, no line in the log.
    """
    count = min(embed.batch, CPU_BATCH) if target.type == "cpu" else embed.batch
    precision, found = PRECISION.get(embed.precision), []
    with tqdm(total=len(data), desc="embeddings", unit="image", disable=quiet) as bar:
        for batch in loaders.batches(data, loaders.InOrder(len(data), count)):
            full = batch.pixels[torch.arange(count).clamp(max=len(batch.pixels) - 1)]
            pixels = transforms.normalise(full, preprocess.mean, preprocess.std, target)
            with torch.autocast(target.type, precision, enabled=precision is not None):
                vectors = encoder.encode_image(pixels).float()
                if embed.flip == "add":
                    vectors = unit(vectors) + unit(encoder.encode_image(pixels.flip(3)).float())
            found.append(vectors[: len(batch.pixels)].cpu().numpy())
            bar.update(len(batch.pixels))
            done = int(batch.rows[-1]) + 1
            if not quiet and done * 10 // len(data) > (done - len(batch.pixels)) * 10 // len(data):
                log.info("embeddings: %d of %d are encoded", done, len(data))
    return np.concatenate(found)


def unit(vectors: Tensor) -> Tensor:
    """Rows scaled to length one."""
    return nn.functional.normalize(vectors, dim=1)


def of(
    encoder: nn.Module, preprocess: Preprocess, table: pd.DataFrame, root: Path, p: ZeroShotParams
) -> Embeddings:
    """`extract`, as the parameters of a run have it."""
    return extract(
        encoder, preprocess, table, root, p.embed, p.data.resize, p.loader.workers, p.device
    )


class Weighted(NamedTuple):
    """Embeddings and what made them, for the column `weights` of the results."""

    weights: str
    embeddings: Embeddings


def first_weights(p: ZeroShotParams | TrainedParams) -> str:
    """The column `weights` of a run that trains nothing: a run folder's weights are trained."""
    if p.model.weights == "none":
        return "untrained"
    return "trained" if files.resolve(p.model.weights).is_dir() else "pretrained"


def start_weights(p: TrainedParams) -> str:
    """The column `weights` of a run that trains, before it does: `warm_start` from another run."""
    before = first_weights(p)
    return "warm_start" if before == "trained" else before


def with_floors(
    encoder: nn.Module, preprocess: Preprocess, data: splits.Prepared, p: ZeroShotParams
) -> list[Weighted]:
    """Embeddings of the test and val images: the encoder's, then the two floors beneath it.

    `untrained` is the same network with random weights (left out where the encoder has none
    itself), `pixels` no network: RGB shrunk to 16 x 16.
    """
    table = pd.concat([data.test, data.val], ignore_index=True)
    rows = [Weighted(first_weights(p), of(encoder, preprocess, table, data.root, p))]
    if p.model.weights != "none":
        floor, _ = backbones.load(p.model.model_copy(update={"weights": "none"}), p.seed)
        rows.append(Weighted("untrained", of(floor, preprocess, table, data.root, p)))
    seen = images.survey(data.root, list(table["path"]), p.loader.workers)
    return [*rows, Weighted("pixels", Embeddings(images.pixels16(seen), table))]


def folder(root: Path, extensions: Sequence[str]) -> pd.DataFrame:
    """A table of all images below a folder, without any labels (`pid` is -1).

    Hidden files are passed over; what cannot be read is left out, with a line in the log.

    Raises:
        InputError: there is no image that can be read.
    """
    root = files.resolve(root)
    endings = {f".{extension.lower().lstrip('.')}" for extension in extensions}
    found = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    paths = [
        path.as_posix()
        for path in found
        if path.suffix.lower() in endings and not any(part.startswith(".") for part in path.parts)
    ]
    seen = images.survey(root, paths).table if paths else pd.DataFrame({"path": [], "reason": []})
    for path, reason in seen.loc[seen["reason"] != "", ["path", "reason"]].to_numpy():
        log.warning("left out: %s: %s", path, reason)
    paths = list(seen.loc[seen["reason"] == "", "path"])
    if not paths:
        raise InputError(f"no image ({', '.join(sorted(endings))}) in {root} can be read")
    return pd.DataFrame({"image_id": paths, "path": paths, "pid": -1})


def save(found: Embeddings, folder: Path) -> None:
    """Write embeddings.safetensors and embeddings.csv, its rows, into a run folder."""
    content = {"embeddings": np.ascontiguousarray(found.array)}
    files.write(folder / "embeddings.safetensors", lambda path: save_file(content, path))
    columns = [c for c in ("image_id", "path", "pid", "aspect") if c in found.table]
    files.write_csv(folder / "embeddings.csv", found.table[columns])


def read(folder: Path) -> Embeddings:
    """What `save` wrote into a run folder, after a look at the hashes in the run's manifest.

    Raises:
        InputError: the run is not complete, kept no embeddings, or they were changed since.
    """
    array = load_file(runs.kept(folder, "embeddings.safetensors"))["embeddings"]
    text = dict.fromkeys(("image_id", "path", "aspect"), "str")
    return Embeddings(array, files.read_csv(runs.kept(folder, "embeddings.csv"), text))


def _identity(root: Path, name: str) -> str:
    """What an image is known by; one that is not there is new, so that reading it says so."""
    try:
        stat = (root / name).stat()
    except (OSError, ValueError):
        return f"{root}|{name}"
    return f"{root}|{name}|{stat.st_size}|{stat.st_mtime_ns}"


def _read(path: Path) -> dict[str, np.ndarray]:
    """Embeddings of a cache file by image; a missing or damaged file is an empty one."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "np") as file:
            array, metadata = file.get_tensor("embeddings"), file.metadata()
        if metadata["sha256"] != _sha256(array, metadata["images"]):
            raise ValueError("its content is not what was written")
        return dict(zip(json.loads(metadata["images"]), array, strict=True))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("embeddings: %s is damaged and made again (%s)", path.name, error)
        return {}


def _write(path: Path, known: dict[str, np.ndarray]) -> None:
    array, names = np.stack(list(known.values())), json.dumps(list(known))
    metadata = {"images": names, "sha256": _sha256(array, names)}
    files.write(path, lambda temporary: save_file({"embeddings": array}, temporary, metadata))


def _sha256(array: np.ndarray, names: str) -> str:
    return hashlib.sha256(names.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
