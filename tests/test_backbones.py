import logging
import pickle
import socket
import time
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import timm.data
import timm.layers
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from clipfh_lib import files
from clipfh_lib.data import captions, images, transforms
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, prompts
from clipfh_lib.schema import ModelParams

SMALL = "timm/mobilenetv2_035"  # 0.4 million parameters, batch norm


def load(name="demo_clip", weights="none", seed=0, freeze_bn=False, size=None):
    model = ModelParams(name=name, weights=str(weights), freeze_bn=freeze_bn, size=size)
    return backbones.load(model, seed)


def varied_(network, seed=0):
    """Statistics and scales of batch norms that no fresh network has, so that each counts."""
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=draw))
            module.running_var.mul_(0.8 + 0.4 * torch.rand(tensor.shape, generator=draw))
    return network.eval()


def photograph(folder, width=90, height=70):
    pixels = torch.randint(0, 256, (height // 5, width // 5, 3), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    image.save(folder / "hand.png")
    return image


def refusal(*arguments, **named):
    with pytest.raises(InputError) as caught:
        load(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name, dimensions",
    [
        ("demo_clip", 128),
        ("ViT-B-16-quickgelu", 512),
        ("ViT-B-32-quickgelu", 512),
        ("RN50-quickgelu", 1024),
        ("timm/resnet50", 2048),
        ("timm/mobilenetv2_100", 1280),
    ],
)
def test_pixels_come_to_each_network_as_its_own_preprocessing_brings_them(
    name, dimensions, tmp_path
):
    encoder, how = load(name)
    image = photograph(tmp_path)
    size = images.Size(how.height, how.width, "clip", how.interpolation)
    decoded = images.decode(tmp_path, ["hand.png"], size).pixels
    ours = transforms.normalise(decoded, how.mean, how.std)
    if name.startswith("timm/"):
        config = timm.data.resolve_model_data_config(encoder.trunk)
        own = timm.data.create_transform(**config | {"crop_pct": 1.0})
    else:
        own = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**encoder.visual.preprocess_cfg), is_train=False
        )
    theirs = own(image)[None]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not encoder.training
    with torch.inference_mode():
        found = encoder.encode_image(ours)
    assert found.shape == (1, dimensions)
    assert torch.isfinite(found).all()


