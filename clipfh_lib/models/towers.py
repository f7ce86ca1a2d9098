"""Inside an image tower: its feature levels and patches, its blocks, what of it is trained."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from clipfh_lib.files import InputError
from clipfh_lib.learning import FitParams
from clipfh_lib.models.backbones import ImageTower, input_size

Hooks = dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]
POOLED = {  # how a ViT makes one feature of its tokens, the class token first
    "tok": lambda tokens: tokens[:, 0],
    "avg": lambda tokens: tokens[:, 1:].mean(dim=1),
}


def levels(encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Features of three depths, as CLIP-ReID uses them, from one pass.

    Li et al., CLIP-ReID, AAAI 2023 (arXiv:2211.13977): `before` the last block (of a ViT the class
    token that the block before the last gives, of a ResNet the mean of layer 3), `last`, after it
    (the class token behind the last norm, the mean of layer 4), and `projected`, what
    `encode_image` gives. A ViT that pools the mean of its patches gives that mean for the class
    token. Other towers have `projected` alone.

    Args:
        encoder: of `backbones.load`.
        images: (B, 3, H, W).

    Returns:
        Level -> (B, width), in this order; `projected` is bit for bit that of `encode_image`.
    """
    return _caught(encoder, images, _points(encoder))


def levels_and_patches(encoder: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """`levels`, and the patches in the space of the projected features, from one pass.

    ViT: the tokens of the patches, normed and projected as the class token is. ResNet: each place
    of layer 4 through the value and output maps of the attention pooling (Zhou et al., Extract Free
    Dense Labels from CLIP, ECCV 2022, eq. 3), since the pooling itself keeps one token only.

    Returns:
        Levels, and (B, N, D) for N patches or places.

    Raises:
        InputError: a tower that is neither CLIP's ViT nor its ResNet.
    """
    visual, points = getattr(encoder, "visual", None), _points(encoder)
    if not points:
        raise InputError("model.name: patches are known of CLIP's own ViT and ResNet towers only")
    if hasattr(visual, "attnpool"):
        points["patches"] = (visual.layer4, lambda out: _places(visual.attnpool, out))
    else:
        points["patches"] = (visual.ln_post, lambda out: out[:, 1:] @ visual.proj)
    found = _caught(encoder, images, points)
    return found, found.pop("patches")


def _places(pool: nn.Module, features: Tensor) -> Tensor:
    places = features.flatten(2).transpose(1, 2)  # (B, H * W, W)
    return pool.c_proj(pool.v_proj(places + pool.positional_embedding[1:].to(places.dtype)))


def _points(encoder: nn.Module) -> Hooks:
    """Where the two inner levels come out, and how they are pooled."""
    visual = getattr(encoder, "visual", None)
    if hasattr(visual, "attnpool"):
        return {"before": (visual.layer3, _mean), "last": (visual.layer4, _mean)}
    pooling = getattr(visual, "pool_type", None)
    if pooling in POOLED and visual.attn_pool is None and not visual.final_ln_after_pool:
        inner = visual.transformer.resblocks
        if len(inner) > 1:
            return {
                "before": (inner[-2], POOLED[pooling]),
                "last": (visual.ln_post, POOLED[pooling]),
            }
    return {}


def _mean(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def _caught(encoder: nn.Module, images: Tensor, points: Hooks) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, out, name=name, pool=pool: found.__setitem__(name, pool(out))
        )
        for name, (module, pool) in points.items()
    ]
    try:
        projected = encoder.encode_image(images)
    finally:
        for handle in handles:
            handle.remove()
    return {**{name: found[name] for name in points}, "projected": projected}


@torch.no_grad()
def widths(encoder: nn.Module) -> dict[str, int]:
    """Level -> width of its features, measured on one black image."""
    height, width = input_size(encoder)
    some = next(encoder.parameters())
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    found = levels(encoder, torch.zeros(1, 3, height, width, device=some.device))
    for module, training in modes:
        module.training = training
    return {name: features.shape[1] for name, features in found.items()}


# --- what is trained ----------------------------------------------------------------------------


