"""Joint training: both encoders, prompts that people may share, a bounded scale, a warm start."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny_clip
import torch
import torch.nn.functional as F

from clipfh_lib import files, params, plans, runs
from clipfh_lib.data import demo_hands, loaders, pairs, splits, wording
from clipfh_lib.data.loaders import Batch
from clipfh_lib.evaluation import embeddings, monitoring, text_image
from clipfh_lib.files import InputError
from clipfh_lib.methods import joint, training
from clipfh_lib.models import backbones, losses, objective, optimisers, spoken, towers

NOTEBOOK = "07_joint_image_text"


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    return tiny_clip.config(tmp_path_factory.mktemp("config"), "tiny_joint")


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Sixty drawn people: thirty train or validate, thirty are tested; two aspects are taken."""
    root = tmp_path_factory.mktemp("hands") / "11k"
    demo_hands.write_11k(root, people=60, images=2, size=64, seed=5, workers=2)
    return root


def load(hands, **own):
    data = {"data.root": str(hands), "data.cut": "first_half", "data.trials": 1}
    data |= {"data.aspects": ["dorsal_r", "palmar_l"], "model.name": "tiny_joint"}
    fit = {"fit.epochs": 1, "fit.people": 4, "fit.images": 2, "device": "cpu"}
    fit |= {"evaluation.resamples": 100}
    given = {key.replace("__", "."): value for key, value in own.items()}
    return params.load("joint", "11k_all", "demo_untrained", "demo", 0, data | fit | given)


class Fitted:
    """A run opened for a test, with what every cell of its notebook needs."""

    def __init__(self, p, change=lambda encoder: None):
        self.p, self.data = p, splits.prepare(p, "outputs")
        self.encoder, self.preprocess = backbones.load(p.model, p.seed)
        change(self.encoder)
        self.before = {n: t.detach().clone() for n, t in self.encoder.named_parameters()}
        said = wording.generate(self.data.images, self.data.captions, p.prompts)
        self.said = pairs.make(self.data.train, said)
        trained = self.data.test["aspect"].isin(p.data.aspects)  # the gallery has others too
        self.found = pairs.make(self.data.test[trained], said)
        self.method, self.images, self.texts = joint.make(
            self.encoder, self.preprocess, self.data, self.said, p
        )

    def batches(self, epoch):
        targets = self.method.targets.numpy()
        make = loaders.training(self.images, targets, self.p.fit, self.p.seed, "cpu", self.texts)
        return make(epoch)

    def fit(self, what=None):
        run = runs.start(NOTEBOOK, self.p, "outputs")
        measure = monitoring.measure(
            self.method, self.preprocess, self.data, self.p, self.images.table
        )
        check = training.Check(measure, self.p.fit.best_by, 1, self.p.fit.patience)
        what = what or runs.fit_content(self.p, self.data.sha256, joint)
        try:
            self.history = training.fit(
                self.method, self.batches, run, what, self.p.fit, "cpu", check
            )
        finally:
            run._close_log()
            run._lock.release(force=True)
        return self

    def moved(self):
        now = dict(self.encoder.named_parameters())
        return {name for name, start in self.before.items() if not torch.equal(start, now[name])}

    def finds(self):
        """mAP of the tested images by their prompts."""
        found = embeddings.of(
            self.encoder, self.preprocess, self.found.table, self.data.root, self.p
        )
        texts = text_image.texts_of(self.encoder, self.found.texts)
        return text_image.validate(found.array, texts, self.found)["mAP"]


# --- prompts that people share ------------------------------------------------------------------


def in_loops(images, texts, positive, allowed, temperature):
    """Image to text, pair by pair: -ln of the share of each positive among what is allowed."""
    total = 0.0
    for i in range(len(images)):
        there = [j for j in range(len(texts)) if allowed[i][j]]
        scores = {j: float(images[i] @ texts[j]) / temperature for j in there}
        norm = math.log(sum(math.exp(score) for score in scores.values()))
        right = [j for j in there if positive[i][j]]
        total += sum(norm - scores[j] for j in right) / len(right)
    return total / len(images)


