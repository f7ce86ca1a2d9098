"""An exported encoder gives the original's embeddings on pictures, or it is not kept."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_gallery
import torch
from torch import nn

from clipfh_lib.files import InputError
from clipfh_lib.schema import EmbedParams
from clipfh_lib.studies import exporting, vectors


def pictures(tmp_path, model, count=5):
    names = [f"{seed}.png" for seed in range(count)]
    for seed, name in enumerate(names):
        tiny_gallery.photograph(tmp_path / "photos" / name, seed)
    size = model.preprocess.size(model.resize)
    return exporting.pixels(tmp_path / "photos", [*names, "none.png"], size)


def run(path, pixels):
    """The exported file in its own runtime, without any of our code."""
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(str(path)).run(None, {"pixels": pixels})[0]
    with torch.no_grad():
        return torch.jit.load(str(path))(torch.from_numpy(pixels)).numpy()


def cosines(found, right):
    length = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    return (found * right).sum(axis=1) / length


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind, flip", [("torchscript", "none"), ("torchscript", "add"), ("onnx", "add")]
)
def test_an_exported_encoder_equals_the_original_on_real_pixels(tmp_path, kind, flip):
    model = tiny_gallery.model(tmp_path, embed=EmbedParams(flip=flip))
    pixels = pictures(tmp_path, model)
    assert pixels.shape == (5, 48, 48, 3)
    said = exporting.export(model, pixels[:2], tmp_path / "out" / "encoder", kind)
    path = tmp_path / "out" / said["file"]
    assert sorted(os.listdir(path.parent)) == sorted(["encoder.json", path.name])
    assert json.loads((path.parent / "encoder.json").read_text()) == said
    assert said["lowest_cosine"] > 0.9999 and said["model"] == model.sha256
    original = model.of_pixels(pixels)
    for rows in (pixels, pixels[3:4]):  # batches of other sizes than the one it was made with
        found = run(path, rows)
        right = original if len(rows) > 1 else original[3:4]
        assert (cosines(found, right) > 0.9999).all()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(original[:1], original[1:2])[0] < 0.999  # they agree on something
    content = path.read_bytes()  # without the text tower of 6 MB, and where the code lies
    assert len(content) < 1_000_000 and str(Path(exporting.__file__).parent).encode() not in content


class Moody(nn.Module):
    """Gives other features for dark pictures, which a trace of bright ones does not see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 6)

    def encode_image(self, images):
        found = self.layer(images[:, :, ::24, ::24].flatten(1))
        return found if images.mean() > 0 else found.flip(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_an_export_that_differs_from_the_original_is_refused_and_not_kept(tmp_path, kind):
    model = tiny_gallery.model(tmp_path)
    pixels = pictures(tmp_path, model).copy()
    pixels[:2] |= 128
    pixels[2:] &= 63
    moody = vectors.Model(Moody().eval(), model.preprocess, EmbedParams(), "clip", model.device)
    with pytest.raises(InputError, match="differs from the original|cannot express") as error:
        exporting.export(moody, pixels, tmp_path / "out" / "encoder", kind)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path / "out") == []


def test_an_encoder_of_no_numbers_is_refused(tmp_path):
    model = tiny_gallery.model(tmp_path)
    pixels = pictures(tmp_path, model)
    with torch.no_grad():
        model.network.visual.proj.fill_(float("nan"))
    with pytest.raises(InputError, match="differs from the original, cosine nan"):
        exporting.export(model, pixels, tmp_path / "encoder", "torchscript")


def test_too_few_pictures_and_missing_packages_are_said(tmp_path, monkeypatch):
    model = tiny_gallery.model(tmp_path)
    pixels = pictures(tmp_path, model)
    with pytest.raises(InputError, match="1 pictures to check on; at least two"):
        exporting.export(model, pixels[:1], tmp_path / "encoder", "torchscript")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r'needs onnxscript: pip install "clipfh\[onnx\]"'):
        exporting.export(model, pixels, tmp_path / "encoder", "onnx")
