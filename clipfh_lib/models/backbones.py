"""An open_clip model or a timm image tower, with its weights and how its pixels must come."""

import hashlib
import json
import logging
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub  # comes with open_clip and timm, which download through it
import open_clip
import timm.data
import timm.layers
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipfh_lib import files, runs
from clipfh_lib.data.images import Size
from clipfh_lib.files import InputError
from clipfh_lib.params import nearest
from clipfh_lib.schema import ModelParams

TIMM = "timm/"
log = logging.getLogger(__name__)
ASSETS = Path(__file__).resolve().parents[1] / "assets"
TOKENS = "token_embedding.weight"
HEADS = "heads."  # before the names of what is trained beside an encoder
open_clip.add_model_config(ASSETS / "demo_clip.json")


class Preprocess(NamedTuple):
    """How pixels must come: size in pixels, interpolation, mean and std of RGB in 0..1."""

    height: int
    width: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def size(self, resize: str) -> Size:
        """How photographs are brought to it; `resize` as in images.Size."""
        return Size(self.height, self.width, resize, self.interpolation)


class ImageTower(nn.Module):
    """A plain image network of timm: pooled features, no classifier, no text."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        self.trunk = timm.create_model(name, pretrained=pretrained, num_classes=0)
        self.size: tuple[int, int] = timm.data.resolve_model_data_config(self.trunk)["input_size"][
            1:
        ]

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.trunk(images)


def load(model: ModelParams, seed: int = 0, heads: bool = False) -> tuple[nn.Module, Preprocess]:
    """The encoder with its weights, in eval mode on the CPU, and its preprocessing.

    `encoder.encode_image` takes (B, 3, H, W) and gives (B, D); `encode_text` is there for CLIP.

    Args:
        model: `weights` is a tag of open_clip ("openai"), "timm" for timm's own, a .safetensors or
            .pt file of this network, a run folder of ours, or "none" for a random start. `size`
            is the input's, if not the network's own; weights of another size are fitted to it.
        seed: of the random start.
        heads: the caller takes the heads of a run folder, too; else it is told what it misses.

    Raises:
        InputError: unknown name or tag, missing or unfit file, a pickle that holds code, a size
            that the network cannot take.
    """
    path = files.resolve(model.weights)
    tag = None if model.weights == "none" or path.exists() else model.weights
    _check_name(model.name, tag)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        encoder = _make(model.name, None) if tag is None else _download(model.name, tag)
    if model.size is not None:
        set_size(encoder, model.size)
    if model.weights != "none" and tag is None:
        _fill(encoder, model.name, path, heads)
    if model.freeze_bn:
        encoder = timm.layers.freeze_batch_norm_2d(encoder)
    return encoder.eval(), _preprocess(encoder)


def _make(name: str, tag: str | None) -> nn.Module:
    if name.startswith(TIMM):
        return ImageTower(name.removeprefix(TIMM), pretrained=tag is not None)
    return open_clip.create_model(name, pretrained=tag)


def _download(name: str, tag: str) -> nn.Module:
    absent = _unreachable()
    try:
        with _hub_from_disk(bool(absent)):
            return _make(name, tag)
    except Exception as error:
        raise InputError(
            f"model.weights: {tag} of {name} could not be downloaded ({absent or _said(error)}); "
            "connect once, or get a .safetensors or .pt file of it and name that in model.weights"
        ) from None


def _unreachable() -> str:
    """Why nothing can be downloaded; empty if it may be tried."""
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    if getproxies():  # only the proxy knows
        return ""
    try:
        port = hub.port or {"http": 80}.get(hub.scheme, 443)
        socket.create_connection((hub.hostname, port), timeout=5).close()
    except OSError as error:
        return f"{hub.hostname} cannot be reached: {error.strerror or error}"
    return ""


@contextmanager
def _hub_from_disk(only: bool) -> Iterator[None]:
    """Let huggingface_hub look into its cache alone.

    Without a network it would try each file six times, for 23 s, in a dozen lines.
    """
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or only
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _said(error: Exception) -> str:
    """The first line of an error, 200 characters of it."""
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of open_clip, whose errors are told by ours.

    It logs to the root, which without a handler would get one, and from then on show our own lines.
    """
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(nowhere)


