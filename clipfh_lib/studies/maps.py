"""One map of an image: class activation maps of a score, and attention of open_clip's ViT."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM, HiResCAM, LayerCAM
from torch import Tensor, nn

from clipfh_lib.files import InputError
from clipfh_lib.studies.opened import Opened

CAMS = {"grad_cam": GradCAM, "hires_cam": HiResCAM, "layer_cam": LayerCAM}
ATTENTION = ("rollout", "class_attention")  # of the tokens: they know nothing of a target


class Place(NamedTuple):
    """Where a CAM is read: a layer's output, and how many rows and columns of places it has.

    `tokens`: it is (B, T, C), a token for each place, behind those of no place; else (B, C, h, w).
    """

    layer: nn.Module
    grid: tuple[int, int]
    tokens: bool


def cam(method: str, score: nn.Module, images: Tensor, spot: Place) -> np.ndarray:
    """Class activation maps of a score, by grad-cam.

    Grad-CAM: Selvaraju et al., ICCV 2017, eq. 1 and 2; HiResCAM: Draelos & Carin, 2020
    (arXiv:2011.08891), eq. 3; LayerCAM: Jiang et al., IEEE TIP 30, 2021, eq. 6. The gradient goes
    back to the layer and no further, and none is left at the weights.

    Args:
        images: (B, 3, H, W) on the device of the score.

    Returns:
        (B, H, W) float32: what is positive, of least 0 and greatest 1 in each map; zeros where the
        map is the same everywhere, as where nothing is positive.
    """
    shape = (lambda tokens: _as_map(tokens, spot.grid)) if spot.tokens else None
    # before grad-cam's own hooks: what they see is a leaf, and nothing before it is in the graph
    leaf = spot.layer.register_forward_hook(lambda _, __, out: out.detach().requires_grad_())
    targets = [lambda out: out[0]] * len(images)
    try:
        with torch.enable_grad(), _frozen(score):
            with CAMS[method](_Column(score), [spot.layer], reshape_transform=shape) as make:
                return make(input_tensor=images, targets=targets)
    finally:
        leaf.remove()


def attention_maps(method: str, network: Opened, images: Tensor) -> np.ndarray:
    """What the pooled tokens of open_clip's ViT attend to, whatever the image is held against.

    `class_attention` is the last block's, `rollout` that of all blocks (`rolled_out`); both are
    means over the heads. They are read in the row of the class token; of a network that pools the
    mean of its patches instead, as the demo CLIP does, in the mean of the patches' rows.

    Returns:
        (B, H, W) float32, weights over their greatest: 0 stands for no attention.
    """
    visual = network.encoder.visual
    layers = attention(network, images)
    matrix = rolled_out(layers) if method == "rollout" else layers[-1]
    rows = matrix[:, :1] if visual.pool_type == "tok" else matrix[:, 1:]
    weights = _as_map(rows.mean(dim=1)[..., None], visual.grid_size)[:, 0].cpu().numpy()
    found = enlarged(weights, *images.shape[2:])
    return found / found.max(axis=(1, 2), keepdims=True)


def attention(network: Opened, images: Tensor) -> list[Tensor]:
    """(B, T, T) of each block, mean over the heads, rows sum to 1: query tokens by key tokens.

    open_clip asks its attention for no weights; a hook asks for them, the output stays the same.
    """
    found, hooks = [], []

    def ask(_: nn.Module, args: tuple, words: dict) -> tuple:
        return args, {**words, "need_weights": True, "average_attn_weights": True}

    def take(_: nn.Module, __: tuple, ___: dict, out: tuple) -> None:
        found.append(out[1].detach().float())

    for block in network.encoder.visual.transformer.resblocks:
        hooks.append(block.attn.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(block.attn.register_forward_hook(take, with_kwargs=True))
    try:
        with torch.no_grad():
            network.embedder.encode_image(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rolled_out(layers: Sequence[Tensor]) -> Tensor:
    """Attention of several blocks as one, (B, T, T).

    Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3: the product of
    0.5 A + 0.5 I over the blocks, the last one in front, for the path around the attention.
    """
    found = torch.eye(layers[0].shape[-1], device=layers[0].device)
    for layer in layers:
        mixed = layer + torch.eye(layer.shape[-1], device=layer.device)
        found = (mixed / mixed.sum(dim=-1, keepdim=True)) @ found
    return found


def place(network: Opened) -> Place:
    """The layer that a CAM is made of.

    A ViT's last block gives its patches no gradient where the class token alone is pooled, so it is
    the first norm of that block. Elsewhere it is the last map, (B, C, h, w) with more than one
    place, that the encoder makes.

    Raises:
        InputError: a backbone that makes none.
    """
    visual = getattr(network.encoder, "visual", None)
    if hasattr(getattr(visual, "transformer", None), "resblocks"):
        return Place(visual.transformer.resblocks[-1].ln_1, tuple(visual.grid_size), True)
    trunk = getattr(network.encoder, "trunk", None) or getattr(visual, "trunk", None)
    if hasattr(trunk, "patch_embed") and hasattr(getattr(trunk, "blocks", [None])[-1], "norm1"):
        return Place(trunk.blocks[-1].norm1, tuple(trunk.patch_embed.grid_size), True)
    found, hooks = [], []

    def see(module: nn.Module, _: tuple, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and min(out.shape[2:]) > 1:
            found.append(Place(module, tuple(out.shape[2:]), False))

    for module in network.encoder.modules():
        hooks.append(module.register_forward_hook(see))
    some = next(network.encoder.parameters())
    size = network.preprocess.height, network.preprocess.width
    try:
        with torch.no_grad():
            network.embedder.encode_image(torch.zeros(1, 3, *size, device=some.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError("model.name: this backbone makes no map of places that a CAM could weigh")
    return found[-1]


def enlarged(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, h, w) -> (N, height, width) float32, bilinear, as grad-cam does it."""
    maps = maps.astype(np.float32)
    return np.stack([cv2.resize(one, (width, height)) for one in maps])


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, T, C), those of no patch in front -> (B, C, rows, columns)."""
    patches = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
    return patches.transpose(1, 2).reshape(len(tokens), -1, *grid)


def attends(encoder: nn.Module) -> bool:
    """Whether this is a ViT of open_clip that pools its class token or its patches."""
    visual = getattr(encoder, "visual", None)
    inner = hasattr(getattr(visual, "transformer", None), "resblocks")
    return inner and visual.pool_type in ("tok", "avg") and visual.attn_pool is None


class _Column(nn.Module):
    """(B,) scores as (B, 1), as grad-cam wants them."""

    def __init__(self, score: nn.Module):
        super().__init__()
        self.score = score

    def forward(self, images: Tensor) -> Tensor:
        return self.score(images)[:, None]


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradient for any weight, for as long as it lasts."""
    before = [(weight, weight.requires_grad) for weight in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)
