"""MBA-Net: it learns, each branch has its loss, and a finished one embeds as it did."""

import pandas as pd
import pytest
import test_notebooks as notebooks
import test_published as known
import tiny_clip
import torch
from test_branches import clip_resnet

from clipfh_lib import params, runs, studied
from clipfh_lib.data import demo_hands, loaders, splits
from clipfh_lib.data.loaders import Batch
from clipfh_lib.evaluation import monitoring
from clipfh_lib.evaluation.embeddings import Embeddings
from clipfh_lib.files import InputError
from clipfh_lib.methods import mba_net, training
from clipfh_lib.models import backbones
from clipfh_lib.reports import published
from clipfh_lib.schema import ModelParams
from clipfh_lib.studies import opened

PLAIN = {"fit.augment.crop": 1, "fit.augment.rotation": 0, "model.size": 64, "net.width": 32}
PLAIN |= {"model.name": "timm/test_resnet", "fit.people": 4, "fit.images": 2, "embed.flip": "none"}
BRANCHES = ["global", "channel", "spatial"]


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Root of 24 drawn people with four images of each hand side."""
    root = tmp_path_factory.mktemp("hands") / "11k"
    demo_hands.write_11k(root, people=24, images=4, size=64, seed=0)
    return root


def recipe(root, cut="all_train", seed=0, **keys):
    overrides = {**PLAIN, "data.root": str(root), "data.draw": None, "data.cut": cut, **keys}
    return params.read("mba_net", "demo", "demo_cnn", "demo", seed, overrides)


def made(p):
    encoder, preprocess = backbones.load(p.model, p.seed)
    data = splits.prepare(p, "outputs")
    return (*mba_net.make(encoder, preprocess, data, p), data)


def fitted(p, outputs="outputs"):
    """The method after its fit, its history, and what validation measured before and after."""
    method, images, data = made(p)
    measure = monitoring.measure(method, method.preprocess, data, p)
    before = measure()
    run = runs.start("09_mba_net", p, outputs)
    batches = loaders.training(images, method.targets.numpy(), p.fit, p.seed)
    check = training.Check(measure, p.fit.best_by, p.fit.eval_every, p.fit.patience)
    what = runs.fit_content(p, data.sha256, mba_net)
    try:
        history = training.fit(method, batches, run, what, p.fit, "cpu", check)
    finally:
        run._lock.release(force=True)
        run._close_log()
    return method, history, before, measure()


def some(count=8, size=64):
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, size, size, 3), generator=draw, dtype=torch.uint8)


def woken(method):
    """With weights that all say something: attention, and norms of a ResNet, begin with zeros."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.rand(parameter.shape, generator=draw))
    return method


@pytest.mark.parametrize("lr, epochs, learns", [(2e-3, 8, True), (1e-9, 2, False)])  # a control
def test_mba_net_names_kept_images_of_the_people_that_it_trains_on(hands, lr, epochs, learns):
    # Among people it never saw, a network from a random start gains without learning anything: its
    # batch norms find their statistics. Whom a head means it must learn.
    keys = {"data.val": "published", "fit.best_by": "accuracy", "fit.people": 8}
    keys |= {"fit.epochs": epochs, "fit.warmup": 1, "fit.lr": lr, "fit.lr_heads": 2 * lr}
    method, history, before, after = fitted(recipe(hands, "first_half", **keys))
    assert before["accuracy"] < 0.1  # of 48 people's aspects, chance 0.02
    assert (after["accuracy"] > 0.2) == learns  # 0.48 with seed 0
    assert after["accuracy"] == pytest.approx(history["val/accuracy"].max()), "the best is kept"
    gammas = [v for n, v in method.heads.named_parameters() if n.endswith("gamma")]
    assert len(gammas) == 2 and all((gamma.abs() > 1e-4) == learns for gamma in gammas)