def _check_name(name: str, tag: str | None) -> None:
    if name.startswith(TIMM):
        tags, short = ["timm"], name.removeprefix(TIMM)
        known = [TIMM + n for n in timm.list_models()]
        if "." in short:  # a name with the tag of its weights, as timm writes it
            known = [TIMM + n for n in timm.list_pretrained()]
    else:
        known, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(name)
    if name not in known:
        raise InputError(f"model.name: no network {name}; nearest: {nearest(name, known)}")
    if tag is not None and tag not in tags:
        raise InputError(
            f"model.weights: {tag} is no file, no run folder and no tag of {name} "
            f"(tags: {', '.join(tags) or 'none'}); nearest: {nearest(tag, [*tags, 'none'])}"
        )


def input_size(encoder: nn.Module) -> tuple[int, int]:
    """Height and width of the images that an encoder takes, in pixels."""
    how = _preprocess(encoder)
    return how.height, how.width


def _preprocess(encoder: nn.Module) -> Preprocess:
    if isinstance(encoder, ImageTower):
        how = timm.data.resolve_model_data_config(encoder.trunk)
        (height, width), interpolation = encoder.size, how["interpolation"]
    else:
        how = encoder.visual.preprocess_cfg
        size, interpolation = how["size"], how["interpolation"]
        height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(height, width, interpolation, tuple(how["mean"]), tuple(how["std"]))


# --- input size ---------------------------------------------------------------------------------


