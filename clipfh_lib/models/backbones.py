"""An open_clip model or a timm image tower, with its weights and how its pixels must come."""

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import open_clip
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipfh_lib import files, runs
from clipfh_lib.files import InputError
from clipfh_lib.params import ModelParams, nearest, read_yaml

TIMM = "timm/"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
TOKENS = "token_embedding.weight"
open_clip.add_model_config(ASSETS / "demo_clip.json")


class Preprocess(NamedTuple):
    """How pixels must come: size in pixels, interpolation, mean and std of RGB in 0..1."""

    height: int
    width: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageTower(nn.Module):
    """A plain image network of timm: pooled features, no classifier, no text."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        self.trunk = timm.create_model(name, pretrained=pretrained, num_classes=0)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.trunk(images)


def load(model: ModelParams, seed: int = 0) -> tuple[nn.Module, Preprocess]:
    """The encoder with its weights, in eval mode on the CPU, and its preprocessing.

    `encoder.encode_image` takes (B, 3, H, W) and gives (B, D); `encode_text` is there for CLIP.

    Args:
        model: `weights` is a tag of open_clip ("openai"), "timm" for timm's own, a .safetensors or
            .pt file of this network, a run folder of ours, or "none" for a random start.
        seed: of the random start.

    Raises:
        InputError: unknown name or tag, missing or unfit file, a pickle that holds code.
    """
    weights = model.weights
    path = files.resolve(weights)
    own = "timm" if model.name.startswith(TIMM) else "open_clip"
    local = path.exists() and weights != "none"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tag = weights if not local and weights != "none" else None
        _check_name(model.name, tag)
        try:
            if own == "timm":
                encoder = ImageTower(model.name.removeprefix(TIMM), pretrained=tag is not None)
            else:
                encoder = _quiet(open_clip.create_model, model.name, pretrained=tag)
        except Exception as error:
            if tag is None:
                raise
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
            raise InputError(
                f"model.weights: {tag} of {model.name} could not be downloaded ({reason}); connect "
                "once, or get a .safetensors or .pt file of it and name that in model.weights"
            ) from None
    if local:
        _fill(encoder, model.name, path)
    if model.freeze_bn:
        encoder = timm.utils.freeze_batch_norm_2d(encoder)
    return encoder.eval(), _preprocess(encoder)


def _quiet(make: callable, *args: object, **kwargs: object) -> nn.Module:
    """Without open_clip's warning that a model without weights has random ones."""
    logging.disable(logging.WARNING)
    try:
        return make(*args, **kwargs)
    finally:
        logging.disable(logging.NOTSET)


def _check_name(name: str, tag: str | None) -> None:
    if name.startswith(TIMM):
        known, tags = timm.list_models(), ["timm"]
        name = name.removeprefix(TIMM).split(".")[0]
    else:
        known, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(name)
    if name not in known:
        raise InputError(f"model.name: no network {name}; nearest: {nearest(name, known)}")
    if tag is not None and tag not in tags:
        raise InputError(
            f"model.weights: {tag} is no file, no run folder and no tag of {name} "
            f"(tags: {', '.join(tags) or 'none'}); nearest: {nearest(tag, [*tags, 'none'])}"
        )


def _preprocess(encoder: nn.Module) -> Preprocess:
    if isinstance(encoder, ImageTower):
        how = timm.data.resolve_model_data_config(encoder.trunk)
        (height, width), interpolation = how["input_size"][1:], how["interpolation"]
    else:
        how = encoder.visual.preprocess_cfg
        size, interpolation = how["size"], how["interpolation"]
        height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(height, width, interpolation, tuple(how["mean"]), tuple(how["std"]))


# --- weights on disk ----------------------------------------------------------------------------