def test_each_branch_has_a_smoothed_cross_entropy_and_the_feature_is_all_of_them(drawn):
    method, *_ = made(recipe(drawn))
    method = woken(method).train()
    said = {}
    method.log = lambda name, value, **_: said.update({name: value})
    method.log_dict = lambda values, **_: said.update(values)
    batch = Batch(some(), torch.zeros(8), torch.arange(8))
    loss = method.training_step(batch, 0)
    pixels = batch.pixels.permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in method.preprocess[3:])
    pixels = (pixels - mean) / std
    levels = method.levels(pixels)
    targets, people = method.targets[:8], int(method.targets.max()) + 1
    goal = torch.full((8, people), 0.1 / people)
    goal[torch.arange(8), targets] += 0.9
    terms, named = [], []
    for name in BRANCHES:
        logits = levels[name] @ method.losses.id[name].weight.T
        terms.append(-(goal * logits.log_softmax(dim=1)).sum(dim=1).mean())
        named.append(logits)
    torch.testing.assert_close(loss, sum(terms))
    torch.testing.assert_close(said["train/id"], sum(terms))
    with torch.no_grad():
        right = (sum(named).argmax(dim=1) == targets).float().mean()
    assert said["train/accuracy"] == right
    method.eval()
    with torch.no_grad():
        found, levels = method.embedder().encode_image(pixels), method.levels(pixels)
        assert found.shape == (8, 3 * 32)
        assert torch.equal(found, torch.cat([levels[name] for name in BRANCHES], dim=1))
        assert torch.equal(found, method(pixels))
        assert not torch.equal(levels["global"], levels["channel"])
        mean = torch.stack([levels[n] @ method.losses.id[n].weight.T for n in BRANCHES]).mean(0)
        torch.testing.assert_close(method.logits(pixels), mean)
        table = pd.DataFrame({"pid": range(8)})
        alone = mba_net.alone(Embeddings(found.numpy(), table), method.p)
        assert list(alone) == BRANCHES
        for name, part in alone.items():
            assert (part.array == levels[name].numpy()).all() and part.table is table


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet"])
def test_every_trainable_parameter_gets_a_gradient_and_its_rate(drawn, name):
    steady = {"fit.schedule": "constant", "fit.warmup": 0}
    method, images, _ = made(recipe(drawn, **steady, **{"model.name": name}))
    method = woken(method).train()
    method.log = method.log_dict = lambda *_, **__: None
    batch = next(iter(loaders.training(images, method.targets.numpy(), method.p.fit, 0)(0)))
    method.training_step(batch, 0).backward()
    for name, parameter in method.named_parameters():
        moved = parameter.grad is not None and parameter.grad.abs().sum() > 1e-9
        assert moved == parameter.requires_grad, name
    groups = method.configure_optimizers()["optimizer"].param_groups
    there = {id(p): group for group in groups for p in group["params"]}
    assert len(there) == sum(len(group["params"]) for group in groups), "each in one group"
    assert set(there) == {id(p) for p in method.parameters() if p.requires_grad}
    fit = method.p.fit
    for name, parameter in method.named_parameters():
        group = there[id(parameter)]
        assert group["initial_lr"] == (fit.lr_heads if name.startswith("heads.") else fit.lr), name
        if name.endswith("pos_embed") or parameter.ndim < 2:
            assert group["weight_decay"] == 0, name
        else:
            assert group["weight_decay"] == fit.weight_decay > 0, name


def test_a_left_out_branch_leaves_neither_weights_nor_loss(drawn):
    method, *_ = made(recipe(drawn, **{"net.branches": ["global", "spatial"]}))
    assert list(method.losses.id) == ["global", "spatial"]
    assert not [n for n in method.state_dict() if "channel" in n]
    with torch.no_grad():
        found = method.eval().embedder().encode_image(torch.zeros(2, 3, 64, 64))
    assert found.shape == (2, 2 * 32)
    blind, *_ = made(recipe(drawn, **{"net.position": False}))
    assert not [n for n in blind.state_dict() if "pos_embed" in n]


def test_of_a_clip_resnet_the_attention_pooling_is_neither_used_nor_trained(drawn, tmp_path):
    clip_resnet(tmp_path)
    keys = {"model.name": "branches_rn", "model.size": 64, "net.width": 8}
    p = recipe(drawn, **keys, **{"net.last_stride": 2})
    method, *_ = made(p)
    for epoch in (0, p.fit.epochs):
        method.free(epoch)
        trained = {n for n, v in method.encoder.named_parameters() if v.requires_grad}
        assert trained and all(n.startswith("visual.") for n in trained)
        assert not [n for n in trained if "attnpool" in n]
    with pytest.raises(InputError, match="net.last_stride 1"):
        made(recipe(drawn, **keys))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"net.branches": ["spatial"], "net.last_stride": 2, "neck": True, "projection": 16},
        {"neck": True, "feature": ["channel", "global"], "feature_after_neck": True},
    ],
)
def test_a_finished_run_embeds_bit_for_bit_as_it_did_when_it_was_trained(drawn, keys):
    p = recipe(drawn, **keys)
    method, _, data = made(p)
    woken(method)
    run = runs.start("09_mba_net", p, "outputs")
    (run.folder / "checkpoints").mkdir()
    backbones.save(method.kept, run.folder / opened.BEST, "key", method.heads)
    run.record(weights_sha256=backbones.sha256(method.encoder))
    run.finish()
    study = studied.read("robustness", "demo", "demo_cnn", "default", of_run=str(run.folder))
    again, before = opened.open(study, data), method.eval().embedder()
    pixels = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.embedder.encode_image(pixels), before.encode_image(pixels))
        assert torch.equal(again.logits(pixels), method.logits(pixels))
    assert backbones.sha256(again.embedder) == backbones.sha256(before), "one entry of the cache"
    assert again.weights == "trained"