def drawn_batch(seed=0, count=12, people=5, sentences=3):
    """Images and texts at unit length, who they are of, and which text is true of which image."""
    draw = torch.Generator().manual_seed(seed)
    images, table = torch.randn(2, count, 8, generator=draw, dtype=torch.float64)
    pids = torch.randint(people, (count,), generator=draw)
    words = torch.randint(sentences, (count,), generator=draw)
    true = words[:, None] == words[None, :]
    true |= torch.rand(count, count, generator=draw) < 0.1  # also what is said of others alone
    return F.normalize(images, dim=1), F.normalize(table, dim=1)[words], pids, true


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_that_is_true_of_another_persons_image_is_no_error_for_it(seed):
    images, texts, pids, true = drawn_batch(seed)
    same = pids[:, None] == pids[None, :]
    allowed = same | ~true
    ours = losses.image_to_text(images, texts, pids, 0.1, true)
    assert float(ours) == pytest.approx(in_loops(images, texts, same, allowed, 0.1))
    assert float(ours) < float(losses.image_to_text(images, texts, pids, 0.1)) - 0.1
    back = losses.text_to_image(images, texts, pids, 0.1, true)
    assert float(back) == pytest.approx(in_loops(texts, images, same, allowed.T, 0.1))


def test_texts_that_are_true_of_their_own_image_alone_change_nothing():
    images, texts, pids, _ = drawn_batch()
    own = torch.eye(len(pids), dtype=torch.bool)
    for loss in (losses.image_to_text, losses.text_to_image):
        plain = loss(images, texts, pids, 0.1)
        torch.testing.assert_close(loss(images, texts, pids, 0.1, own), plain)


def test_infonce_takes_all_that_is_true_as_right(hands):
    p = load(hands, loss_use_supcon=False, loss_use_infonce=True, loss_use_id=False,
             loss_use_image_supcon=False, loss_use_triplet=False)  # fmt: skip
    heads = objective.Objective(p, {"projected": 8}, people=5)
    images, texts, pids, true = drawn_batch()
    levels, every = {"projected": images.float()}, torch.ones_like(true)
    found = heads(levels, pids, texts.float(), true=true, scale=torch.tensor(10.0))["infonce"]
    both = in_loops(images, texts, true, every, 0.1) + in_loops(texts, images, true.T, every, 0.1)
    assert float(found) == pytest.approx(both / 2, rel=1e-4)
    alone = torch.eye(len(pids), dtype=torch.bool)
    lone = heads(levels, pids, images.float(), true=alone, scale=torch.tensor(10.0))["infonce"]
    assert float(lone) == pytest.approx(float(losses.info_nce(images, images, 10.0)), rel=1e-4)


def test_a_general_and_a_special_sentence_of_one_image_leave_others_to_be_told_apart(hands):
    """All images share the first template; what the second says still tells men from women."""
    own = {"prompts__strategy": "v3", "prompts__traits": [], "data__aspects": ["dorsal_r"]}
    own |= {"loss_use_id": False}
    own |= {"loss_use_image_supcon": False, "loss_use_triplet": False}
    own["prompts__hands"] = ["A {aspect} {side} hand", "A hand of a {gender}"]
    one = Fitted(load(hands, **own))
    assert not one.said.groups.any(), "all hang together"
    rows = torch.arange(len(one.images))
    texts = np.array(one.said.texts)[one.method.said]
    gender = one.images.table["gender"].to_numpy()
    assert {"male", "female"} == set(gender)
    for i, j in np.ndindex(len(rows), len(rows)):
        general = texts[j] == "A dorsal right hand"
        assert one.method.true(rows)[i, j] == (general or f" {gender[i]}" in f" {texts[j]}")
    before = one.before["text_projection"]
    one.fit()
    assert not torch.equal(before, one.encoder.text_projection)
    assert one.history["train/supcon"].iloc[0] > 0.1


# --- what is trained ----------------------------------------------------------------------------


