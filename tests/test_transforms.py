"""The tensor a model gets is the one its own preprocessing would have made."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipfh_lib.data.transforms import normalise

CLIP = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.filterwarnings("error")  # torch warns of tensors on read-only memory
@pytest.mark.parametrize("mean, std", [CLIP, IMAGENET])
@pytest.mark.parametrize("kind", ["numpy", "torch", "memory map"])
def test_normalise_equals_open_clip_bit_for_bit(mean, std, kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    transform = open_clip.image_transform((32, 24), is_train=False, mean=mean, std=std)
    theirs = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    if kind == "torch":
        pixels = torch.from_numpy(pixels)
    elif kind == "memory map":
        np.save(tmp_path / "pixels.npy", pixels)
        pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    before = pixels.sum()
    ours = normalise(pixels, mean, std)
    assert ours.dtype == torch.float32 and ours.is_contiguous() and ours.std() > 0.5
    assert torch.equal(ours, theirs)
    assert pixels.sum() == before  # its input is left alone


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 8, 8, 3), np.float32),  # may be scaled already
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_normalise_refuses_other_shapes_and_types(wrong):
    with pytest.raises(ValueError, match="uint8 is wanted"):
        normalise(wrong, *CLIP)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalise_on_a_gpu_equals_the_cpu():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    torch.testing.assert_close(
        normalise(pixels, *CLIP, "cuda").cpu(), normalise(pixels, *CLIP), rtol=0, atol=1e-6
    )