def set_size(encoder: nn.Module, size: int | tuple[int, int]) -> None:
    """Let a network take images of another size, square or not; its positions are resized.

    A CNN without positions needs no change. CLIP's ResNets have positions in the attention
    pooling, one for each 32 x 32 pixels, which open_clip itself does not resize.

    Args:
        size: height and width in pixels, or the side of a square.

    Raises:
        InputError: no multiple of the patch.
    """
    height, width = (size, size) if isinstance(size, int) else size
    step = _patch(encoder)
    if height % step or width % step:
        near = [max(step, round(side / step) * step) for side in (height, width)]
        raise InputError(
            f"model.size: {[height, width]}: takes multiples of {step}; nearest: {near}"
        )
    if isinstance(encoder, ImageTower):
        if hasattr(encoder.trunk, "set_input_size"):  # a ViT of timm
            encoder.trunk.set_input_size((height, width))
        encoder.size = (height, width)
        return
    owner = _positions(encoder)
    grid = (height // step, width // step)
    old = owner.positional_embedding
    resized = _resized(old.detach(), _grid(encoder), grid)
    owner.positional_embedding = nn.Parameter(resized, requires_grad=old.requires_grad)
    visual = encoder.visual
    visual.image_size = (height, width)
    visual.preprocess_cfg = {**visual.preprocess_cfg, "size": (height, width)}
    if hasattr(visual, "grid_size"):
        visual.grid_size = grid


def _patch(encoder: nn.Module) -> int:
    """Pixels, along a side, of what one position stands for; 1 where there are no positions."""
    if isinstance(encoder, ImageTower):
        embed = getattr(encoder.trunk, "patch_embed", None)
        return embed.patch_size[0] if embed is not None else 1
    return getattr(encoder.visual, "patch_size", (32, 32))[0]


def _positions(encoder: nn.Module) -> nn.Module:
    """The part of a CLIP image tower that holds the positions."""
    return getattr(encoder.visual, "attnpool", encoder.visual)


def _grid(encoder: nn.Module) -> tuple[int, int]:
    """Rows and columns of a CLIP image tower's positions."""
    size = encoder.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return height // _patch(encoder), width // _patch(encoder)


def _resized(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions (1 + rows x columns, D), the first of no place, on another grid; bicubic."""
    if old == new:
        return positions
    first, rest = positions[:1].float(), positions[1:].float()
    map_ = rest.T.reshape(1, -1, *old)
    map_ = nn.functional.interpolate(map_, size=new, mode="bicubic", antialias=True)
    return torch.cat([first, map_[0].flatten(1).T])


# --- weights on disk ----------------------------------------------------------------------------


def _fill(encoder: nn.Module, name: str, path: Path, heads: bool) -> None:
    """Load a file, or a run folder's best weights, into the encoder; every tensor must fit."""
    if path.is_dir():
        path = _best_of_run(path, name, heads)
    state = unpack(read_state(path), encoder, path)
    target = _network(encoder)
    wanted = target.state_dict()
    if not isinstance(encoder, ImageTower):
        _fit_positions(state, encoder, path)
    elif set(wanted) - set(state):
        state = _from_torchvision(state, wanted, name)
    for key, tensor in wanted.items():
        if key not in state and key.endswith("num_batches_tracked"):
            state[key] = tensor  # a counter that nothing reads; frozen batch norms lack it
        if key not in state:
            raise InputError(
                f"model.weights: {path} lacks {key}; it is of another network than {name}"
            )
        if state[key].shape != tensor.shape:
            found, needed = tuple(state[key].shape), tuple(tensor.shape)
            raise InputError(f"model.weights: {path}: {key} is {found}, {name} needs {needed}")
    target.load_state_dict({key: state[key] for key in wanted})


def _network(encoder: nn.Module) -> nn.Module:
    """The part whose tensors stand in a file, under the names that its own library gives them."""
    return encoder.trunk if isinstance(encoder, ImageTower) else encoder


def _best_of_run(folder: Path, name: str, heads: bool = False) -> Path:
    """A run folder's weights, after a look at its manifest."""
    made, best = runs.manifest(folder), "checkpoints/best.safetensors"
    if best not in made["files"]:
        raise InputError(f"model.weights: {folder} trained nothing; name the run that trained")
    trained = made["params"]["model"]["name"]
    if trained != name:
        raise InputError(f"model.weights: {folder} trained {trained}, model.name is {name}")
    how = made["params"]
    plain = how.get("feature", ["projected"]) == ["projected"] and how.get("projection") is None
    if not heads and (not plain or how.get("feature_after_neck")):
        log.warning(
            "%s compares a feature of its heads; here the encoder's own is taken, which may be "
            "better or worse",
            folder,
        )
    return runs.kept(folder, best)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from .safetensors, or from .pt and .pth without running any code in it.

    Raises:
        InputError: another kind of file, a damaged one (those of ours hold a SHA-256 of their
            tensors), a pickle with more than tensors.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth", ".ckpt"):
        raise InputError(f"model.weights: {path} is neither .safetensors nor .pt")
    try:
        if path.suffix == ".safetensors":
            return read_sealed(path)[0]
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can make a reader raise nearly anything
        raise InputError(
            f"model.weights: {path} is refused: damaged, or more than tensors ({_said(error)}); "
            "save its state dict as .safetensors on a machine where you trust it"
        ) from None
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"model.weights: {path} holds no state dict of tensors")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def write_sealed(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> str:
    """Write tensors as safetensors, atomically, with a hash of them and of what is said of them.

    Returns:
        The hash, which stands in the metadata as `sha256`.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = metadata | {"sha256": _seal(state, metadata)}
    files.write(path, lambda temporary: save_file(state, temporary, metadata))
    return metadata["sha256"]


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; of ours to the bit those that were written.

    Raises:
        ValueError: a file of ours that is not what was written.
    """
    state, metadata = load_file(path), _metadata(path)
    # by more than one sign, so that a bit in none of them makes it another's
    ours = metadata.keys() & {"key", "sha256"} or f"{TOKENS}.used" in state
    if ours and _seal(state, metadata) != metadata.get("sha256"):
        raise ValueError("its tensors are not those that were written")
    return state, metadata


def _seal(state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of a file's tensors and of what it says beside them."""
    rest = {name: value for name, value in metadata.items() if name != "sha256"}
    return files.digest([_sha256(state), rest]) if rest else _sha256(state)


def _metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _fit_positions(state: dict[str, Tensor], encoder: nn.Module, path: Path) -> None:
    """Fit positions of another input size, as its file names it or else of a square."""
    pooled = hasattr(encoder.visual, "attnpool")
    name = "visual.attnpool.positional_embedding" if pooled else "visual.positional_embedding"
    positions = state.get(name)
    if positions is None or positions.ndim != 2:
        return
    places = len(positions) - 1
    grid = (math.isqrt(max(places, 0)),) * 2
    if path.suffix == ".safetensors" and (size := _metadata(path).get("size")):
        grid = tuple(side // _patch(encoder) for side in json.loads(size))
    if places > 0 and grid[0] * grid[1] == places:
        state[name] = _resized(positions, grid, _grid(encoder))


def _from_torchvision(
    state: dict[str, Tensor], wanted: dict[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Names of timm for torchvision's tensors of the same network; the classifier is left out.

    Both list the tensors of MobileNetV2, MNASNet and EfficientNet in the same order under other
    names (checked: equal features). A safetensors file keeps no order, so it is taken from
    torchvision's own network.
    """
    plain = name.removeprefix(TIMM).replace("_", "")
    for model in torchvision.models.list_models(module=torchvision.models):
        if plain.startswith(model.replace("_", "")):
            with torch.device("meta"):
                names = list(torchvision.models.get_model(model, weights=None).state_dict())
            if set(names) == set(state) and len(names) >= len(wanted):
                return {ours: state[own] for ours, own in zip(wanted, names, strict=False)}
    return state


def sha256(encoder: nn.Module) -> str:
    """Hex SHA-256 of all tensors of a network, by name: what its embeddings depend on."""
    return _sha256(encoder.state_dict())


def _sha256(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def save(encoder: nn.Module, path: Path, key: str, heads: nn.Module | None = None) -> Path:
    """Write an encoder's weights as safetensors, atomically, with the key of what made them.

    Args:
        heads: what was trained beside it; its tensors stand in the same file under `heads.`, where
            `load` passes over them.
    """
    state = dict(_network(encoder).state_dict())
    if heads is not None:
        state |= {HEADS + name: tensor for name, tensor in heads.state_dict().items()}
    metadata = {"key": key}
    if hasattr(encoder, "visual"):  # the positions of a CLIP were made for this size
        how = _preprocess(encoder)
        metadata["size"] = json.dumps([how.height, how.width])
    write_sealed(state, metadata, path)
    return path


def restore(encoder: nn.Module, path: Path, key: str, heads: nn.Module | None = None) -> bool:
    """Read back what `save` wrote under this key; whether that was there, and whole."""
    try:
        state, metadata = read_sealed(path)
    except (OSError, SafetensorError, ValueError):
        return False
    if metadata.get("key") != key:
        return False
    of_heads = {name for name in state if name.startswith(HEADS)}
    if heads is not None:
        heads.load_state_dict({name.removeprefix(HEADS): state[name] for name in of_heads})
    _network(encoder).load_state_dict({n: state[n] for n in state if n not in of_heads})
    return True


def pack(encoder: nn.Module, used: Tensor, path: Path) -> Path:
    """Write a small file: float16, and of the token table only the used rows.

    Args:
        used: (T,) the token ids to keep; `unpack` draws the others from a fixed seed.
    """
    state = {name: t.detach().cpu().half().contiguous() for name, t in encoder.state_dict().items()}
    state[f"{TOKENS}.rows"] = state.pop(TOKENS)[used].contiguous()
    state[f"{TOKENS}.used"] = used.to(torch.int32)
    metadata = {"sha256": _sha256(state)}
    return files.write(path, lambda temporary: save_file(state, temporary, metadata))


def unpack(state: dict[str, Tensor], encoder: nn.Module, path: Path) -> dict[str, Tensor]:
    """The whole state dict of a packed one; any other is given back as it is.

    Raises:
        InputError: the packed network reads other tokens or none.
    """
    if f"{TOKENS}.used" not in state:
        return state
    wanted = encoder.state_dict().get(TOKENS)
    rows, used = state.pop(f"{TOKENS}.rows", None), state.pop(f"{TOKENS}.used").long()
    if wanted is None or rows is None or rows.shape != (len(used), wanted.shape[1]):
        raise InputError(f"model.weights: {path}: its {TOKENS} is of another network")
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(wanted.shape, generator=draw) * 0.02
    table[used] = rows.float()
    return {**state, TOKENS: table}
