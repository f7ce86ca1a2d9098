"""Grad-CAM of both sides of 100 pairs against the bare passes forward and backward of the images.

The bare passes encode the same images, as many at a time, and take the slopes of their cosines back
to the weights of the first layer; nothing is weighed, enlarged or kept. What a map needs of them,
activations and slopes at one layer, is checked against maps made of slopes by autograd.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from clipfh_lib.data.transforms import normalise
from clipfh_lib.evaluation import embeddings
from clipfh_lib.models import backbones
from clipfh_lib.params import read
from clipfh_lib.studies import explaining, maps
from clipfh_lib.studies.opened import Opened

TIMES = 1.3
BACKBONE = "vit_b32"


def passes(network: Opened, first: np.ndarray, second: np.ndarray, several: int) -> None:
    """Encode both sides of so many pairs at a time, and go back once."""
    score = explaining.ToEachOther(network.embedder)
    layer = next(network.encoder.visual.parameters())
    for start in range(0, len(first), several):
        sides = [side[start : start + several] for side in (first, second)]
        images = inputs(network, np.concatenate(sides)).requires_grad_()
        torch.autograd.grad(score(images).sum(), [images, layer], allow_unused=True)


def inputs(network: Opened, pixels: np.ndarray) -> Tensor:
    """(B, 3, H, W), as the network takes them."""
    return normalise(pixels, network.preprocess.mean, network.preprocess.std)


def by_autograd(network: Opened, image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Grad-CAM of one image, held against another, from slopes at the whole graph."""
    spot, seen = maps.place(network), {}
    hook = spot.layer.register_forward_hook(lambda _, __, out: seen.update(out=out))
    with torch.no_grad():
        against = network.embedder.encode_image(inputs(network, other[None]))
    made = network.embedder.encode_image(inputs(network, image[None]).requires_grad_())
    hook.remove()
    score = torch.cosine_similarity(made, against).sum()
    slopes, activations = torch.autograd.grad(score, seen["out"])[0][0], seen["out"][0].detach()
    weights = slopes[-spot.grid[0] * spot.grid[1] :].mean(dim=0)
    positive = (activations @ weights)[-spot.grid[0] * spot.grid[1] :].clamp(min=0)
    found = cv2.resize(positive.reshape(spot.grid).numpy(), image.shape[1::-1])
    return (found - found.min()) / max(np.ptp(found), 1e-12)


def main() -> None:
    args = common.arguments(__doc__, pairs=100, repeats=2)
    p = read("zero_shot", "demo", BACKBONE, "default", 0, {"model.weights": "none"})
    encoder, preprocess = backbones.load(p.model)
    network = Opened(encoder, encoder, preprocess, "untrained", None)
    size = (2, args.pairs, preprocess.height, preprocess.width, 3)
    first, second = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    several = embeddings.CPU_BATCH // 2

    made = explaining.of_pairs("grad_cam", network, first[:3], second[:3], where="cpu")
    for number in range(3):
        wanted = by_autograd(network, first[number], second[number])
        np.testing.assert_allclose(made[0, number], wanted, atol=0.02)
    assert not explaining.flat(made[0]).all(), "there is something to agree on"

    ours, bare = common.paired(
        lambda: explaining.of_pairs("grad_cam", network, first, second, where="cpu"),
        lambda: passes(network, first, second, several),
        args.repeats,
    )
    what = f"Grad-CAM of {args.pairs} pairs, both sides, {BACKBONE}"
    common.report([common.at_most(what, ours, bare, "s", TIMES)], args.check)


if __name__ == "__main__":
    main()
