"""Every recipe that trains: no two are the same, and two epochs of each do what it says."""

import importlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from clipfh_lib import params, runs
from clipfh_lib.data import catalogues, loaders, pairs, wording
from clipfh_lib.data.splits import Prepared
from clipfh_lib.learning import LossParams, losses_of
from clipfh_lib.methods import training
from clipfh_lib.models import backbones
from clipfh_lib.schema import DataParams
from clipfh_lib.words import TextToImageParams

METHODS = ("fine_tune", "clip_reid_prompts", "clip_reid_encoder", "prompt_sg", "joint")
METHODS += ("text_to_image", "mba_net")
RECIPES = Path(__file__).resolve().parents[1] / "params" / "recipes"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 12}
RN = {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1]}
TINY = {  # backbones by what stands for them here: as many blocks, thin
    "vit_b16": "recipes_vit", "vit_b32": "recipes_vit", "demo": "recipes_vit",
    "demo_untrained": "recipes_vit", "rn50": "recipes_rn",
    "timm_mobilenetv2": "timm/test_efficientnet", "timm_resnet50": "timm/test_resnet",
    "demo_cnn": "timm/test_nfnet",
}  # fmt: skip
SMALL = {"fit.epochs": 2, "model.weights": "none", "model.size": None}
BATCHES = {"fit.people": 4, "fit.images": 2, "fit.batch_size": 8}
FOUND = {
    "rank1": 0.5,
    "mAP": 0.5,
    "recall@1": 0.5,
    "loss": 1.0,
    "accuracy": 0.5,
}  # what validation says each time


def files_of(method: str) -> list[tuple[str, str]]:
    """Recipe and backbone of every file: its own backbone, else one that has no file of its own."""
    names, found = params.names("backbones"), []
    stems = {path.stem for path in (RECIPES / method).glob("*.yaml")}
    for stem in sorted(stems):
        own = [name for name in names if stem.endswith(f"_{name}")]
        if own:
            found.append((stem.removesuffix(f"_{max(own, key=len)}"), max(own, key=len)))
        else:
            first = ("demo",) if stem == "demo" else ("vit_b16", "rn50", "demo")
            if method == "mba_net":  # wants a map of features
                first = ("demo_cnn",) if stem == "demo" else ("timm_resnet50",)
            found.append((stem, next(name for name in first if f"{stem}_{name}" not in stems)))
    return found


EVERY = [(method, *one) for method in METHODS for one in files_of(method)]


def read(method, recipe, backbone, overrides=None):
    return params.read(method, "demo", backbone, recipe, 0, overrides)


@pytest.fixture(scope="session", autouse=True)
def tiny(tmp_path_factory):
    """The two thin CLIPs, known to open_clip by their names."""
    for name, vision in (("recipes_vit", VIT), ("recipes_rn", RN)):
        path = tmp_path_factory.mktemp("configs") / f"{name}.json"
        config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": TEXT}
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)


@pytest.fixture
def data(drawn):
    """Two aspects of six people, all of whom train."""
    read = catalogues.read(DataParams(catalogue="hands_11k", root=str(drawn))).images
    images = read[read["aspect"].isin(["dorsal_r", "palmar_l"])].reset_index(drop=True)
    split = images[["image_id", "pid", "aspect"]].assign(role="train")
    return Prepared(drawn, drawn, images, split, pd.DataFrame(), [], "0" * 64, False)


# --- what they resolve to -----------------------------------------------------------------------