def test_both_encoders_and_the_scale_learn_at_rates_of_their_own(hands):
    one = Fitted(load(hands, fit__lr=1e-3, fit__lr_text=2e-3, fit__lr_heads=3e-3))
    named = one.method.configure_optimizers()["optimizer"].param_groups
    peak = {group["name"]: max(group["max_lr"] for group in named if group["name"] == n)
            for n, group in ((g["name"], g) for g in named)}  # fmt: skip
    assert peak == {"encoder": 1e-3, "text": 2e-3, "scale": 3e-3, "heads": 3e-3}
    places = [id(each) for group in named for each in group["params"]]
    free = [e for e in one.method.parameters() if e.requires_grad]
    assert sorted(places) == sorted(map(id, free)), "each in one group"
    names = {id(e): n for n, e in one.encoder.named_parameters()}
    texts = {names[id(e)] for g in named if g["name"] == "text" for e in g["params"]}
    assert texts == {
        n for n in one.before if not n.startswith("visual.") and n not in ("logit_scale",)
    }
    one.fit()
    still = set(one.before) - one.moved()
    assert not still, f"not moved: {still}"
    assert {"lr", "lr/text", "lr/scale", "lr/heads"} <= set(one.history)


@pytest.mark.parametrize("frozen", ["text", "image", "projection"])
def test_what_is_frozen_stays_to_the_bit(hands, frozen):
    one = Fitted(load(hands, fit__frozen=[frozen])).fit()
    parts = {n: towers.part_of(n, one.encoder) for n in one.before}
    held = {n for n, part in parts.items() if part == frozen}
    if frozen != "projection":
        held |= {"text_projection" if frozen == "text" else "visual.proj"}
    assert held and held.isdisjoint(one.moved())
    assert set(one.before) - held == one.moved()


@pytest.mark.parametrize("start", [5.0, 1.99])
def test_the_scale_never_passes_its_bound(hands, monkeypatch, start):
    def warm(encoder):
        encoder.logit_scale.data.fill_(start)

    p = load(hands, fit__scale_max=math.exp(2), fit__lr_heads=0.02, fit__epochs=2)
    upwards = lambda self, batch, _: -self.encoder.logit_scale.sum()  # noqa: E731
    monkeypatch.setattr(joint.Joint, "training_step", upwards)
    one = Fitted(p, warm).fit()
    assert float(one.encoder.logit_scale.detach()) == pytest.approx(2)


def test_a_temperature_of_the_recipe_leaves_the_scale_alone(hands):
    one = Fitted(load(hands, loss_text_temperature=0.1)).fit()
    assert "logit_scale" not in one.moved()
    assert "train/logit_scale" not in one.history


