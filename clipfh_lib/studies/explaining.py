"""Where in an image its similarity to another, or its identity logit, comes from."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from clipfh_lib import files, studied
from clipfh_lib.data import images, loaders, splits, transforms
from clipfh_lib.evaluation import embeddings
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones
from clipfh_lib.studies import maps, pairing
from clipfh_lib.studies.maps import CAMS, Place
from clipfh_lib.studies.opened import Opened
from clipfh_lib.study import AttentionParams, StudyParams

log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Images of one person with maps (B, H, W) of an identity logit; `said`: which logit it is."""

    said: str
    table: pd.DataFrame
    pixels: np.ndarray
    heat: np.ndarray


# --- what is explained --------------------------------------------------------------------------


class ToEachOther(nn.Module):
    """(2B, 3, H, W), B images and then the B they are held against -> (2B,) cosines.

    Each side takes the other as given, so that one pass backwards explains both.
    """

    def __init__(self, embedder: nn.Module):
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        unit = embeddings.unit(self.embedder.encode_image(images).float())
        return (unit * unit.detach().roll(len(unit) // 2, 0)).sum(dim=1)


class ToVectors(nn.Module):
    """(B, 3, H, W) -> (B,) cosine of each image to a vector of its own, (B, F), of any norm.

    With the mean embedding of a person's other images it is the identity logit of the nearest-mean
    classifier, for people whom no trained head knows.
    """

    def __init__(self, embedder: nn.Module, vectors: Tensor):
        super().__init__()
        self.embedder = embedder
        self.register_buffer("vectors", embeddings.unit(vectors.float()))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        unit = embeddings.unit(self.embedder.encode_image(images).float())
        return (unit * self.vectors).sum(dim=1)


class ToPeople(nn.Module):
    """(B, 3, H, W) -> (B,) logit of each image's person, by a head that was trained on them.

    Args:
        encoder: the backbone that the logits are made with.
        logits: images -> (B, P).
        targets: (B,) the class of each image's person.
    """

    def __init__(self, encoder: nn.Module, logits: Callable[[Tensor], Tensor], targets: Tensor):
        super().__init__()
        self.encoder, self.logits = encoder, logits
        self.register_buffer("targets", targets)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.logits(images).gather(1, self.targets[:, None])[:, 0]


# --- networks beside the studied one ------------------------------------------------------------


def baseline(p: StudyParams) -> Opened:
    """The network that the studied run began with; of zero-shot the untrained one.

    An untrained one stands beside another draw of its weights (`another_seed`).

    Raises:
        InputError: what the run began with is no longer there.
    """
    model, weights = p.model.model_copy(update={"weights": "none"}), "untrained"
    if files.resolve(p.of.folder) == files.resolve(p.model.weights):
        run = studied.params_of(files.resolve(p.of.folder))
        model, weights = run.model, embeddings.start_weights(run)
    if p.model.weights == "none":
        weights = "another_seed"
    encoder, preprocess = backbones.load(model, p.seed + (p.model.weights == "none"))
    return Opened(encoder, encoder, preprocess, weights, None)


def randomised(network: Opened, p: StudyParams) -> Opened:
    """A copy with random weights in the encoder and in all heads (Adebayo et al., 2018).

    Layers are drawn as at their start. Weights that no layer of torch's holds, as MBA-Net's gammas
    and position encodings, are drawn from a normal of mean 0 and of their own root mean square.
    """
    embedder, encoder = copy.deepcopy((network.embedder, network.encoder))
    model = p.model.model_copy(update={"weights": "none"})
    fresh, _ = backbones.load(model, p.seed + 1)  # of p.seed an untrained run may be itself
    encoder.load_state_dict(fresh.state_dict(), strict=False)  # MBA-Net notes its stride in there
    within = set(encoder.modules())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(p.seed + 1)
        for module in embedder.modules():
            if module not in within and hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif module not in within:
                for bare in module.parameters(recurse=False):
                    bare.data = torch.randn_like(bare) * bare.square().mean().sqrt()
    return network._replace(embedder=embedder.eval(), encoder=encoder.eval(), weights="untrained")


# --- maps ---------------------------------------------------------------------------------------


def possible(methods: Sequence[str], network: Opened) -> list[str]:
    """Those of the methods that a network allows: attention is that of open_clip's own ViT.

    Raises:
        InputError: it allows none of them.
    """
    left = [name for name in methods if name in CAMS or maps.attends(network.encoder)]
    for name in methods:
        if name not in left:
            log.info("%s is left out: this backbone's attention cannot be read", name)
    if not left:
        raise InputError(f"methods: {', '.join(methods)} need open_clip's ViT; take {[*CAMS][0]}")
    return left


def of_pairs(
    method: str,
    network: Opened,
    first: np.ndarray,
    second: np.ndarray,
    batch: int = 64,
    where: str = "auto",
) -> np.ndarray:
    """Maps of both images of pairs: where the cosine of the two comes from.

    Args:
        method: a key of maps.CAMS, or one of maps.ATTENTION.
        first: (N, H, W, 3) uint8 at the size of the network's input.
        second: what they are held against, likewise.
        batch: images at a time.
        where: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        (2, N, H, W) float32, 0..1, see `maps`; zeros where there is no map.
    """
    target = embeddings.device(where)
    several = max(1, (min(batch, embeddings.CPU_BATCH) if target.type == "cpu" else batch) // 2)
    found = []
    with on(network, target):
        score, spot = ToEachOther(network.embedder), maps.place(network)
        for start in range(0, len(first), several):
            both = np.concatenate([side[start : start + several] for side in (first, second)])
            heat = _maps(method, network, _input(network, both, target), score, spot)
            found.append(heat.reshape(2, -1, *heat.shape[1:]))
    return np.concatenate(found, axis=1)


def of_images(
    method: str,
    network: Opened,
    pixels: np.ndarray,
    score: nn.Module,
    where: str = "auto",
) -> np.ndarray:
    """Maps of a few images, all in one batch: where a score of each comes from.

    Args:
        pixels: (B, H, W, 3) uint8 at the size of the network's input.
        score: (B, 3, H, W) -> (B,): `ToVectors`, `ToPeople`; its network is `network`'s.

    Returns:
        (B, H, W) float32, 0..1.
    """
    target = embeddings.device(where)
    with on(network, target):
        score.to(target)
        images = _input(network, pixels, target)
        found = _maps(method, network, images, score, maps.place(network))
        score.cpu()
    return found


def identities(
    method: str, network: Opened, data: splits.Prepared, p: AttentionParams
) -> list[Identity]:
    """Several images of one person, each with the map of that person's identity logit.

    Of a test person, whom no trained head knows, the logit is the cosine to the mean embedding of
    the person's other images. Where the run kept a head for its training people there follows one
    of these, by that head.
    """
    found = []
    mine = pairing.of_person(data.test, p.images)
    plain = unflipped(p)
    array = embeddings.of(network.embedder, network.preprocess, mine, data.root, plain).array
    said = "cosine to the mean of the person's other images"
    scores = [(mine, ToVectors(network.embedder, others(array)[: p.images]), said, p.device)]
    if network.logits is not None and p.of.dataset == p.dataset:
        mine = pairing.of_person(data.train.reset_index(drop=True), p.images)
        targets = torch.from_numpy(loaders.classes(data.train)[mine.index[: p.images]])
        said = "logit of the trained head, a training person"
        # on the CPU, where the head is
        score = ToPeople(network.encoder, network.logits, targets)
        scores.append((mine, score, said, "cpu"))
    for mine, score, said, where in scores:
        mine = mine.head(p.images)
        pixels = pictures(network, mine, data.root, p)
        heat = of_images(method, network, pixels, score, where)
        found.append(Identity(said, mine, pixels, heat))
    return found


def others(array: np.ndarray) -> Tensor:
    """Mean of the unit embeddings of all other rows: (N, F) -> (N, F).

    Raises:
        InputError: there is no other row.
    """
    if len(array) < 2:
        raise InputError("attention: a person needs two images, or there is no mean of the others")
    unit = embeddings.unit(torch.from_numpy(array).float())
    return (unit.sum(dim=0) - unit) / (len(unit) - 1)


def unflipped(p: StudyParams) -> StudyParams:
    """The parameters without embed.flip: a map is one of the picture, not of its mirror image."""
    return p.model_copy(update={"embed": p.embed.model_copy(update={"flip": "none"})})


def pictures(network: Opened, table: pd.DataFrame, root: Path, p: StudyParams) -> np.ndarray:
    """(N, H, W, 3) uint8 of a table's images, at the size and by the way of the network."""
    size = network.preprocess.size(p.data.resize)
    return images.decode(root, list(table["path"]), size, p.loader.workers).pixels


def named(table: pd.DataFrame, p: StudyParams, weights: str) -> pd.DataFrame:
    """A table with whose it is in front: the studied run's axes, and its weights."""
    who = {"dataset": p.dataset, "method": p.of.method, "backbone": p.backbone}
    who |= {"recipe": p.of.recipe, "seed": p.seed, "weights": weights}
    return table.assign(**who)[[*who, *table.columns]]


def save(heat: dict[str, np.ndarray], path: Path) -> Path:
    """Write maps (2, N, H, W), both sides of each pair, by name as safetensors.

    In float16, as means over 4 x 4 pixels: a network's places are coarser than that.
    """
    content = {}
    for name, each in heat.items():
        small = (each.shape[-1] // 4, each.shape[-2] // 4)
        sides = np.concatenate(each)
        parts = [cv2.resize(one, small, interpolation=cv2.INTER_AREA) for one in sides]
        content[name] = np.stack(parts).astype(np.float16).reshape(*each.shape[:2], *parts[0].shape)
    return files.write(path, lambda temporary: save_file(content, temporary))


def flat(heat: np.ndarray) -> np.ndarray:
    """Which of (N, H, W) maps are the same everywhere, and so show nothing: (N,) bool."""
    return np.ptp(heat, axis=(1, 2)) == 0


def _maps(
    method: str, network: Opened, images: Tensor, score: nn.Module, spot: Place
) -> np.ndarray:
    if method in CAMS:
        return maps.cam(method, score, images, spot)
    return maps.attention_maps(method, network, images)


def _input(network: Opened, pixels: np.ndarray, target: torch.device) -> Tensor:
    how = network.preprocess
    return transforms.normalise(pixels, how.mean, how.std, target)


@contextlib.contextmanager
def on(network: Opened, target: torch.device) -> Iterator[None]:
    """The network on a device, in eval mode, and back on the CPU."""
    try:
        for part in (network.embedder, network.encoder):
            part.to(target).eval()
        yield
    finally:
        for part in (network.embedder, network.encoder):
            part.cpu()