@cache
def content(method, recipe, backbone):
    """What a recipe resolves to, without its name, as text."""
    p = read(method, recipe, backbone).model_dump(mode="json", exclude={"recipe"})
    return json.dumps(p, sort_keys=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", ["vit_b16", "rn50", "demo", "timm_mobilenetv2"])
def test_no_two_recipes_of_a_method_resolve_to_the_same_parameters(method, backbone):
    names, seen = {recipe for recipe, _ in files_of(method)}, {}
    stems = set(params.names(f"recipes/{method}"))
    for recipe in sorted(names):
        if recipe in stems or f"{recipe}_{backbone}" in stems:
            same = seen.setdefault(content(method, recipe, backbone), recipe)
            assert same == recipe, f"{method}, {backbone}: {same} and {recipe} are one"
    assert seen


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_demo_and_a_default(method):
    assert {"demo", "default"} <= {recipe for recipe, _ in files_of(method)}
    head = (RECIPES / method / "default.yaml").read_text().splitlines()[0]
    assert head.startswith("# "), "a recipe says what it is"


# --- two epochs of each -------------------------------------------------------------------------


def fine_tune(encoder, preprocess, data, p):
    made = importlib.import_module("clipfh_lib.methods.fine_tuning")
    return made.make(encoder, preprocess, data, p)


def prompt_sg(encoder, preprocess, data, p):
    made = importlib.import_module("clipfh_lib.methods.prompt_sg")
    return made.make(encoder, preprocess, data, p)


def mba_net(encoder, preprocess, data, p):
    made = importlib.import_module("clipfh_lib.methods.mba_net")
    return made.make(encoder, preprocess, data, p)


def clip_reid_prompts(encoder, preprocess, data, p):
    made = importlib.import_module("clipfh_lib.methods.clip_reid")
    images = made.image_features(encoder, preprocess, data, p)
    return made.make_prompts(encoder, images, p), images


def clip_reid_encoder(encoder, preprocess, data, p):
    """With prompts as they are before they are learned."""
    made = importlib.import_module("clipfh_lib.methods.clip_reid")
    prompts = importlib.import_module("clipfh_lib.models.prompts")
    first = made.first_stage(p)
    stage, images = clip_reid_prompts(encoder, preprocess, data, first)
    tokens, features = stage.prompts.tokens.detach(), stage.prompts.features(encoder)
    learned = prompts.Learned(tokens, features, made.people(images.table), first.prompts, {})
    return made.make_encoder(encoder, preprocess, data, p, learned)


def text_to_image(encoder, preprocess, data, p):
    """The second are the images of its pairs, with the data of all epochs."""
    made = importlib.import_module("clipfh_lib.methods.text_to_image")
    said = wording.generate(data.train, data.captions, p.prompts)
    method, epochs = made.make(encoder, preprocess, pairs.make(data.train, said), data.root, p)
    images = epochs(0).data
    images.batches = made.loader(method, epochs)
    return method, images


def joint(encoder, preprocess, data, p):
    """The second are the images of its pairs, with the prompts of all epochs."""
    made = importlib.import_module("clipfh_lib.methods.joint")
    said = wording.generate(data.train, data.captions, p.prompts)
    said = pairs.make(data.train, said)
    method, images, texts = made.make(encoder, preprocess, data, said, p)
    targets = method.targets.numpy()
    images.batches = loaders.training(images, targets, p.fit, p.seed, "cpu", texts)
    return method, images


MAKE = {one.__name__: one for one in (fine_tune, clip_reid_prompts, clip_reid_encoder, prompt_sg)}
MAKE |= {"joint": joint, "text_to_image": text_to_image, "mba_net": mba_net}


def batches(method, p, images):
    if method in ("joint", "text_to_image"):
        return images.batches
    if method == "clip_reid_prompts":
        made = importlib.import_module("clipfh_lib.methods.clip_reid")
        return made.batches(len(images.table), p)
    return loaders.training(images, loaders.classes(images.table), p.fit, p.seed)


def tensors(module, trained):
    """A copy of what is trained, or of what is not, by name."""
    named = module.named_parameters()
    return {n: v.detach().clone() for n, v in named if v.requires_grad == trained}


@pytest.mark.parametrize("method, recipe, backbone", EVERY)
def test_every_loss_of_a_recipe_moves_and_so_does_what_it_trains_alone(
    method, recipe, backbone, data
):
    known = params.keys(params.METHODS[method])
    own = {key: value for key, value in (SMALL | BATCHES).items() if key in known}
    own["model.name"] = TINY[backbone]
    p = read(method, recipe, backbone, own)
    encoder, preprocess = backbones.load(p.model)
    made, images = MAKE[method](encoder, preprocess, data, p)
    if hasattr(made, "free"):
        made.free(p.fit.epochs)  # as the last epoch has it
    modules = torch.nn.ModuleDict({"kept": made.kept, "heads": getattr(made, "heads", None)})
    in_groups = [
        id(parameter)
        for group in made.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    ]
    if hasattr(made, "free"):
        made.free(p.fit.epochs)
    free = {id(v): name for name, v in modules.named_parameters() if v.requires_grad}
    assert sorted(in_groups) == sorted(free), "each trainable parameter is in one group"
    assert len(free) > (0 if method == "clip_reid_prompts" else 5)
    before = tensors(modules, True), tensors(modules, False), tensors(encoder, False)

    notebook = {name: key for key, name in params.NOTEBOOKS.items()}[method]
    run = runs.start(notebook, p, "outputs")
    check = None
    if isinstance(p, LossParams | TextToImageParams):
        check = training.Check(lambda: FOUND, p.fit.best_by, 1, p.fit.patience)
    names = list(images.table["image_id"])
    training.fit(made, batches(method, p, images), run, {"fit": recipe}, p.fit, "cpu", check, names)
    history = pd.read_csv(run.folder / "history.csv")
    run.finish()

    on = [] if isinstance(p, TextToImageParams) else ["i2t", "t2i"]
    if isinstance(p, LossParams):
        on = [name for name in losses_of(type(p)) if getattr(p, f"loss_use_{name}")]
    for name in [*(f"train/{name}" for name in on), "train/loss"]:
        values = history[name].to_numpy()
        assert len(values) == 2 and np.isfinite(values).all(), name
        assert values[0] != values[1], f"{name} does not move"
    after = dict(modules.named_parameters())
    still = [n for n, v in before[0].items() if torch.equal(v, after[n])]
    assert not still, f"trained, and does not move: {still[:5]}"
    held = {**{n: v for n, v in before[1].items()}, **before[2]}
    after |= dict(encoder.named_parameters())
    moved = [n for n, v in held.items() if not torch.equal(v, after[n])]
    assert not moved, f"frozen, and moves: {moved[:5]}"