def test_a_random_start_is_that_of_its_seed_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (backbones.sha256(load(SMALL, seed=seed)[0]) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_loading_leaves_the_root_logger_without_a_handler(monkeypatch):
    """Else a notebook would show each line of the log as an error."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    load("demo_clip")
    assert logging.getLogger().handlers == []


@pytest.mark.parametrize("name", [SMALL, "demo_clip"])
def test_the_hash_of_the_weights_sees_one_bit(name):
    encoder, _ = load(name)
    before = backbones.sha256(encoder)
    tensor = list(encoder.state_dict().values())[5 if name == SMALL else 1].view(-1)
    tensor.view(torch.int32 if tensor.is_floating_point() else tensor.dtype)[0] ^= 1
    assert backbones.sha256(encoder) != before
    tensor.view(torch.int32 if tensor.is_floating_point() else tensor.dtype)[0] ^= 1
    assert backbones.sha256(encoder) == before


# --- weights from files ---------------------------------------------------------------------------


def nested(state):
    wrapped = {f"module.{key}": value for key, value in state.items()}
    return {"epoch": 3, "state_dict": wrapped}


@pytest.mark.parametrize("name", [SMALL, "demo_clip"])
@pytest.mark.parametrize("form", ["a.safetensors", "a.pt", "nested.pt", "half.pth"])
def test_weights_of_a_file_are_loaded_whole(name, form, tmp_path):
    trained = varied_(load(name, seed=1)[0])
    state = backbones._network(trained).state_dict()
    path = tmp_path / form
    if form == "a.safetensors":
        backbones.save(trained, path, "key")
    elif form == "half.pth":
        state = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
        torch.save(state, path)
        trained.load_state_dict({k: v.half().float() for k, v in trained.state_dict().items()})
    else:
        torch.save(nested(state) if form == "nested.pt" else state, path)
    found, _ = load(name, path)
    assert backbones.sha256(found) == backbones.sha256(trained) != backbones.sha256(load(name)[0])


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("mobilenet_v2", "timm/mobilenetv2_100"),
        ("efficientnet_b0", "timm/efficientnet_b0"),
        ("resnet18", "timm/resnet18"),
    ],
)
def test_a_torchvision_file_of_the_same_network_gives_the_same_features(theirs, ours, tmp_path):
    network = varied_(torchvision.models.get_model(theirs, weights=None))
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(state, tmp_path / "torchvision.safetensors")
    network.load_state_dict(state)  # as float32 of the same numbers
    inside = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, arguments: inside.append(arguments[0]))
    encoder, _ = load(ours, tmp_path / "torchvision.safetensors")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(pixels)
        found = encoder.encode_image(pixels)
    torch.testing.assert_close(found, inside[0], rtol=1e-4, atol=1e-4)
    assert found.std() > 1e-3


def test_a_checkpoint_of_another_input_size_gets_its_positions_resized(tmp_path):
    larger = open_clip.create_model("demo_clip", force_image_size=160)  # 10 x 10 patches, not 7 x 7
    state = {key: value.half() for key, value in larger.state_dict().items()}
    extra = {"input_resolution": torch.tensor(160), "context_length": torch.tensor(77)}
    torch.save({**state, **extra, "vocab_size": torch.tensor(49408)}, tmp_path / "openai.pt")
    encoder, _ = load("demo_clip", tmp_path / "openai.pt")
    expected = {"visual.positional_embedding": state["visual.positional_embedding"].float()}
    open_clip.model.resize_pos_embed(expected, encoder)
    found = encoder.visual.positional_embedding.detach()
    assert len(found) == 1 + 7 * 7 and len(state["visual.positional_embedding"]) == 1 + 10 * 10
    torch.testing.assert_close(found, expected["visual.positional_embedding"])


@pytest.mark.parametrize("packed", [False, True])
def test_a_flipped_bit_in_a_file_of_ours_is_found(packed, tmp_path):
    path, encoder = tmp_path / "a.safetensors", load(seed=1)[0]
    if packed:
        backbones.pack(encoder, torch.arange(9), path)
    else:
        backbones.save(encoder, path, "key")
    assert load("demo_clip", path)
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 4
    path.write_bytes(content)
    assert "not those that were written" in refusal("demo_clip", path)
    assert not backbones.restore(encoder, path, "key")


def test_the_packaged_weights_carry_their_hash():
    assert "sha256" in backbones._metadata(backbones.ASSETS / "demo_clip.safetensors")


# --- input sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [160, (160, 96)])
def test_a_vit_at_another_size_equals_that_of_open_clip(size, tmp_path):
    name = "ViT-B-32-quickgelu"
    torch.save(load(name, seed=1)[0].state_dict(), tmp_path / "a.pt")
    own = {"pretrained": str(tmp_path / "a.pt"), "force_image_size": size}
    theirs = open_clip.create_model(name, **own).eval()
    ours, how = load(name, tmp_path / "a.pt", size=size)
    assert (how.height, how.width) == ((160, 160) if size == 160 else size)
    pixels = torch.randn(2, 3, how.height, how.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = ours.encode_image(pixels), theirs.encode_image(pixels)
    torch.testing.assert_close(found, expected)
    assert found.std() > 1e-3


def test_positions_of_a_resnet_follow_the_place_in_the_picture(tmp_path):
    """A ramp over the grid stays one from edge to edge, at twice the rows and half the columns."""
    plain, _ = load("RN50-quickgelu")
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    with torch.no_grad():
        positions = plain.visual.attnpool.positional_embedding
        positions[1:, 0], positions[1:, 1] = rows.flatten() / 6, columns.flatten() / 6
        positions[0] = 5.0
    backbones.save(plain, tmp_path / "a.safetensors", "key")
    tall, how = load("RN50-quickgelu", tmp_path / "a.safetensors", size=(448, 96))
    assert (how.height, how.width) == (448, 96)
    found = tall.visual.attnpool.positional_embedding.detach()
    assert found.shape == (1 + 14 * 3, 2048) and (found[0] == 5).all()
    down = found[1:, 0].reshape(14, 3)
    assert (down.diff(dim=0) > 0).all() and down.diff(dim=1).abs().max() < 1e-5
    assert down[0, 0] < 0.1 and down[-1, 0] > 0.9
    assert (found[1:, 1].reshape(14, 3).diff(dim=1) > 0.2).all()
    with torch.inference_mode():
        assert tall.encode_image(torch.randn(1, 3, 448, 96)).shape == (1, 1024)


def test_weights_of_a_rectangle_come_back_and_fit_another(tmp_path):
    """5 x 4 and 10 x 2 places are as many: only the size in the file tells them apart."""
    trained, _ = load("demo_clip", seed=1, size=(80, 64))
    with torch.no_grad():
        trained.visual.positional_embedding[1:] = torch.arange(20.0)[:, None]
    backbones.save(trained, tmp_path / "a.safetensors", "key")
    again, _ = load("demo_clip", tmp_path / "a.safetensors", size=(80, 64))
    assert backbones.sha256(again) == backbones.sha256(trained)
    other, _ = load("demo_clip", tmp_path / "a.safetensors", size=(160, 32))
    found = other.visual.positional_embedding[1:, 0].detach().reshape(10, 2)
    assert (found.diff(dim=0) > 0).all() and (found.diff(dim=1) > 1.5).all()
    assert other.visual.positional_embedding.requires_grad == (
        trained.visual.positional_embedding.requires_grad
    )


@pytest.mark.parametrize("name", [SMALL, "timm/vit_tiny_patch16_224"])
def test_a_timm_network_takes_a_rectangle(name):
    encoder, how = load(name, size=(128, 64))
    assert (how.height, how.width) == (128, 64)
    with torch.inference_mode():
        assert encoder.encode_image(torch.randn(1, 3, 128, 64)).isfinite().all()


@pytest.mark.parametrize("name, step", [("demo_clip", 16), ("RN50-quickgelu", 32)])
def test_a_size_between_patches_names_the_nearest_that_fits(name, step):
    told = refusal(name, size=(100, 130))
    assert "model.size: [100, 130]" in told and f"multiples of {step}" in told
    assert "[96, 128]" in told


def run_folder(folder, encoder, name):
    """A complete run folder, as runs.Run leaves it."""
    best = backbones.save(encoder, folder / "checkpoints" / "best.safetensors", "key")
    made = {"params": {"model": {"name": name, "weights": "none"}}}
    made["files"] = {"checkpoints/best.safetensors": files.sha256(best)}
    files.write_sealed(folder / "manifest.json", made)
    return folder


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_folder_of_ours_gives_its_weights(frozen, tmp_path):
    trained = varied_(load(SMALL, seed=1)[0])
    if frozen:
        trained = timm.layers.freeze_batch_norm_2d(trained)
    folder = run_folder(tmp_path / "run", trained, SMALL)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for freeze_bn in (False, True):
        encoder, _ = load(SMALL, folder, freeze_bn=freeze_bn)
        found, expected = encoder.encode_image(pixels), trained.encode_image(pixels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_run_folder_that_does_not_fit_is_refused(tmp_path):
    folder = run_folder(tmp_path / "run", load(SMALL)[0], SMALL)
    assert f"trained {SMALL}" in refusal("timm/mobilenetv2_050", folder)
    best = folder / "checkpoints" / "best.safetensors"
    backbones.save(load(SMALL, seed=1)[0], best, "key")
    assert "not what its manifest says" in refusal(SMALL, folder)
    best.unlink()
    assert "it is gone" in refusal(SMALL, folder)
    files.write_sealed(folder / "manifest.json", {"files": {}})
    assert "trained nothing" in refusal(SMALL, folder)
    (folder / "manifest.json").unlink()
    assert "no complete run" in refusal(SMALL, folder)


def test_a_packed_clip_comes_back_to_half_precision_with_rows_drawn_from_the_seed(tmp_path):
    encoder, _ = load("demo_clip", seed=1)
    used = prompts.tokens([name for kind in captions.naming(captions.BASES) for name in kind])
    used = used.unique()
    path = backbones.pack(encoder, used, tmp_path / "demo.safetensors")
    assert path.stat().st_size <= 8e6
    found, again = (load("demo_clip", path, seed=seed)[0] for seed in (2, 3))
    assert backbones.sha256(found) == backbones.sha256(again)
    wanted = {name: tensor.half().float() for name, tensor in encoder.state_dict().items()}
    table = found.state_dict()[backbones.TOKENS]
    others = torch.ones(len(table), dtype=torch.bool)
    others[used] = False
    for name, tensor in found.state_dict().items():
        rows = used if name == backbones.TOKENS else ...
        assert torch.equal(tensor[rows], wanted[name][rows]), name
    fixed = torch.randn(table.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    assert torch.equal(table[others], fixed[others])
    text = ["A dorsal right hand with accessories"]
    cpu = torch.device("cpu")
    torch.testing.assert_close(
        prompts.embed(found, text, cpu), prompts.embed(encoder, text, cpu), rtol=0, atol=2e-3
    )
    assert "token_embedding" in refusal("ViT-B-32-quickgelu", path)
    assert "token_embedding" in refusal(SMALL, path)


class Attack:
    def __reduce__(self):
        return Path("executed").touch, ()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_not_executed(suffix, plain, tmp_path):
    path = tmp_path / f"bad{suffix}"
    content = {"state_dict": {"weight": torch.zeros(2)}, "extra": Attack()}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    message = refusal(SMALL, path)
    assert str(path) in message and "refused" in message and "trust" in message
    assert not Path("executed").exists()


def test_a_file_that_does_not_fit_is_refused_with_file_and_key(tmp_path):
    state = backbones._network(load(SMALL)[0]).state_dict()
    save_file({k: v for k, v in state.items() if k != "bn1.weight"}, tmp_path / "few.safetensors")
    message = refusal(SMALL, tmp_path / "few.safetensors")
    assert "few.safetensors lacks bn1.weight" in message
    save_file({**state, "bn1.weight": torch.ones(7)}, tmp_path / "shape.safetensors")
    message = refusal(SMALL, tmp_path / "shape.safetensors")
    assert "bn1.weight is (7,)" in message and f"{SMALL} needs (16,)" in message
    save_file(state, tmp_path / "small.safetensors")
    assert "of another network" in refusal("demo_clip", tmp_path / "small.safetensors")
    content = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:1000])
    assert "cut.safetensors is refused: damaged" in refusal(SMALL, tmp_path / "cut.safetensors")
    (tmp_path / "empty.pt").touch()
    assert "empty.pt is refused" in refusal(SMALL, tmp_path / "empty.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no state dict" in refusal(SMALL, tmp_path / "list.pt")
    (tmp_path / "weights.txt").write_text("no")
    assert "neither .safetensors nor .pt" in refusal(SMALL, tmp_path / "weights.txt")


@pytest.mark.parametrize(
    "name, weights, parts",
    [
        ("ViT-B-16-quickglu", "none", ["no network ViT-B-16-quickglu", "ViT-B-16-quickgelu"]),
        ("timm/resnet5", "none", ["no network timm/resnet5", "nearest: timm/resnet50"]),
        ("timm/resnet50.a1_in", "timm", ["no network", "nearest: timm/resnet50.a1_in1k"]),
        ("ViT-B-16-quickgelu", "opnai", ["opnai is no file", "nearest: openai"]),
        (SMALL, "timn", ["timn is no file", "nearest: timm"]),
        ("demo_clip", "data/absent.safetensors", ["data/absent.safetensors is no file"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, weights, parts):
    message = refusal(name, weights)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("name", [SMALL, "demo_clip"])
def test_saved_weights_are_restored_if_key_and_every_bit_are_right(name, tmp_path):
    trained, fresh = (load(name, seed=seed)[0] for seed in (1, 2))
    path = backbones.save(trained, tmp_path / "best.safetensors", "key")
    before = backbones.sha256(fresh)
    assert not backbones.restore(fresh, tmp_path / "absent.safetensors", "key")
    assert not backbones.restore(fresh, path, "other")
    content = path.read_bytes()
    for place in (4, len(content) - 5):  # of the header, of a tensor
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert not backbones.restore(fresh, path, "key")
    path.write_bytes(content[:90])
    assert not backbones.restore(fresh, path, "key")
    assert backbones.sha256(fresh) == before
    path.write_bytes(content)
    assert backbones.restore(fresh, path, "key")
    assert backbones.sha256(fresh) == backbones.sha256(trained)


# --- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, tag", [("ViT-B-32-quickgelu", "openai"), (SMALL, "timm")])
def test_without_a_network_the_way_out_is_told_at_once(name, tag, tmp_path, monkeypatch, capfd):
    def absent(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", absent)
    monkeypatch.setattr(backbones, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    if tag == "timm":  # this one has no published weights
        name = "timm/mobilenetv2_050"
    started = time.monotonic()
    message = refusal(name, tag)
    assert time.monotonic() - started < 20  # the libraries alone: 47 s and more
    assert "huggingface.co cannot be reached" in message and ".safetensors or .pt" in message
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert "Retry" not in "".join(capfd.readouterr())


def test_a_download_that_fails_is_one_line(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("checksum differs\nand much more")

    monkeypatch.setattr(backbones, "_unreachable", str)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", fails)
    message = refusal("ViT-B-32-quickgelu", "openai")
    assert "openai of ViT-B-32-quickgelu" in message and "checksum differs" in message


def test_a_download_is_loaded_from_the_cache_without_a_network(tmp_path, monkeypatch):
    """The hub's own layout of its cache, filled by hand."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(backbones, "_unreachable", lambda: "no network")
    repository = timm.get_pretrained_cfg("mobilenetv2_050").hf_hub_id
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    network = varied_(timm.create_model("mobilenetv2_050"))
    (folder / "snapshots" / "abc").mkdir(parents=True)
    save_file(network.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    encoder, _ = load("timm/mobilenetv2_050", "timm")
    found = encoder.trunk.state_dict()
    stored = load_file(folder / "snapshots" / "abc" / "model.safetensors")
    assert all(torch.equal(found[name], stored[name]) for name in found)


# --- batch norm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SMALL, "RN50-quickgelu"])
def test_a_frozen_batch_norm_keeps_its_statistics_and_its_outputs(name, tmp_path):
    plain = varied_(load(name)[0])
    path = backbones.save(plain, tmp_path / "plain.safetensors", "key")
    frozen, _ = load(name, path, freeze_bn=True)
    size = 64 if name == SMALL else 224
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = frozen.encode_image(pixels), plain.encode_image(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    moved = {}
    for encoder in (plain, frozen):
        before = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
        encoder.train()
        with torch.no_grad():
            encoder.encode_image(pixels)
        after = encoder.state_dict()
        assert before
        moved[encoder] = sum(not torch.equal(before[k], after[k]) for k in before) / len(before)
    assert moved == {plain: 1.0, frozen: 0.0}


@pytest.mark.parametrize(
    "how, said", [({}, 0), ({"feature": ["projected"], "projection": None}, 0),
                  ({"feature_after_neck": True}, 1), ({"feature": ["guided"]}, 1),
                  ({"projection": 256}, 1)],
)  # fmt: skip
def test_weights_of_a_run_that_compares_a_feature_of_its_heads_come_with_a_word(
    how, said, tmp_path, caplog
):
    folder = run_folder(tmp_path / "run", load(SMALL)[0], SMALL)
    made = files.read_sealed(folder / "manifest.json")
    made["params"] |= how
    files.write_sealed(folder / "manifest.json", made)
    load(SMALL, folder)
    assert caplog.text.count("compares a feature of its heads") == said
