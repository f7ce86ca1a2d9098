"""Single-stage fine-tuning: what moves, what stays, and that unseen people profit."""

import pytest
import tiny_clip
import torch

from clipfh_lib import files, params, runs
from clipfh_lib.data import demo_hands, loaders, splits
from clipfh_lib.evaluation import monitoring
from clipfh_lib.files import InputError
from clipfh_lib.methods import fine_tuning, training
from clipfh_lib.models import backbones

PLAIN = {"fit.augment.crop": 1, "fit.augment.rotation": 0, "fit.augment.brightness": 0}
PLAIN |= {"fit.augment.contrast": 0, "model.weights": "none", "fit.people": 4, "fit.images": 2}


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Root of 40 drawn people with four images of each hand side."""
    root = tmp_path_factory.mktemp("hands") / "11k"
    demo_hands.write_11k(root, people=40, images=4, size=64, seed=0)
    return root


def recipe(root, name="tiny_clip", seed=0, cut="all_train", **keys):
    overrides = {**PLAIN, "data.root": str(root), "data.draw": None, "data.cut": cut}
    overrides |= {"model.name": name, **keys}
    return params.read("fine_tune", "demo", "demo", "demo", seed, overrides)


def fitted(p, encoder, preprocess, outputs="outputs"):
    """The method after its fit, its history, and what validation measured before and after."""
    data = splits.prepare(p, outputs)
    method, images = fine_tuning.make(encoder, preprocess, data, p)
    measure = monitoring.measure(method, preprocess, data, p)
    before = measure()
    run = runs.start("03_fine_tune", p, outputs)
    batches = loaders.training(images, method.targets.numpy(), p.fit, p.seed)
    check = training.Check(measure, p.fit.best_by, p.fit.eval_every, p.fit.patience)
    what = runs.fit_content(p, data.sha256, fine_tuning)
    try:
        history = training.fit(method, batches, run, what, p.fit, "cpu", check)
    finally:
        run._lock.release(force=True)
        run._close_log()
    return method, history, before, measure()


@pytest.mark.parametrize("lr, learns", [(1e-3, True), (1e-9, False)])  # the control must not learn
def test_fine_tuning_finds_people_it_never_saw(hands, tmp_path, lr, learns):
    encoder, preprocess = tiny_clip.load(tmp_path)
    keys = {"fit.epochs": 8, "fit.lr": lr, "fit.lr_heads": 2 * lr, "fit.people": 16}
    _, history, before, after = fitted(recipe(hands, **keys), encoder, preprocess)
    gained = after["mAP"] - before["mAP"]  # 0.16 and 0.19 over two seeds
    assert (gained > 0.08) == learns
    if not learns:
        assert abs(gained) < 0.01
    assert after["mAP"] == pytest.approx(history["val/mAP"].max(), abs=1e-6), "the best is kept"


def tensors(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    "keys, free",
    [
        ({}, "visual."),
        ({"fit.frozen": ["text", "projection"]}, "visual."),
        ({"fit.unfreeze_blocks": 1}, "visual.transformer.resblocks.1."),
        ({"fit.frozen": ["text", "image"]}, "nothing"),
    ],
)
def test_a_frozen_part_does_not_move_and_every_other_one_does(drawn, tmp_path, keys, free):
    encoder, preprocess = tiny_clip.load(tmp_path)
    before = tensors(encoder)
    keys = {"fit.epochs": 1, "fit.warmup": 0, "fit.best_by": "last", **keys}
    method, *_ = fitted(recipe(drawn, **keys), encoder, preprocess)
    moved = {n for n, tensor in tensors(encoder).items() if not torch.equal(tensor, before[n])}
    wanted = {n for n in before if n.startswith(free)}
    if "projection" in keys.get("fit.frozen", []):
        wanted.remove("visual.proj")
    assert moved == wanted
    heads = objective_start(method)
    for name, parameter in method.heads.named_parameters():
        changed = not torch.equal(parameter, heads[name])
        assert changed == parameter.requires_grad, name


def objective_start(method):
    """The heads as they were before the fit: drawn from the seed alone."""
    again = fine_tuning.FineTuning(
        method.encoder, method.preprocess, method.p, method.targets.numpy(), method.steps
    )
    return tensors(again.heads)


def test_every_trainable_parameter_gets_a_gradient(drawn, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    p = recipe(drawn, loss_use_center=True, loss_use_arcface=True, projection=8)
    data = splits.prepare(p, "outputs")
    method, images = fine_tuning.make(encoder, preprocess, data, p)
    batch = next(iter(loaders.training(images, method.targets.numpy(), p.fit, 0)(0)))
    method.log = method.log_dict = lambda *_, **__: None
    method.training_step(batch, 0).backward()
    for name, parameter in method.named_parameters():
        moved = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert moved == parameter.requires_grad, name
    groups = method.configure_optimizers()["optimizer"].param_groups
    there = [p for group in groups for p in group["params"]]
    assert sorted(map(id, there)) == sorted(
        id(p) for p in method.parameters() if p.requires_grad
    ), "each in exactly one group"


def test_blocks_are_freed_when_their_epoch_comes(drawn, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    keys = {"fit.unfreeze_blocks": {"0": 0, "1": 1}, "fit.best_by": "last", "fit.warmup": 0}
    start = tensors(encoder)
    one = {**keys, "fit.epochs": 1, "fit.unfreeze_blocks": {"0": 0}}
    fitted(recipe(drawn, **one), encoder, preprocess)
    assert all(torch.equal(tensor, start[n]) for n, tensor in tensors(encoder).items())
    two = recipe(drawn, **keys, **{"fit.epochs": 2, "fit.schedule": "constant"})
    fitted(two, encoder, preprocess)
    moved = {n for n, tensor in tensors(encoder).items() if not torch.equal(tensor, start[n])}
    assert moved and all(n.startswith("visual.transformer.resblocks.1.") for n in moved)


def test_batch_norms_of_a_frozen_resnet_keep_their_statistics_through_a_fit(drawn):
    keys = {"fit.frozen": ["text", "image"], "fit.epochs": 1, "model.size": 64}
    p = recipe(drawn, "timm/resnet18", **keys)
    encoder, preprocess = backbones.load(p.model)
    before = tensors(encoder)
    fitted(p, encoder, preprocess)
    assert all(torch.equal(tensor, before[n]) for n, tensor in tensors(encoder).items())
    assert any("running_mean" in name for name in before)
    free = recipe(drawn, "timm/resnet18", **{**keys, "fit.frozen": ["text"]})
    fitted(free, encoder, preprocess)
    moved = [n for n, t in tensors(encoder).items() if not torch.equal(t, before[n])]
    assert any("running_mean" in name for name in moved), "they do move when trained"
    weight = encoder.trunk.conv1.weight
    assert weight.is_contiguous(), "embeddings are made in the usual order of memory"


def test_captions_teach_through_the_frozen_text_encoder(hands, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    keys = {"loss_use_id": False, "loss_use_triplet": False, "loss_use_image_supcon": False}
    keys |= {"fit.epochs": 2, "fit.people": 16, "fit.lr": 2e-4, "fit.schedule": "cosine"}
    text = {n: t for n, t in tensors(encoder).items() if not n.startswith("visual.")}
    for loss in ("infonce", "supcon", "i2t"):
        p = recipe(hands, **keys, **{f"loss_use_{loss}": True}, seed=1)
        method, history, *_ = fitted(p, encoder, preprocess)
        assert len(method.texts) == 4, "one sentence for each aspect, without accessories"
        assert history[f"train/{loss}"].iloc[1] < history[f"train/{loss}"].iloc[0]
        now = tensors(encoder)
        assert all(torch.equal(now[n], t) for n, t in text.items())
    free = recipe(hands, **keys, **{"loss_use_infonce": True, "fit.frozen": []})
    fitted(free, encoder, preprocess)
    assert any(not torch.equal(tensors(encoder)[n], t) for n, t in text.items())


def test_published_validation_names_kept_images_of_the_training_people(hands, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    keys = {"data.val": "published", "fit.best_by": "accuracy", "fit.epochs": 12}
    p = recipe(hands, cut="first_half", **keys, **{"fit.lr": 1e-3, "fit.people": 16})
    _, history, before, after = fitted(p, encoder, preprocess)
    assert set(after) == {"accuracy", "loss"}
    assert before["accuracy"] < 0.05 and after["accuracy"] > 0.15  # 80 classes, chance 0.0125
    assert after["accuracy"] == pytest.approx(history["val/accuracy"].max())
    with pytest.raises(InputError, match="needs a head that names people"):
        off = recipe(hands, cut="first_half", **{**keys, "loss_use_id": False})
        fitted(off, encoder, preprocess)


def test_what_cannot_be_measured_is_left_out_where_the_last_epoch_counts(drawn, hands, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    alone = {"loss_use_id": False, "data.val": "published", "fit.best_by": "last"}
    alone |= {"fit.epochs": 1, "fit.warmup": 0}
    p = recipe(hands, cut="first_half", **alone)  # a triplet names nobody
    _, history, *_ = fitted(p, encoder, preprocess)
    assert not [name for name in history if name.startswith("val/")]
    i2t = {"loss_use_triplet": False, "loss_use_i2t": True, "fit.best_by": "loss"}
    with pytest.raises(InputError, match="needs a head that names people"):
        fitted(recipe(hands, cut="first_half", **{**alone, **i2t}), encoder, preprocess)
    few = {"fit.epochs": 1, "fit.warmup": 0, "data.limit.images": 1, "fit.images": 2}
    with pytest.raises(InputError, match="two images of an aspect"):  # at once, not after an epoch
        fitted(recipe(drawn, **few), encoder, preprocess)
    _, history, *_ = fitted(recipe(drawn, **few, **{"fit.best_by": "last"}), encoder, preprocess)
    assert history["val/mAP"].isna().all()


def test_what_is_freed_too_deep_or_nothing_at_all_is_refused_before_the_first_step(drawn, tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path)
    deep = {"fit.unfreeze_blocks": {"0": 1, "1": 9}, "fit.best_by": "last", "fit.epochs": 2}
    with pytest.raises(InputError, match="fit.unfreeze_blocks is 9, .* 2 blocks"):
        fitted(recipe(drawn, **deep), encoder, preprocess)
    nothing = {"fit.frozen": ["text", "image"], "loss_use_id": False, "fit.best_by": "last"}
    with pytest.raises(InputError, match="nothing is left to train"):
        fitted(recipe(drawn, **nothing, **{"fit.epochs": 1}), encoder, preprocess)


def test_a_backbone_without_text_refuses_losses_with_text(drawn):
    p = recipe(drawn, "timm/resnet18", loss_use_infonce=True, **{"model.size": 64})
    encoder, preprocess = backbones.load(p.model)
    with pytest.raises(InputError, match="timm/resnet18 reads no text"):
        fine_tuning.make(encoder, preprocess, splits.prepare(p, "outputs"), p)


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(drawn, tmp_path):
    found = []
    for seed, outputs in ((0, "a"), (0, "b"), (1, "c")):
        encoder, preprocess = tiny_clip.load(tmp_path)
        keys = {"fit.epochs": 1, "fit.warmup": 0, "fit.augment.crop": 0.7}
        fitted(recipe(drawn, seed=seed, **keys), encoder, preprocess, outputs)
        found.append(backbones.sha256(encoder))
    assert found[0] == found[1] != found[2]


def test_texts_are_listed_once_and_each_row_knows_its_own(drawn):
    p = recipe(drawn)
    table = splits.prepare(p, "outputs").train
    said, ids = fine_tuning.texts_of(table, ["A {aspect} {side} hand"])
    assert len(said) == len(set(said)) == table["aspect"].nunique()
    sides = {"r": "right", "l": "left"}
    for row, number in zip(table.itertuples(), ids, strict=True):
        aspect, side = row.aspect.split("_")
        assert said[number] == f"A {aspect} {sides[side]} hand"
    assert files.digest(said) == files.digest(sorted(said))


def test_a_fit_cut_short_goes_on_with_the_blocks_of_its_epoch(drawn, tmp_path, monkeypatch):
    keys = {"fit.epochs": 3, "fit.unfreeze_blocks": {"0": 1, "1": 2}, "fit.warmup": 0}
    keys |= {"fit.layer_decay": 0.7, "fit.augment.crop": 0.7, "loss_use_center": True}
    p, found = recipe(drawn, **keys), {}
    step = fine_tuning.FineTuning.training_step

    def stops(method, batch, number):
        if method.current_epoch == 2:
            raise KeyboardInterrupt
        return step(method, batch, number)

    for outputs in ("unbroken", "broken"):
        if outputs == "broken":
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(fine_tuning.FineTuning, "training_step", stops)
                fitted(p, *tiny_clip.load(tmp_path), outputs)
        encoder, preprocess = tiny_clip.load(tmp_path)
        method, history, *_ = fitted(p, encoder, preprocess, outputs)
        found[outputs] = backbones.sha256(encoder), backbones.sha256(method.heads)
        found[outputs] += (history.to_csv(),)
    assert found["broken"] == found["unbroken"]