def blocks(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of an image tower, first to last: a ViT's own, a ResNet's four layers.

    Raises:
        InputError: a tower without blocks that are known here.
    """
    tower = encoder.trunk if isinstance(encoder, ImageTower) else encoder.visual
    for owner in (getattr(tower, "transformer", None), getattr(tower, "trunk", None), tower):
        for name in ("resblocks", "blocks", "stages"):
            if isinstance(getattr(owner, name, None), nn.Sequential | nn.ModuleList):
                return list(getattr(owner, name))
        layers = [getattr(owner, f"layer{number}", None) for number in (1, 2, 3, 4)]
        if None not in layers:
            return layers
    raise InputError("fit.unfreeze_blocks, fit.layer_decay: no blocks are known of this network")


def trained_blocks(schedule: int | Mapping[int, int] | None, epoch: int) -> int | None:
    """How many of the last blocks are trained in an epoch; none: all that is not frozen."""
    if not isinstance(schedule, Mapping):
        return schedule
    return max(((at, count) for at, count in schedule.items() if at <= epoch), default=(0, 0))[1]


def freeze(encoder: nn.Module, frozen: Sequence[str], last_blocks: int | None = None) -> None:
    """Set what gets a gradient; the batch norms of what gets none keep their statistics.

    To be called again when a block is freed, and whenever the network was put in train mode.

    Args:
        frozen: any of `text`, `image`, `projection` (of images and of texts).
        last_blocks: of the image tower, these alone are trained, not its stem and what follows
            them; none: the whole tower.

    Raises:
        InputError: more blocks than there are.
    """
    free = None
    if last_blocks is not None:
        there = blocks(encoder)
        if not 0 <= last_blocks <= len(there):
            raise InputError(
                f"fit.unfreeze_blocks is {last_blocks}, the image tower has {len(there)} blocks"
            )
        last = there[len(there) - last_blocks :]
        free = {id(parameter) for block in last for parameter in block.parameters()}
    for name, parameter in encoder.named_parameters():
        part = part_of(name, encoder)
        held = part in frozen or part == "scale"
        held |= part == "projection" and name.startswith("text") and "text" in frozen
        held |= part == "projection" and not name.startswith("text") and "image" in frozen
        if free is not None and (part == "image" or name.startswith("visual.")):
            held |= id(parameter) not in free
        parameter.requires_grad_(not held)
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters())
            if own:
                trained = any(parameter.requires_grad for parameter in own)
                module.train(encoder.training and trained)


def free(encoder: nn.Module, fit: FitParams, epoch: int) -> None:
    """`freeze`, as a recipe has it in an epoch."""
    freeze(encoder, fit.frozen, trained_blocks(fit.unfreeze_blocks, epoch))


def lay_out(encoder: nn.Module, training: bool) -> None:
    """Put the weights of a convolutional tower where its training is fastest, or back.

    Channels last is 1.6 times as fast in training a MobileNetV2 on a CPU, and more for a ResNet on
    a GPU; a ViT has next to no convolutions. Values stay, the rounding of sums does not: embeddings
    that are kept come from the usual order.
    """
    visual = getattr(encoder, "visual", None)
    if isinstance(encoder, ImageTower) or hasattr(visual, "attnpool"):
        order = torch.channels_last if training else torch.contiguous_format
        (visual if visual is not None else encoder).to(memory_format=order)


def part_of(name: str, encoder: nn.Module) -> str:
    """`image`, `text`, `projection` or `scale`, by a parameter's name."""
    if name in ("text_projection", "visual.proj") or name.startswith("visual.attnpool.c_proj."):
        return "projection"
    if name in ("logit_scale", "logit_bias"):
        return "scale"
    return "image" if isinstance(encoder, ImageTower) or name.startswith("visual.") else "text"


def depths(encoder: nn.Module) -> dict[str, int]:
    """Depth of each image parameter: 0 before the blocks, 1 in the first one, ... , then one more.

    Raises:
        InputError: a tower without blocks that are known here.
    """
    there = blocks(encoder)
    inside = {id(p): n for n, block in enumerate(there, 1) for p in block.parameters()}
    found, passed = {}, False
    for name, parameter in encoder.named_parameters():
        if part_of(name, encoder) in ("image", "projection") and not name.startswith("text"):
            passed |= id(parameter) in inside
            after = passed or name == "visual.proj"
            found[name] = inside.get(id(parameter), len(there) + 1 if after else 0)
    return found


def parts(
    encoder: nn.Module, heads: nn.Module | None = None, fit: FitParams | None = None
) -> pd.DataFrame:
    """How many parameters each part has, and how many of them are trained.

    Args:
        encoder: of `backbones.load`; what gets a gradient now is trained.
        heads: likewise.
        fit: where it frees blocks epoch by epoch, what is freed at some time counts as trained.

    Returns:
        Columns `part, parameters, trained, frozen`, and `from_epoch`, the first epoch that trains
        some of it: the stem, each block and the rest of the image tower, projections, the text
        encoder, then each head.
    """
    schedule = fit.unfreeze_blocks if fit is not None else None
    epochs = sorted(schedule) if isinstance(schedule, Mapping) else [0]
    found: dict[str, list[int | None]] = {}
    for epoch in epochs:
        if isinstance(schedule, Mapping):
            free(encoder, fit, epoch)
        for part, (trained, frozen) in _counts(encoder, heads).items():
            row = found.setdefault(part, [trained + frozen, 0, 0, None])
            row[1:3] = trained, frozen  # blocks are freed, never frozen again
            row[3] = epoch if trained and row[3] is None else row[3]
    if isinstance(schedule, Mapping):
        free(encoder, fit, 0)
    names = ["parameters", "trained", "frozen", "from_epoch"]
    table = pd.DataFrame.from_dict(found, orient="index", columns=names)
    return table.astype({"from_epoch": "Int64"}).rename_axis("part").reset_index()


def _counts(encoder: nn.Module, heads: nn.Module | None) -> dict[str, list[int]]:
    """Part -> parameters that are trained, and that are frozen, now."""
    try:
        place, last = depths(encoder), len(blocks(encoder)) + 1
    except InputError:
        place, last = {}, 1
    found: dict[str, list[int]] = {}
    for name, parameter in encoder.named_parameters():
        part = part_of(name, encoder)
        if part == "image" and name in place:
            named = {0: "image: before the blocks", last: "image: after the blocks"}
            part = named.get(place[name], f"image: block {place[name]}")
        found.setdefault(part, [0, 0])[not parameter.requires_grad] += parameter.numel()
    for name, parameter in heads.named_parameters() if heads is not None else ():
        part = f"head: {name.rpartition('.')[0] or name}"
        found.setdefault(part, [0, 0])[not parameter.requires_grad] += parameter.numel()
    image_first = sorted(found, key=lambda part: not part.startswith("image"))
    return {part: found[part] for part in image_first}
