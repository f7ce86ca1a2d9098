"""MBA-Net's three views of one feature map: as it is, its channels related, its places related.

Baisa et al., Multi-Branch with Attention Network for Hand-Based Person Recognition, ICPR 2022
(arXiv:2108.02234). The paper names the parts: a global, a channel-attention and a spatial-attention
branch on the map of a ResNet-50 whose last stride is 1, relative position encodings in the spatial
one, and for each branch a pooling, a reduction and one feature of 2048. How each is computed is
taken from the papers that it builds on, and said below; so is what none of them says.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipfh_lib.files import InputError
from clipfh_lib.learning import BranchParams
from clipfh_lib.models import towers
from clipfh_lib.models.backbones import ImageTower, input_size

TOGETHER = "branches"  # the level of all branches side by side


class ChannelAttention(nn.Module):
    """Each channel, and what the channels that fire where it does say, added.

    Fu et al., Dual Attention Network, CVPR 2019, eq. 3 and 4 (arXiv:1809.02983): with A the map as
    (C, N), out = A + gamma * softmax(A A^T) A, gamma 0 at the start and learned. Their products are
    sums over the N places; here they are divided by the root of N, as products of attention are by
    the root of their length: undivided they grow with the map, until every channel looks at the
    strongest one alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        channels = features.flatten(2)  # (B, C, N)
        alike = channels @ channels.transpose(1, 2) / channels.shape[2] ** 0.5  # (B, C, C)
        seen = alike.softmax(dim=2) @ channels
        return features + self.gamma * seen.view_as(features)


class SpatialAttention(nn.Module):
    """Each place, and what the places say that it looks at, added.

    Fu et al., eq. 1 and 2: queries, keys and values are linear maps of each place, out = A +
    gamma * attention(A), gamma 0 at the start and learned. Such an attention knows no place:
    shuffled places give the same values, shuffled. MBA-Net adds relative position encodings to it;
    they are here those of Bello et al., Attention Augmented Convolutional Networks, ICCV 2019, eq.
    4 and 5 (arXiv:1904.09925), after Shaw et al. (arXiv:1803.02155): place i scores place j by
    q_i . (k_j + height[y_j - y_i] + width[x_j - x_i]) / sqrt(d), with one learned vector for each
    offset along each axis. The root of d is theirs, Fu et al. have none; there is one head.

    Args:
        channels: C, of the map.
        size: its height and width in places.
        squeeze: queries and keys have C / squeeze numbers, at least one (Fu et al.: 8).
        position: whether there are position encodings.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], squeeze: int = 8, position: bool = True
    ):
        super().__init__()
        inner = max(1, channels // squeeze)
        self.query = nn.Conv2d(channels, inner, 1)
        # no biases: the softmax would take away the keys', a branch's norm the values'
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.position = position
        if position:
            height, width = size
            # so named, they have no weight decay; of length one at the start
            self.height_pos_embed = nn.Parameter(torch.randn(2 * height - 1, inner) * inner**-0.5)
            self.width_pos_embed = nn.Parameter(torch.randn(2 * width - 1, inner) * inner**-0.5)
            self.register_buffer("rows", _offsets(height), persistent=False)
            self.register_buffer("columns", _offsets(width), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        queries = self.query(features).permute(0, 2, 3, 1)  # (B, H, W, d)
        keys, values = self.key(features), self.value(features).flatten(2)
        scores = torch.einsum("byxd,bdij->byxij", queries, keys)
        if self.position:
            up = torch.einsum("byxd,yid->byxi", queries, self.height_pos_embed[self.rows])
            across = torch.einsum("byxd,xjd->byxj", queries, self.width_pos_embed[self.columns])
            scores = scores + up[..., :, None] + across[..., None, :]
        scores = scores.flatten(3).flatten(1, 2) * queries.shape[3] ** -0.5  # (B, N, N)
        seen = values @ scores.softmax(dim=2).transpose(1, 2)  # (B, C, N)
        return features + self.gamma * seen.view_as(features)


def _offsets(length: int) -> Tensor:
    """(L, L): row of the encodings, 0..2L-2, for going from place i to place j."""
    places = torch.arange(length)
    return places[None, :] - places[:, None] + length - 1


class Branch(nn.Module):
    """An attention, the mean over places, and a linear reduction with batch norm: one feature.

    The paper says that there are a pooling and a reduction. The mean, a reduction without bias
    (the norm has one) and He's normal start are chosen here; a linear map behind a mean is the mean
    behind a 1 x 1 convolution, at a fraction of the work.
    """

    def __init__(self, attention: nn.Module, channels: int, width: int):
        super().__init__()
        self.attention = attention
        self.reduction = nn.Linear(channels, width, bias=False)
        nn.init.kaiming_normal_(self.reduction.weight, nonlinearity="linear")
        self.norm = nn.BatchNorm1d(width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width)."""
        return self.norm(self.reduction(self.attention(features).mean(dim=(2, 3))))


