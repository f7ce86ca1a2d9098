"""The image encoder as TorchScript or ONNX, from pixels to the embedding, checked on real pixels.

Both run without this program: TorchScript in C++ or mobile apps that have libtorch, ONNX wherever
there is a runtime for it.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from clipfh_lib import files
from clipfh_lib.data import images
from clipfh_lib.files import InputError
from clipfh_lib.studies.vectors import Model

Kind = Literal["torchscript", "onnx"]
SUFFIX = {"torchscript": ".pt", "onnx": ".onnx"}
LEAST = 0.9999  # cosine of an exported embedding with the original's
OPSET = 18


class PixelsToEmbedding(nn.Module):
    """(B, H, W, 3) uint8 RGB at the model's size -> (B, D) float32 of length one.

    Normalisation is inside, and the mirror image's embedding where the run adds it.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.network, self.add_flip = model.network, model.embed.flip == "add"
        for name, values in {"mean": model.preprocess.mean, "std": model.preprocess.std}.items():
            whole = torch.tensor(values, device=model.device).view(1, 3, 1, 1)
            self.register_buffer(name, whole)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        scaled = (scaled - self.mean) / self.std
        found = nn.functional.normalize(self.network.encode_image(scaled).float(), dim=1)
        if self.add_flip:
            other = self.network.encode_image(scaled.flip(3)).float()
            found = nn.functional.normalize(found + nn.functional.normalize(other, dim=1), dim=1)
        return found


def export(model: Model, pixels: np.ndarray, path: str | Path, kind: Kind) -> dict[str, object]:
    """Write the encoder, and beside it a .json with all that its caller must know.

    The file is read again and compared with the model, embedding by embedding, one picture at a
    time and several together. One that differs is not kept.

    Args:
        model: what is exported; it runs in float32 outside, whatever `embed.precision`.
        pixels: (N, H, W, 3) uint8 real pictures at the model's size, to check it on; at least two.
        path: of the file, its suffix is added.
        kind: `torchscript` or `onnx`.

    Returns:
        What stands in the .json: file, kind, input, resize, interpolation, embedding, model, and
        the lowest cosine.

    Raises:
        InputError: a cosine with the original is no higher than 0.9999, the network cannot be
            exported, or the packages of ONNX are not installed.
    """
    path = files.resolve(path).with_suffix(SUFFIX[kind])
    if len(pixels) < 2:
        raise InputError(f"export: {len(pixels)} pictures to check on; at least two are compared")
    whole = PixelsToEmbedding(model).eval()
    write, load = _WAYS[kind]
    original, lowest = model.of_pixels(pixels), []

    def fill(temporary: Path) -> None:
        write(whole, torch.from_numpy(np.array(pixels[:2])).to(model.device), temporary)
        try:
            again = load(temporary)
            one = np.concatenate([again(pixels[row : row + 1]) for row in range(len(pixels))])
            lowest.append(min(_cosine(one, original), _cosine(again(pixels), original)))
        except RuntimeError as error:  # of which those of onnxruntime are kinds
            raise InputError(f"export: {path.name} does not run ({_said(error)})") from None
        if not lowest[0] > LEAST:  # NaN is no higher
            raise InputError(
                f"export: {path.name} differs from the original, cosine {lowest[0]:.6f} on "
                f"{len(pixels)} pictures, more than {LEAST} is asked; try the other of "
                f"{', '.join(SUFFIX)}, or embed.precision 32"
            )

    files.write(path, fill)
    size = model.preprocess.size(model.resize)
    said = {
        "file": path.name,
        "kind": kind,
        "input": f"uint8 RGB, (batch, {size.height}, {size.width}, 3)",
        "resize": size.resize,
        "interpolation": size.interpolation,
        "embedding": f"float32 of length one, (batch, {original.shape[1]})",
        "model": model.sha256,
        "lowest_cosine": round(lowest[0], 7),
        "pictures": len(pixels),
    }
    files.write_json(path.with_suffix(".json"), said)
    return said


def pixels(root: str | Path, paths: list[str], size: images.Size) -> np.ndarray:
    """Pictures to check an export on: those that can be read, (N, H, W, 3) uint8."""
    decoded = images.uncached(root, paths, size)
    return decoded.pixels[decoded.table["reason"].eq("").to_numpy()]


def _cosine(found: np.ndarray, original: np.ndarray) -> float:
    """The lowest cosine of two embeddings of one picture."""
    length = np.linalg.norm(found, axis=1) * np.linalg.norm(original, axis=1)
    return float(((found * original).sum(axis=1) / length).min())


def _write_torchscript(whole: nn.Module, pixels: Tensor, path: Path) -> None:
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        traced = torch.jit.trace(whole, pixels, check_trace=False)
        torch.jit.freeze(traced).save(str(path))  # without the text encoder, which is not called


def _load_torchscript(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    with _quiet():
        again = torch.jit.load(str(path), map_location="cpu")

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return again(torch.from_numpy(np.array(pixels))).numpy()

    return run


def _write_onnx(whole: nn.Module, pixels: Tensor, path: Path) -> None:
    _onnxruntime()
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with _quiet(), torch.no_grad():
            made = torch.onnx.export(
                whole.cpu(),
                (pixels.cpu(),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=["embedding"],
                dynamic_shapes={"pixels": {0: batch}},
                verbose=False,
            )
    except Exception as error:  # the exporter has dozens of kinds
        raise InputError(
            f"export: onnx cannot express this network ({_said(error)}); try torchscript"
        ) from None
    finally:
        whole.to(pixels.device)
    for part in (made.model, made.model.graph, *made.model.graph.all_nodes()):
        part.metadata_props.clear()  # where the code of each operation lies on this machine
    made.save(str(path), external_data=False)


def _load_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    session = _onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": np.array(pixels)})[0]


def _said(error: Exception) -> str:
    """The first line of an error, 200 characters of it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx is written in
    except ImportError as error:
        raise InputError(
            f'export: onnx needs {error.name}: pip install "clipfh[onnx]", or export torchscript'
        ) from None
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings: what they doubt is checked on pixels."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_WAYS = {
    "torchscript": (_write_torchscript, _load_torchscript),
    "onnx": (_write_onnx, _load_onnx),
}