def test_a_batch_has_the_prompt_of_each_image_and_its_loss_is_that_of_plain_torch(hands):
    one = Fitted(load(hands, loss_use_id=False, loss_use_image_supcon=False))
    batch = next(iter(one.batches(0)))
    coded = joint.prompts.tokens(one.said.texts)
    for row, text in zip(batch.rows.tolist(), batch.texts, strict=True):
        said = one.said.ids[one.said.images == row]
        assert any(torch.equal(text, coded[one_of]) for one_of in said)
    logged = {}
    one.method.log = lambda name, value, **_: logged.__setitem__(name, float(value.detach()))
    one.method.log_dict = lambda values, **_: logged.update(
        {name: float(value.detach()) for name, value in values.items()}
    )
    one.method.training_step(batch, 0)
    pixels = joint.normalise(batch.pixels, one.preprocess.mean, one.preprocess.std)
    images = F.normalize(one.encoder.encode_image(pixels), dim=1)
    texts = F.normalize(one.encoder.encode_text(batch.texts), dim=1)
    warmth = 1 / float(one.encoder.logit_scale.detach().exp())
    pids, true = one.method.targets[batch.rows], one.method.true(batch.rows)
    same = pids[:, None] == pids[None, :]
    allowed, both = same | ~true, (images.detach(), texts.detach())
    expected = in_loops(*both, same, allowed, warmth)
    expected += in_loops(*both[::-1], same, allowed.T, warmth)
    assert logged["train/supcon"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("lr, learns", [(5e-4, True), (1e-9, False)])  # the control must not learn
def test_prompts_find_images_of_people_who_never_trained(hands, lr, learns):
    p = load(hands, fit__lr=lr, fit__lr_text=lr, fit__lr_heads=lr, fit__epochs=12,
             fit__best_by="last", prompts__strategy="v1", loss_use_id=False,
             loss_use_image_supcon=False, loss_use_infonce=True, loss_use_supcon=False)  # fmt: skip
    one = Fitted(p)
    before = one.finds()
    one.fit()
    gained = one.finds() - before
    assert (gained > 0.15) == learns, gained  # 0.28


def test_a_fit_that_was_cut_short_ends_with_the_same_bits(hands, monkeypatch):
    own = {"fit__epochs": 3, "vary__count": 2, "fit__augment__flip": 0.5, "prompts__strategy": "v3"}
    whole = Fitted(load(hands, **own)).fit()
    state = {n: t.clone() for n, t in whole.encoder.state_dict().items()}
    history = whole.history
    for path in (files.project() / "outputs").rglob("checkpoints/*"):
        path.unlink()
    step = joint.Joint.training_step

    def stops(self, batch, _):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        return step(self, batch, _)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(joint.Joint, "training_step", stops)
        Fitted(load(hands, **own)).fit()
    again = Fitted(load(hands, **own)).fit()
    assert all(torch.equal(again.encoder.state_dict()[n], t) for n, t in state.items())
    pd.testing.assert_frame_equal(again.history, history)


def test_who_is_left_out_of_the_training_is_not_named_in_the_validation(hands):
    own = {"data__val": "published", "fit__best_by": "accuracy"}
    one = Fitted(load(hands, **own))
    first = one.data.train["pid"].min()
    kept = one.data.train[one.data.train["pid"] != first]
    one.said = one.said.of_images(kept["image_id"])
    made = joint.make(one.encoder, one.preprocess, one.data, one.said, one.p)
    one.method, one.images, one.texts = made
    seen = []
    names = monitoring.seen
    try:
        monitoring.seen = lambda *given: seen.append(given[2:4]) or names(*given)
        one.fit()
    finally:
        monitoring.seen = names
    (images, targets), *_ = seen
    assert first in set(one.data.val["pid"]) and first not in set(images.table["pid"])
    own_of = dict(zip(zip(one.images.table["pid"], one.images.table["aspect"], strict=True),
                      one.method.targets.tolist(), strict=True))  # fmt: skip
    rows = zip(images.table["pid"], images.table["aspect"], strict=True)
    assert targets.tolist() == [own_of[row] for row in rows]


def test_each_epoch_asks_what_is_true_of_the_texts_that_it_says(hands, monkeypatch):
    step, seen = joint.Joint.training_step, []

    def looks(self, batch, _):
        seen.append((self.current_epoch, self.said[batch.rows].tolist(), batch.texts))
        return step(self, batch, _)

    monkeypatch.setattr(joint.Joint, "training_step", looks)
    own = {"prompts__strategy": "v3", "prompts__traits": [], "fit__epochs": 2}
    own["prompts__hands"] = ["A {aspect} {side} hand", "A hand of a {gender}"]
    one = Fitted(load(hands, **own)).fit()
    coded = joint.prompts.tokens(one.said.texts)
    assert {epoch for epoch, _, _ in seen} == {0, 1}
    assert all(torch.equal(coded[said], texts) for _, said, texts in seen)
    assert (one.said.drawn(0, 0) != one.said.drawn(0, 1)).any(), "epochs say other texts"


# --- words of an epoch --------------------------------------------------------------------------


def test_an_epoch_says_one_of_the_wordings_and_of_a_mirrored_hand_the_other_side(hands):
    p = load(hands, vary__count=3, vary__dropout=0.0)
    one = Fitted(p)
    texts = spoken.of_epochs(one.said, p.vary, 0)
    first, turned = texts(0)
    assert all(torch.equal(a, b) for a, b in zip(texts(0), (first, turned), strict=True))
    assert not torch.equal(first, texts(1)[0]), "another epoch, other wordings"
    right, left = joint.prompts.tokens(["right", "left"])[:, 1].tolist()
    sided = (first == right).any(dim=1) | (first == left).any(dim=1)
    assert sided.all(), "every wording still says the side"
    assert torch.equal((first == right).any(dim=1), (turned == left).any(dim=1))
    rows = list(range(len(one.images)))
    for flip in (0.0, 1.0):
        how = p.fit.augment.model_copy(update={"flip": flip})
        captioned = loaders.Captioned(one.images, first, turned)
        got: Batch = loaders.Augmented(captioned, how, 0, 0)[rows]
        assert torch.equal(got.texts, turned if flip else first)
    both = p.fit.augment.model_copy(update={"flip": 1.0, "flip_vertical": 1.0})
    assert torch.equal(loaders.Augmented(captioned, both, 0, 0)[rows].texts, first), "turned round"


def test_a_network_without_text_is_refused_in_one_line(hands):
    p = load(hands)
    data = splits.prepare(p, "outputs")
    said = pairs.make(data.train, wording.generate(data.train, data.captions, p.prompts))
    model = p.model.model_copy(update={"name": "timm/resnet18", "weights": "none"})
    tower, preprocess = backbones.load(model)
    with pytest.raises(InputError, match="reads no text; joint training needs a CLIP"):
        joint.make(tower, preprocess, data, said, p)


@pytest.mark.parametrize(
    "own, said",
    [
        ({"loss_use_supcon": False}, "no loss reads the prompts"),
        ({"loss_use_i2t": True}, "loss_use_i2t needs one text of each person"),
        ({"prompts__hands": ["Hand of {pid}"]}, "leaks who it is; set prompts.name_people"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(hands, own, said):
    with pytest.raises(InputError, match=said):
        load(hands, **own)


# --- a warm start -------------------------------------------------------------------------------


def test_a_warm_start_takes_the_weights_of_the_run_of_fine_tuning_with_the_same_axes(project):
    plain = params.read("joint", "demo", "demo", "v4", 3, {"data.trials": 2, "fit.epochs": 1})
    assert plain.warm_start == "default"
    warm = plans.warmed(plain, "outputs")
    tuned = params.read("fine_tune", "demo", "demo", "default", 3, {"data.trials": 2})
    folder = runs.folder("03_fine_tune", tuned, "outputs")
    assert files.resolve(warm.model.weights) == folder
    assert runs.folder(NOTEBOOK, warm, "outputs") == runs.folder(NOTEBOOK, plain, "outputs")
    with pytest.raises(InputError, match="03_fine_tune/demo-default-seed3.*run 03_fine_tune"):
        joint.warmed(plain, "outputs")
    own = params.read("joint", "demo", "demo", "v4", 0, {"model.weights": "none"})
    assert joint.warmed(own, "outputs") == own, "what a user says goes first"
    demo = params.read("joint", "demo", "demo", "demo", 0)
    assert joint.warmed(demo, "outputs") == demo


def test_a_plan_trains_what_a_warm_start_begins_with_first(project):
    axes = "dataset: demo, backbone: demo"
    (project / "params/plans/warm.yaml").write_text(
        f"cells:\n  - {{notebook: {NOTEBOOK}, {axes}, recipe: v4}}\n"
        f"  - {{notebook: 03_fine_tune, {axes}, recipe: default}}\n"
    )
    second, first = plans.jobs("warm", "outputs")
    assert second.needs == [first.folder]
    assert files.resolve(second.params.model.weights) == first.folder


def test_the_text_encoders_rate_counts_in_fine_tuning_too(hands):
    encoder, _ = tiny_clip.load(hands.parent)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    fit = load(hands).fit
    for rate, kinds in ((fit.lr_text, {"encoder", "text", "scale"}), (None, {"encoder", "scale"})):
        how = fit.model_copy(update={"lr_text": rate})
        found = optimisers.of_fit(encoder, torch.nn.Identity(), how)
        assert {group["name"] for group in found} == kinds
    table = next(g for g in found if any(e is encoder.token_embedding.weight for e in g["params"]))
    assert table["weight_decay"] == 0 and np.isfinite(table["lr"])
