import json
import shutil

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from clipfh_lib import params, runs
from clipfh_lib.data import demo_hands, loaders, splits
from clipfh_lib.evaluation import embeddings, monitoring, retrieval
from clipfh_lib.files import InputError
from clipfh_lib.methods import clip_reid, training
from clipfh_lib.models import backbones, prompts
from clipfh_lib.schema import EmbedParams

TINY = {  # as the demo CLIP, small enough for seconds
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 48, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
FIRST, SECOND = "04_clip_reid_prompts", "05_clip_reid_encoder"


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny_clip_reid.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Twenty drawn people: five train, five validate, ten are tested, each with two aspects."""
    root = tmp_path_factory.mktemp("hands") / "11k"
    demo_hands.write_11k(root, people=20, images=3, size=64, seed=11)
    return root


def load(method, hands, own=None, seed=0):
    data = {"data.root": str(hands), "data.cut": "first_half", "data.trials": 1}
    data |= {"data.aspects": ["dorsal_r", "palmar_l"]}
    fit = {"fit.epochs": 1, "device": "cpu", "model.name": "tiny_clip_reid"}
    if method == "clip_reid_encoder":
        fit |= {"fit.people": 4, "fit.images": 2, "evaluation.resamples": 100}
    else:
        fit |= {"fit.batch_size": 8}
    return params.load(
        method, "11k_all", "demo_untrained", "demo", seed, {**data, **fit, **(own or {})}
    )


class Stage:
    """A run opened for a test, with what every cell of its notebook needs."""

    def __init__(self, notebook, p):
        self.p, self.run = p, runs.start(notebook, p, "outputs")
        self.data = splits.prepare(p, "outputs")
        self.encoder, self.preprocess = backbones.load(p.model, p.seed)
        self.start = backbones.sha256(self.encoder)


def first(hands, own=None, seed=0, finish=False):
    """The first stage, fitted."""
    one = Stage(FIRST, load("clip_reid_prompts", hands, own, seed))
    one.images = clip_reid.image_features(one.encoder, one.preprocess, one.data, one.p)
    one.method = clip_reid.make_prompts(one.encoder, one.images, one.p)
    one.before = one.method.prompts.tokens.detach().clone()
    batches = clip_reid.batches(len(one.images.array), one.p)
    what = runs.fit_content(one.p, one.data.sha256, clip_reid)
    one.history = training.fit(one.method, batches, one.run, what, one.p.fit, one.p.device)
    one.learned = clip_reid.keep(one.method, one.images, one.data, one.run, what)
    if finish:
        one.run.finish()
    else:
        one.run._lock.release(force=True)
    return one


def prepared(hands, own=None, seed=0):
    """The second stage with its prompts, before its fit."""
    two = Stage(SECOND, load("clip_reid_encoder", hands, own, seed))
    where = two.encoder, two.preprocess, two.data, two.p
    two.learned = clip_reid.learned_prompts(*where, two.run, "outputs")
    two.method, two.images = clip_reid.make_encoder(*where, two.learned)
    return two


def second(hands, own=None, seed=0):
    """The second stage, fitted; the last epoch is kept."""
    two = prepared(hands, {"fit.best_by": "last", **(own or {})}, seed)
    batches = loaders.training(two.images, two.method.targets.numpy(), two.p.fit, seed)
    what = runs.fit_content(two.p, two.data.sha256, clip_reid, prompts=two.learned.sha256)
    two.history = training.fit(two.method, batches, two.run, what, two.p.fit, two.p.device)
    two.run._lock.release(force=True)
    return two


def embedded(two, table):
    images = loaders.HandImages(table, two.data.root, two.preprocess.size("clip"))
    how = EmbedParams(), torch.device("cpu")
    return embeddings.encode(two.method.embedder(), two.preprocess, images, *how, quiet=True)


# --- first stage --------------------------------------------------------------------------------


def test_the_first_stage_moves_the_tokens_and_nothing_else(hands):
    one = first(hands)
    assert backbones.sha256(one.encoder) == one.start
    assert all(parameter.grad is None for parameter in one.encoder.parameters())
    moved = (one.method.prompts.tokens != one.before).flatten(1).any(dim=1)
    assert moved.all() and len(moved) == 10  # five people, two aspects
    assert set(one.method.state_dict()) == {"prompts.tokens"}  # no encoder in a checkpoint
    content = backbones.read_sealed(one.run.folder / "checkpoints" / "best.safetensors")[0]
    assert torch.equal(content["tokens"], one.method.prompts.tokens)


@pytest.mark.parametrize("lr, learns", [(1e-2, True), (1e-9, False)])  # the control must not learn
def test_people_are_told_apart_by_their_texts_after_the_first_stage(hands, lr, learns):
    own = {"fit.epochs": 15, "fit.lr": lr, "fit.batch_size": 30, "model.name": "demo_clip"}
    weights = "clipfh_lib/assets/demo_clip.safetensors"  # untrained, all images would be alike
    history = first(hands, {**own, "model.weights": weights}).history
    change = history.iloc[-1] - history.iloc[0]
    for name in ("train/i2t", "train/t2i", "train/loss"):
        assert (change[name] < -1) == learns and (abs(change[name]) < 0.01) == (not learns), name
    assert (change["train/accuracy"] > 0.3) == learns
    assert list(history)[:2] == ["epoch", "lr"]


@pytest.mark.parametrize("unit, temperature", [(True, 0.07), (False, 1.0), (True, 1.0)])
def test_the_logged_losses_are_those_of_the_paper(hands, unit, temperature):
    own = {"fit.batch_size": 100, "loss_text_normalise": unit, "loss_text_temperature": temperature}
    one = first(hands, {**own, "fit.lr": 1e-12})
    images = torch.from_numpy(one.images.array)
    targets = loaders.classes(one.images.table)
    texts = one.method.prompts.features(one.encoder)[torch.tensor(targets)]
    if unit:
        images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    scores = (images @ texts.T / temperature).double().numpy()
    terms = {"i2t": [], "t2i": []}
    for i, person in enumerate(targets):
        mine = np.flatnonzero(targets == person)
        terms["i2t"].append(np.log(np.exp(scores[i]).sum()) - scores[i, mine].mean())
        terms["t2i"].append(np.log(np.exp(scores[:, i]).sum()) - scores[mine, i].mean())
    for name, values in terms.items():
        assert one.history[f"train/{name}"].item() == pytest.approx(np.mean(values), rel=1e-4)
    assert one.history["train/loss"].item() == pytest.approx(
        np.mean(terms["i2t"]) + np.mean(terms["t2i"]), rel=1e-4
    )


def test_images_are_encoded_before_the_first_stage_and_never_in_it(hands):
    seen = {"image": 0, "text": 0}
    make = clip_reid.PromptStage.on_fit_start

    def counted(method):
        make(method)
        encoder = method.encoder[0]
        encoder.visual.register_forward_hook(lambda *_: seen.update(image=seen["image"] + 1))
        encoder.ln_final.register_forward_hook(lambda *_: seen.update(text=seen["text"] + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_reid.PromptStage, "on_fit_start", counted)
        one = first(hands, {"fit.epochs": 2})
    assert seen["image"] == 0
    assert seen["text"] > 2 * one.method.steps  # once a batch, and at the end


@pytest.mark.parametrize("batch, last", [(8, 6), (29, 1), (64, 30)])
def test_every_image_comes_once_an_epoch_and_the_last_batch_may_be_short(hands, batch, last):
    one = first(hands, {"fit.batch_size": batch})
    make = clip_reid.batches(30, one.p)
    sizes = [[len(each.rows) for each in make(epoch)] for epoch in (0, 1)]
    assert sizes[0] == sizes[1] and sizes[0][-1] == last and len(sizes[0]) == one.method.steps
    orders = [torch.cat([each.rows for each in make(epoch)]) for epoch in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert sorted(orders[2].tolist()) == list(range(30)) and len(one.images.array) == 30
    assert np.isfinite(one.history.to_numpy(float)).all()
    assert one.method.prompts.tokens.isfinite().all()


def test_a_class_is_a_person_and_an_aspect(hands):
    one = first(hands)
    table = one.images.table
    expected = sorted(
        {(pid, aspect) for pid, aspect in zip(table["pid"], table["aspect"], strict=True)}
    )
    assert clip_reid.people(table) == expected == one.learned.people
    assert one.method.prompts.aspects == [aspect for _, aspect in expected]
    right = table[table["aspect"] == "dorsal_r"]
    assert clip_reid.people(right) == [pair for pair in expected if pair[1] == "dorsal_r"]


def test_one_person_cannot_be_told_from_others(hands):
    one = Stage(FIRST, load("clip_reid_prompts", hands))
    images = clip_reid.image_features(one.encoder, one.preprocess, one.data, one.p)
    alone = images.table["pid"] == images.table["pid"].iloc[0]
    alone &= images.table["aspect"] == images.table["aspect"].iloc[0]
    few = embeddings.Embeddings(images.array[alone], images.table[alone])
    with pytest.raises(InputError, match="there are 1 to train"):
        clip_reid.make_prompts(one.encoder, few, one.p)


# --- second stage -------------------------------------------------------------------------------


def test_the_second_stage_trains_the_image_tower_alone_and_reads_no_text(hands):
    two = prepared(hands, {"fit.best_by": "last"})
    texts, calls = two.method.texts.clone(), []
    two.encoder.ln_final.register_forward_hook(lambda *_: calls.append(1))
    before = {name: p.detach().clone() for name, p in two.encoder.named_parameters()}
    batches = loaders.training(two.images, two.method.targets.numpy(), two.p.fit, 0)
    what = {"any": "thing"}
    history = training.fit(two.method, batches, two.run, what, two.p.fit, two.p.device)
    assert not calls and torch.equal(two.method.texts, texts)
    for name, parameter in two.encoder.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("visual."), name
    assert {"train/id", "train/triplet", "train/i2t", "train/accuracy"} <= set(history)
    heads = two.run.folder / "checkpoints" / "best.safetensors"
    names = backbones.read_sealed(heads)[0]
    assert "heads.id.projected.classifier.weight" in names and not any("tokens" in n for n in names)


def test_each_image_is_held_against_the_texts_of_all_people(hands):
    own = {"loss_use_id": False, "loss_use_triplet": False, "fit.lr": 1e-12, "loss_smoothing": 0.0}
    two = second(hands, {**own, "fit.augment.crop": 1, "fit.augment.rotation": 0,
                         "fit.augment.brightness": 0, "fit.augment.contrast": 0})  # fmt: skip
    rows, terms = [], []
    for batch in loaders.training(two.images, two.method.targets.numpy(), two.p.fit, 0)(0):
        rows.append(batch.rows.numpy())
    images = F.normalize(torch.from_numpy(embedded(two, two.images.table)), dim=1)
    texts = F.normalize(two.learned.features, dim=1)
    scores = (images @ texts.T / 0.07).log_softmax(dim=1)
    for part in rows:
        own = two.method.targets.numpy()[part]
        terms.append(-scores[part, own].mean().item())
    assert two.history["train/i2t"].item() == pytest.approx(np.mean(terms), rel=1e-3)
    assert 1.5 < np.mean(terms) < 5  # ten texts: ln 10 is 2.3
    loss = np.mean(terms) * two.p.loss_weight_i2t  # the only one that is on
    assert two.history["train/loss"].item() == pytest.approx(loss, rel=1e-3)


def test_exchanged_prompts_are_those_of_another_person_with_the_same_aspect():
    people = [(pid, aspect) for pid in range(9) for aspect in ("dorsal_r", "palmar_l")]
    found = clip_reid.shuffled(people, 0)
    assert sorted(found) == list(range(18))
    for row, other in enumerate(found):
        assert people[row][0] != people[other][0] and people[row][1] == people[other][1]
    assert (clip_reid.shuffled(people, 0) == found).all()
    assert (clip_reid.shuffled(people, 1) != found).any()
    with pytest.raises(InputError, match="dorsal_l has one person"):
        clip_reid.shuffled([*people, (3, "dorsal_l")], 0)


def test_exchanged_prompts_train_another_encoder(hands):
    """The text reaches the encoder: in the older scripts nothing would change."""
    own = {"fit.epochs": 4, "fit.lr": 1e-3}
    plain, other = second(hands, own), second(hands, {**own, "prompts.shuffle": True})
    assert plain.learned.sha256 == other.learned.sha256
    order = torch.from_numpy(clip_reid.shuffled(plain.learned.people, 0))
    assert torch.equal(other.method.texts, plain.method.texts[order])
    assert backbones.sha256(plain.encoder) != backbones.sha256(other.encoder)
    found = [embedded(two, two.data.test) for two in (plain, other)]
    assert np.abs(found[0] - found[1]).max() > 1e-4
    losses = [two.history["train/i2t"].iloc[0] for two in (plain, other)]
    assert abs(losses[0] - losses[1]) > 0.01
    values = []
    for two, array in zip((plain, other), found, strict=True):
        metrics = retrieval.evaluate(array, two.data.test, two.data.split, "trained").metrics
        values.append(metrics.set_index(["test_aspect", "gallery", "subset", "metric"])["value"])
    assert (values[0] - values[1])["all", "all_aspects", "all", "mAP"] != 0


@pytest.mark.parametrize("moves", [True, False])
def test_prompts_train_on_only_if_asked_to(hands, moves):
    two = second(hands, {"learn_prompts": moves, "prompts.lr": 3e-3})
    rates = {"lr", "lr/heads", *(["lr/prompts"] if moves else [])}
    assert {name for name in two.history if name.startswith("lr")} == rates
    state = backbones.read_sealed(two.run.folder / "checkpoints" / "best.safetensors")[0]
    kept = [name for name in state if name.endswith("prompts.tokens")]
    if not moves:
        assert two.method.prompts is None and not kept
        return
    assert two.history["lr/prompts"].item() == pytest.approx(3e-3)
    assert (state[kept[0]] != two.learned.tokens).any() and len(kept) == 1
    assert torch.equal(state[kept[0]], two.method.prompts.tokens)
    now = two.method.prompts.features(two.encoder)
    assert (now - two.learned.features).abs().max() > 1e-3


@pytest.mark.parametrize("shuffle", [True, False])
def test_prompts_that_train_on_begin_where_the_first_stage_ended(hands, shuffle):
    own = {"prompts.shuffle": shuffle}
    still, going = (prepared(hands, {**own, "learn_prompts": on}) for on in (False, True))
    everybody = torch.arange(10)
    with torch.no_grad():
        found = [two.method._texts(everybody) for two in (still, going)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learn", [True, False])
def test_every_trained_parameter_stands_in_one_group_and_moves(hands, learn):
    levels = ["last", "projected"]
    two = prepared(
        hands,
        {"learn_prompts": learn, "loss_id_levels": levels, "loss_use_arcface": True,
         "loss_use_center": True, "loss_use_supcon": True, "fit.warmup": 0,
         "loss_triplet_levels": ["before", *levels], "fit.clip": None},
    )  # fmt: skip
    method = two.method
    configured = method.configure_optimizers()
    groups = configured["optimizer"].param_groups
    places = [id(p) for group in groups for p in group["params"]]
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert sorted(places) == sorted(id(p) for p in trained.values())
    assert {group["name"] for group in groups} == {
        *("encoder", "heads", "centres"), *(["prompts"] if learn else [])
    }  # fmt: skip
    assert any("prompts.tokens" in name for name in trained) == learn
    before = {name: p.detach().clone() for name, p in trained.items()}
    method.log = method.log_dict = lambda *_, **__: None
    method.train()
    batches = loaders.training(two.images, method.targets.numpy(), two.p.fit, 0)(0)
    method.training_step(next(iter(batches)), 0).backward()
    assert all(p.grad is not None for p in trained.values())
    configured["optimizer"].step()
    for name, parameter in trained.items():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("learn", [True, False])
def test_without_a_loss_against_all_texts_those_of_the_batch_are_enough(hands, learn):
    own = {"loss_use_i2t": False, "loss_use_supcon": True, "learn_prompts": learn}
    two, whole = prepared(hands, own), prepared(hands, {**own, "loss_use_i2t": True})
    batches = loaders.training(two.images, two.method.targets.numpy(), two.p.fit, 0)(0)
    batch, found = next(iter(batches)), []
    for method in (two.method, whole.method):
        method.log = lambda *_, **__: None
        method.log_dict = lambda terms, **_: found.append(terms["train/supcon"].detach())
        method.train()
        method.training_step(batch, 0)
    torch.testing.assert_close(*found)


def test_where_texts_alone_name_people_they_give_the_logits(hands):
    own = {"loss_use_id": False, "loss_use_triplet": False, "data.val": "published"}
    two = second(hands, own)
    pixels = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        found = two.method.logits(pixels)
        images = F.normalize(two.encoder.encode_image(pixels), dim=1)
    products = images @ F.normalize(two.learned.features, dim=1).T
    torch.testing.assert_close(found, products / two.p.loss_text_temperature)
    measured = monitoring.measure(two.method, two.preprocess, two.data, two.p)()
    assert set(measured) == {"accuracy", "loss"} and 0 < measured["loss"] < 10
    assert two.history["train/accuracy"].notna().all()


def test_a_recipe_of_the_second_stage_reads_text_by_a_frozen_encoder(hands):
    with pytest.raises(InputError, match="no loss reads the prompts"):
        load("clip_reid_encoder", hands, {"loss_use_i2t": False})
    with pytest.raises(InputError, match="fit.frozen must hold text"):
        load("clip_reid_encoder", hands, {"fit.frozen": []})
    with pytest.raises(InputError, match="plateau needs validation, which prompts have not"):
        load("clip_reid_prompts", hands, {"fit.schedule": "plateau"})


# --- from one to the other ----------------------------------------------------------------------

OF_DATA = ("data", "model")


def of_first(own):
    """Overrides that the first stage knows too."""
    return {key: value for key, value in own.items() if key.split(".")[0] in OF_DATA}


@pytest.fixture
def small_recipes(project):
    """The recipe of the first stage, without overrides as the second stage looks for it."""
    path = project / "params/recipes/clip_reid_prompts/demo.yaml"
    path.write_text("fit: {epochs: 2, batch_size: 8, lr: 1.0e-2}\n")


def run_first(hands, own=None, seed=0):
    """A complete run of the first stage at the place where the second looks for it."""
    p = load("clip_reid_prompts", hands, seed=seed)
    overrides = of_first(p.overrides) | (own or {})
    p = params.read("clip_reid_prompts", "11k_all", "demo_untrained", "demo", seed, overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(__name__ + ".load", lambda *_, **__: p)
        patch.setattr(runs, "code_digest", lambda notebook: "code")
        return first(hands, finish=True)


def log_of(stage):
    return (stage.run.folder / "log.txt").read_text()


def test_prompts_of_the_run_of_the_same_axes_are_found(hands, small_recipes):
    one = run_first(hands)
    two = prepared(hands)
    assert f"prompts of {one.run.folder}" in log_of(two)
    assert (
        two.learned.sha256 == one.learned.sha256 == runs.manifest(one.run.folder)["prompts_sha256"]
    )
    assert two.run.facts["prompts_sha256"] == one.learned.sha256
    assert torch.equal(two.method.texts, one.method.prompts.features(one.encoder))
    assert not (two.run.folder / "prompts").exists()


def test_missing_prompts_are_made_as_the_first_stage_makes_them(hands, small_recipes):
    two = prepared(hands)
    assert "its prompts are learned here" in log_of(two)
    assert (two.run.folder / clip_reid.FILE).is_file()
    history = pd.read_csv(two.run.folder / "prompts" / "history.csv")
    assert len(history) == 2 and "best_epoch" not in two.run.facts  # those of its own fit follow
    two.run._lock.release(force=True)
    again = prepared(hands)
    assert "nothing is trained" in log_of(again) and again.learned.sha256 == two.learned.sha256
    again.run._lock.release(force=True)
    one = run_first(hands)
    assert one.learned.sha256 == two.learned.sha256 == prepared(hands).learned.sha256


def test_prompts_that_were_cut_short_go_on_where_they_stopped(hands, small_recipes):
    undisturbed = prepared(hands)
    undisturbed.run._lock.release(force=True)
    shutil.rmtree(undisturbed.run.folder)
    step = clip_reid.PromptStage.training_step

    def cut(method, batch, number):
        if method.trainer.current_epoch == 1 and number == 2:
            raise KeyboardInterrupt
        return step(method, batch, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(clip_reid.PromptStage, "training_step", cut)
        prepared(hands)
    (folder,) = (undisturbed.run.folder / "prompts" / "checkpoints").iterdir()
    assert folder.name == "last.ckpt"
    runs.files.lock(undisturbed.run.folder).release(force=True)
    again = prepared(hands)
    assert "taking up the fit" in log_of(again)
    assert again.learned.sha256 == undisturbed.learned.sha256


def test_prompts_of_another_seed_are_others(hands, small_recipes):
    found = [prepared(hands, seed=seed).learned for seed in (0, 1)]
    assert found[0].sha256 != found[1].sha256
    assert (found[0].tokens != found[1].tokens).any()


def test_a_named_run_gives_its_prompts_to_other_recipes(hands, small_recipes):
    one = run_first(hands, {"fit.lr": 0.1})  # not where the second stage would look
    two = prepared(hands, {"prompts.run": str(one.run.folder)})
    assert two.learned.sha256 == one.learned.sha256


@pytest.mark.parametrize(
    "own, said",
    [
        ({"data.split_seed": 5}, "learned on another split"),
        ({"model.weights": "other.safetensors"}, "learned for another encoder or other weights"),
    ],
)
def test_prompts_of_something_else_are_refused(hands, small_recipes, own, said):
    one = run_first(hands)
    if "model.weights" in own:
        other, _ = backbones.load(one.p.model, seed=9)
        backbones.save(other, runs.files.resolve("other.safetensors"), "other")
    with pytest.raises(InputError, match=said):
        prepared(hands, {**own, "prompts.run": str(one.run.folder)})


def test_a_run_of_another_recipe_in_the_same_place_is_refused(hands, small_recipes, project):
    run_first(hands)
    path = project / "params/recipes/clip_reid_prompts/demo.yaml"
    path.write_text("fit: {epochs: 2, batch_size: 8, lr: 2.0e-2}\n")
    with pytest.raises(InputError, match="fit.lr: 0.01 there, 0.02 here"):
        prepared(hands)


def test_changed_prompts_are_refused(hands, small_recipes):
    one = run_first(hands)
    path = one.run.folder / clip_reid.FILE
    changed = prompts.read(path)
    prompts.save(changed._replace(tokens=changed.tokens + 1), path)
    with pytest.raises(InputError, match="is not what its manifest says"):
        prepared(hands)


def test_a_run_without_prompts_or_none_at_all_is_refused(hands, small_recipes):
    with pytest.raises(InputError, match="no complete run"):
        prepared(hands, {"prompts.run": "outputs/nothing"})


def test_a_recipe_that_has_no_first_stage_says_how_to_name_one(hands):
    with pytest.raises(InputError, match=r"clip_reid_prompts/none.yaml.*see prompts.recipe"):
        prepared(hands, {"prompts.recipe": "none"})


# --- at test time -------------------------------------------------------------------------------


@pytest.mark.parametrize("learn", [True, False])
def test_embeddings_do_not_depend_on_whom_the_test_images_show(hands, learn):
    two = second(hands, {"learn_prompts": learn})
    test = two.data.test
    draw = np.random.default_rng(0)
    other = test.assign(pid=draw.permutation(test["pid"]), aspect=draw.permutation(test["aspect"]))
    assert (other["pid"] != test["pid"]).mean() > 0.5
    assert embedded(two, test).tobytes() == embedded(two, other).tobytes()


# --- other precisions ---------------------------------------------------------------------------


@pytest.mark.parametrize("learn", [True, False])
def test_both_stages_run_in_half_precision_near_the_full_one(hands, learn):
    whole, half = (first(hands, {"fit.precision": kind}).history for kind in ("32", "bf16"))
    np.testing.assert_allclose(half["train/loss"], whole["train/loss"], rtol=0.05)
    assert half["train/loss"].item() != whole["train/loss"].item()
    own = {"learn_prompts": learn}
    found = [second(hands, {**own, "fit.precision": kind}).history for kind in ("32", "bf16")]
    np.testing.assert_allclose(found[1]["train/i2t"], found[0]["train/i2t"], rtol=0.1)
    assert found[1]["train/i2t"].item() != found[0]["train/i2t"].item()