def test_a_fit_cut_short_ends_with_the_weights_of_an_unbroken_one(drawn, monkeypatch):
    p, found = recipe(drawn, **{"fit.epochs": 3, "fit.augment.crop": 0.7}), {}
    step = mba_net.MbaNet.training_step

    def stops(method, batch, number):
        if method.current_epoch == 2:
            raise KeyboardInterrupt
        return step(method, batch, number)

    for outputs in ("unbroken", "broken"):
        if outputs == "broken":
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(mba_net.MbaNet, "training_step", stops)
                fitted(p, outputs)
        method, history, *_ = fitted(p, outputs)
        found[outputs] = backbones.sha256(method.encoder), backbones.sha256(method.heads)
        found[outputs] += (history.to_csv(),)
    assert found["broken"] == found["unbroken"]


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"loss_use_infonce": True}, "MBA-Net reads no text"),
        ({"net.branches": ["global", "global"]}, "each at most once"),
        ({"loss_id_levels": ["global"]}, "no loss takes channel"),
        ({"net.branches": ["globl"]}, "net.branches"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(drawn, keys, words):
    with pytest.raises(InputError, match=words):
        recipe(drawn, **keys)
    whole = recipe(drawn, loss_id_levels=["branches"])
    assert whole.loss_id_levels == ["branches"], "one loss on all of them is no mistake"


def test_a_level_that_there_is_not_and_a_backbone_without_a_map_are_told(drawn, tmp_path):
    with pytest.raises(InputError, match="feature: this backbone has no level projected"):
        made(recipe(drawn, feature=["projected"]))
    name = tiny_clip.config(tmp_path)
    p = recipe(drawn, **{"model.name": name, "model.size": 48, "net.last_stride": 2})
    with pytest.raises(InputError, match="model.name: MBA-Net needs a map"):
        made(p)


def test_the_papers_recipe_is_the_papers():
    p = params.read("mba_net", "11k_dorsal_r", "timm_resnet50", "default")
    assert (p.model.name, p.model.size, p.fit.batch_size, p.fit.epochs) == (
        "timm/resnet50", 324, 20, 70,
    )  # fmt: skip
    encoder = backbones.load(ModelParams(name="timm/test_resnet", weights="none", size=64))
    method = mba_net.MbaNet(*encoder, p, torch.arange(40).numpy(), steps=3)
    made = method.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert type(optimizer) is torch.optim.Adam
    heads = next(group for group in optimizer.param_groups if group["name"] == "heads")
    rates = []
    for _ in range(3 * p.fit.epochs):
        rates.append([optimizer.param_groups[0]["lr"], heads["lr"]])
        optimizer.step()
        schedule.step()
    backbone, new = torch.tensor(rates).view(70, 3, 2).mean(1).unbind(1)
    torch.testing.assert_close(backbone * 10, new)
    assert 8e-6 < rates[0][1] < 8e-5 and new[9] < new[10] == pytest.approx(8e-4)
    assert new[39] == pytest.approx(8e-4) and new[40] == new[59] == pytest.approx(4e-4)
    assert new[60] == new[69] == pytest.approx(2e-4)
    shape = method.embedder().eval().encode_image(torch.zeros(1, 3, 64, 64)).shape
    assert shape == (1, 6144)


def test_its_rows_stand_beside_those_of_the_paper():
    own = {"method": "mba_net", "backbone": "timm_resnet50", "weights": "trained"}
    own |= {"notebook": "09_mba_net"}
    rows = [known.row(gallery=g, **own) for g in ("all_aspects", "same_aspect")]
    table = published.beside(pd.concat(rows, ignore_index=True))
    ours, theirs = table[table["origin"] == "ours"], table[table["method"] == "MBA-Net"]
    assert (ours["note"] == "").all() and set(ours["method"]) == {"mba_net"}
    assert theirs["gallery"].tolist() == ["all_aspects"], "their gallery, and no other"
    assert theirs["mAP"].isna().all() and theirs["mAP_trapezoid"].tolist() == [0.9798]
    beside = ours.loc[ours["gallery"] == "all_aspects", "mAP_trapezoid"]
    assert beside.notna().all(), "the same kind of average precision is there to compare"


@pytest.mark.notebooks
def test_09_mba_net_trains_and_shows_what_each_branch_knows(project):
    own = notebooks.TRAIN | {"net.width": 16}
    notebooks.executed(project, "09_mba_net", {"overrides": own})
    (folder,) = (project / "outputs/demo/09_mba_net").iterdir()
    made = notebooks.found(folder)
    names = {"gains.csv", "branches.csv", "parts.csv", "checkpoints/best.safetensors"}
    names |= {f"figures/{name}.png" for name in ("curves", "cmc", "det", "train_images")}
    assert names <= set(made["files"])
    history = pd.read_csv(folder / "history.csv")
    assert history[["train/id", "train/accuracy", "val/mAP"]].notna().all().all()
    assert len(history) == 2 and made["weights_sha256"] and made["split_sha256"]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["weights"]) == {"trained", "untrained"}
    each = pd.read_csv(folder / "branches.csv")
    assert set(each["weights"]) == {f"trained: {name}" for name in BRANCHES}
    mean_ap = each[(each["metric"] == "mAP") & (each["subset"] == "all")]
    assert mean_ap.groupby("weights")["value"].apply(tuple).nunique() == 3, "they know other things"