class Branches(nn.ModuleDict):
    """The branches of a recipe by their names, and their features side by side.

    Args:
        how: the recipe's `net`.
        channels: of the map.
        size: its height and width in places.
    """

    def __init__(self, how: BranchParams, channels: int, size: tuple[int, int]):
        attentions = {
            "global": nn.Identity,
            "channel": ChannelAttention,
            "spatial": lambda: SpatialAttention(channels, size, how.squeeze, how.position),
        }
        super().__init__(
            {name: Branch(attentions[name](), channels, how.width) for name in how.branches}
        )
        self.widths = {name: how.width for name in how.branches}
        self.widths[TOGETHER] = how.width * len(how.branches)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> branch -> (B, width), and `branches`, all of them side by side."""
        found = {name: branch(features) for name, branch in self.items()}
        return {**found, TOGETHER: torch.cat(list(found.values()), dim=1)}


# --- the map of a tower -------------------------------------------------------------------------


def feature_map(encoder: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, C, H', W'), the last map before a tower pools it.

    A timm ViT's patch tokens are laid out as the patches lie, without class and register tokens. Of
    CLIP's ResNets it is layer 4, which their attention pooling takes.

    Raises:
        InputError: a backbone without such a map.
    """
    visual = getattr(encoder, "visual", None)
    if isinstance(encoder, ImageTower):
        trunk = encoder.trunk
        found = trunk.forward_features(images)
        if found.ndim == 3 and hasattr(trunk, "patch_embed"):
            height, width = trunk.patch_embed.dynamic_feat_size(images.shape[2:])
            patches = found[:, getattr(trunk, "num_prefix_tokens", 0) :]
            return patches.transpose(1, 2).unflatten(2, (height, width))
        if found.ndim == 4:  # some, such as Swin's, have their channels last
            return found if found.shape[1] == trunk.num_features else found.permute(0, 3, 1, 2)
    elif hasattr(visual, "attnpool"):
        found = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            found = layer(found)
        return found
    raise InputError(
        "model.name: MBA-Net needs a map of features, which this backbone has not; take a network "
        "of timm (timm/resnet50, timm/mobilenetv2_100) or a ResNet of CLIP (RN50-quickgelu)"
    )


class Seen(NamedTuple):
    """What a tower's map is like: channels, height and width, and which parameters it rests on."""

    channels: int
    size: tuple[int, int]
    reached: set[str]


def look(encoder: nn.Module) -> Seen:
    """Measure the map on one black image of the encoder's own input size."""
    height, width = input_size(encoder)
    named = dict(encoder.named_parameters())
    frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval().requires_grad_(True)
    some = next(iter(named.values()))
    with torch.enable_grad():
        found = feature_map(encoder, torch.zeros(1, 3, height, width, device=some.device))
        slopes = torch.autograd.grad(found.sum(), list(named.values()), allow_unused=True)
    for parameter in frozen:
        parameter.requires_grad_(False)
    for module, training in modes:
        module.training = training
    reached = {name for name, slope in zip(named, slopes, strict=True) if slope is not None}
    return Seen(found.shape[1], tuple(found.shape[2:]), reached)


def keep_last_size(encoder: nn.Module) -> None:
    """Let the last stage that halves the map keep its size: "last stride 1", once.

    Sun et al., Beyond Part Models, ECCV 2018 (arXiv:1711.09349), as person re-identification does
    it, and MBA-Net: the weights stay, the map has twice the places along each side. The tower notes
    it in a buffer, so that its embeddings are not taken for those of the plain one.

    Raises:
        InputError: a network whose last halving is not known.
    """
    if hasattr(encoder, "last_stride"):
        return
    unknown = InputError(
        "net.last_stride 1 is known of ResNets, MobileNets and their like in timm; set it to 2, "
        "which leaves the network as it is"
    )
    if not isinstance(encoder, ImageTower):
        raise unknown
    try:
        stages = towers.blocks(encoder)
    except InputError:
        raise unknown from None
    halving = next(filter(None, map(_halving, reversed(stages))), [])
    if not halving or not all(_stays_whole(module) for _, _, module in halving):
        raise unknown
    for owner, name, module in halving:
        if isinstance(module, nn.AvgPool2d):  # on the shortcut of some ResNets
            setattr(owner, name, nn.Identity())
        else:
            module.stride = (1, 1)
    encoder.register_buffer("last_stride", torch.tensor(1))


def _halving(stage: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Owner, name and layer of what has a stride of 2."""
    return [
        (owner, name, layer)
        for owner in stage.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, nn.Conv2d | nn.AvgPool2d) and layer.stride in (2, (2, 2))
    ]


def _stays_whole(layer: nn.Module) -> bool:
    """Whether a layer gives a map of its input's size when its stride is 1."""
    return isinstance(layer, nn.AvgPool2d) or all(side % 2 for side in layer.kernel_size)