def _fill(encoder: nn.Module, name: str, path: Path) -> None:
    """Load a file, or a run folder's best weights, into the encoder; every tensor must fit."""
    if path.is_dir():
        made = runs.manifest(path)
        trained = read_name(path)
        if trained != name:
            raise InputError(f"model.weights: {path.name} trained {trained}, model.name is {name}")
        path = path / "checkpoints" / "best.safetensors"
        if not path.is_file():
            raise InputError(f"model.weights: {path} is missing; that run trained nothing")
        if files.sha256(path) != made["files"]["checkpoints/best.safetensors"]:
            raise InputError(f"model.weights: {path} is not what its manifest says; run it again")
    state = unpack(read_state(path), encoder)
    target = encoder.trunk if isinstance(encoder, ImageTower) else encoder
    wanted = target.state_dict()
    if not isinstance(encoder, ImageTower):
        open_clip.factory.resize_pos_embed(state, target)
    if set(wanted) - set(state):
        state = _by_order(state, wanted)
    for key, tensor in wanted.items():
        if key not in state:
            raise InputError(
                f"model.weights: {path} lacks {key}; it is of another network than {name}"
            )
        if state[key].shape != tensor.shape:
            found, needed = tuple(state[key].shape), tuple(tensor.shape)
            raise InputError(f"model.weights: {path}: {key} is {found}, {name} needs {needed}")
    target.load_state_dict({key: state[key].to(wanted[key].dtype) for key in wanted})


def read_name(folder: Path) -> str:
    """`model.name` of a run folder."""
    return read_yaml(folder / "params.yaml").get("model", {}).get("name", "no model")


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from .safetensors, or from .pt and .pth without running any code in it.

    Raises:
        InputError: another kind of file, a damaged one, a pickle with more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix in (".pt", ".pth", ".ckpt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise InputError(f"model.weights: {path} is neither .safetensors nor .pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"model.weights: {path} cannot be read ({error})") from None
    except InputError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0][:120] if str(error).strip() else repr(error)
        raise InputError(
            f"model.weights: {path} is refused: more than tensors, or damaged ({first}); "
            "save its state dict as .safetensors on a machine where you trust it"
        ) from None
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"model.weights: {path} holds no state dict of tensors")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _by_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another library's file of the same network: tensors matched in order, classifier left out.

    torchvision and timm list the tensors of MobileNetV2 in the same order under other names. A
    safetensors file keeps no order, so torchvision's is taken from torchvision's own network.
    """
    names = _torchvision_order(set(state))
    if names is None or len(names) < len(wanted):
        return state
    pairs = list(zip(wanted, names, strict=False))
    fits = all(wanted[ours].shape == state[theirs].shape for ours, theirs in pairs)
    return {ours: state[theirs] for ours, theirs in pairs} if fits else state


def _torchvision_order(names: set[str]) -> list[str] | None:
    """The names in the order of the torchvision network that has exactly these, if there is one."""
    import torchvision

    for model in torchvision.models.list_models(module=torchvision.models):
        if model.startswith(("mobilenet", "resnet", "efficientnet", "densenet", "shufflenet")):
            with torch.device("meta"):
                order = list(torchvision.models.get_model(model).state_dict())
            if set(order) == names:
                return order
    return None


def sha256(encoder: nn.Module) -> str:
    """Hex SHA-256 of all tensors of a network, by name: what its embeddings depend on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(encoder: nn.Module, path: Path, metadata: dict[str, str]) -> Path:
    """Write an encoder's weights as safetensors, atomically."""
    target = encoder.trunk if isinstance(encoder, ImageTower) else encoder
    state = {name: t.detach().cpu().contiguous() for name, t in target.state_dict().items()}
    return files.write(path, lambda temporary: save_file(state, temporary, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """What was written beside the tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def pack(encoder: nn.Module, used: Tensor, path: Path) -> Path:
    """Write a small file: float16, and of the token table only the used rows.

    Args:
        used: (T,) the token ids to keep; `unpack` draws the others from a fixed seed.
    """
    state = {name: t.detach().cpu().half().contiguous() for name, t in encoder.state_dict().items()}
    state[f"{TOKENS}.rows"] = state.pop(TOKENS)[used].contiguous()
    state[f"{TOKENS}.used"] = used.to(torch.int32)
    return files.write(path, lambda temporary: save_file(state, temporary))


def unpack(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The whole state dict of a packed one; any other is given back as it is."""
    if f"{TOKENS}.used" not in state:
        return state
    rows, used = state.pop(f"{TOKENS}.rows"), state.pop(f"{TOKENS}.used").long()
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(encoder.token_embedding.weight.shape, generator=draw) * 0.02
    table[used] = rows.float()
    return {**state, TOKENS: table}
