"""Text to image: batches, mining, own losses and data, resume, and that it learns."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import tiny_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from clipfh_lib import files, params, runs
from clipfh_lib.data import captions, catalogues, demo_hands, pairs, transforms
from clipfh_lib.data.loaders import Batch
from clipfh_lib.evaluation import beside, embeddings, text_image
from clipfh_lib.files import InputError
from clipfh_lib.methods import text_to_image, training
from clipfh_lib.models import backbones, image_text_losses, optimisers, prompts
from clipfh_lib.reports import beside as recipes_beside
from clipfh_lib.schema import DataParams, EmbedParams

SMALL = {"fit.epochs": 3, "fit.batch_size": 8, "model.name": "tiny_search", "device": "cpu"}
SMALL |= {"fit.precision": "32", "fit.lr_text": None}


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    return tiny_clip.config(tmp_path_factory.mktemp("config"), "tiny_search")


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Root and images of twelve drawn people; the first eight train, four are never seen."""
    root = tmp_path_factory.mktemp("search") / "11k"
    demo_hands.write_11k(root, people=12, images=2, size=64, seed=5)
    return root, catalogues.read(DataParams(catalogue="hands_11k", root=str(root))).images


def read(recipe="default", **own):
    keys = {key.replace("__", "."): value for key, value in own.items()}
    return params.read("text_to_image", "demo", "demo_untrained", recipe, 0, SMALL | keys)


def said_of(table):
    """Prompts as captions.py draws them: many people share one, some images have two."""
    texts = [
        captions.BASES[0].format(**captions.words(row["aspect"], row["accessories"]))
        for row in table.to_dict("records")
    ]
    first = pd.DataFrame({"image_id": table["image_id"], "prompt": texts})
    more = table["image_id"].iloc[::5]
    second = pd.DataFrame({"image_id": more, "prompt": [f"Number {n}" for n in range(len(more))]})
    return pd.concat([first, second])


def told_apart(table):
    """A prompt of its own for each image."""
    texts = [f"A hand, number {number}" for number in range(len(table))]
    return pd.DataFrame({"image_id": table["image_id"], "prompt": texts})


class Fit:
    """What a notebook puts together, on the first eight people."""

    def __init__(self, hands, p, said=told_apart, loss=None, people=8):
        root, images = hands
        known = sorted(images["pid"].unique())
        table = images[images["pid"].isin(known[:people])]
        self.p, self.root = p, root
        self.encoder, self.preprocess = backbones.load(p.model, p.seed)
        self.train = pairs.make(table, said(table))
        unseen = images[images["pid"].isin(known[8:])]
        self.val = pairs.make(unseen, said_of(unseen)) if "aspect" in table else None
        self.method, self.data = text_to_image.make(
            self.encoder, self.preprocess, self.train, root, p, loss
        )
        self.before = {n: v.detach().clone() for n, v in self.encoder.named_parameters()}

    def loader(self, epoch=0):
        return text_to_image.loader(self.method, self.data)(epoch)

    def run(self, outputs="outputs", data=None, at=None):
        measure = text_to_image.measure(self.method, self.val, self.root)
        if at is not None:
            step, count = self.method.training_step, iter(range(99999))
            self.method.training_step = lambda *a: at(next(count)) or step(*a)
        p, run = self.p, runs.start("08_text_to_image", self.p, outputs)
        check = training.Check(measure, p.fit.best_by, p.fit.eval_every, p.fit.patience)
        make = text_to_image.loader(self.method, data or self.data)
        more = {"prompts": self.train.sha256, "own_loss": self.method.loss_sha256}
        what = runs.fit_content(p, "s", text_to_image, **more)
        names = list(self.train.table["image_id"])
        try:
            history = training.fit(self.method, make, run, what, p.fit, "cpu", check, names)
        finally:
            run._close_log()
            run._lock.release(force=True)
        return run, history

    def moved(self):
        now = dict(self.encoder.named_parameters())
        return {n for n, v in self.before.items() if not torch.equal(v, now[n])}

    def recall(self, said):
        table = pd.concat([said.table], ignore_index=True)
        found = embeddings.extract(
            self.encoder, self.preprocess, table, self.root, EmbedParams(), where="cpu"
        )
        texts = text_image.texts_of(self.encoder, said.texts)
        return text_image.validate(found.array, texts, said)


@pytest.fixture
def state():
    """Weights of the best epoch, as bytes."""

    def of(run):
        tensors = load_file(run.folder / "checkpoints" / "best.safetensors")
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

    return of


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset_type, anchors", [("standard", 8), ("hard_negative", 2), ("triplet", 4)]
)
def test_a_batch_is_anchors_each_with_its_negatives_and_all_are_pairs(hands, dataset_type, anchors):
    fit = Fit(hands, read(dataset_type=dataset_type, vary__count=0), said_of)
    groups, plain = fit.train.groups, fit.data(4)
    batches = list(fit.loader(4))
    assert len(batches) == len(groups) // 8
    for batch in batches:
        rows = batch.rows.tolist()
        assert len(set(rows)) == len(rows) == len(batch.pixels) == 8
        each = 8 // anchors
        for first in range(0, 8, each):
            own = rows[first : first + each]
            if dataset_type != "standard":
                assert (groups[own[1:]] != groups[own[0]]).all()
        flipped = (batch.texts != plain.texts[rows]).any(dim=1)
        assert torch.equal(batch.texts[~flipped], plain.texts[rows][~flipped])
        assert torch.equal(batch.texts[flipped], plain.turned[rows][flipped])


def test_the_negatives_of_an_anchor_are_what_its_own_text_finds_first(hands):
    """Worked out from the encoder's own calls, for weights and a text of the epoch."""
    fit = Fit(hands, read(), said_of)
    groups, data = fit.train.groups, fit.data(2)
    with torch.no_grad():
        fit.encoder.eval()
        how, every = fit.preprocess, data[range(len(groups))]
        pixels = transforms.normalise(every.pixels, how.mean, how.std)
        images = normalize(fit.encoder.encode_image(pixels))
        texts = normalize(fit.encoder.encode_text(every.texts))
        scores = (texts @ images.T).numpy()
    scores[groups[:, None] == groups[None]] = -9
    found = text_to_image.mined(fit.method, data, 2, np.arange(len(groups)), 3)
    best = np.sort(scores, axis=1)[:, :-4:-1]
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1), best, atol=1e-5)
    assert len(np.unique(found)) > 3


def test_mining_leaves_modes_random_state_and_weights_as_they_are(hands):
    fit = Fit(hands, read(freeze_image_encoder=True))
    fit.method.train()
    fit.encoder.visual.eval()
    modes = [module.training for module in fit.method.modules()]
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    text_to_image.mined(fit.method, fit.data(0), 0, np.arange(5), 2)
    assert [module.training for module in fit.method.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and not fit.moved()
    assert all(value.grad is None for value in fit.encoder.parameters())


def test_random_negatives_are_another_draw_each_epoch_and_never_ask_the_model(hands):
    fit = Fit(hands, read(negatives__mine="random"))
    fit.method.encoder = None
    first, again, other = (
        text_to_image.mined(fit.method, None, epoch, np.arange(6), 3) for epoch in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_negatives_follow_the_weights_from_epoch_to_epoch(hands):
    """The same text finds other images when the model has changed."""
    fit = Fit(hands, read(vary__count=0))
    rows = np.arange(20)
    first = text_to_image.mined(fit.method, fit.data(0), 0, rows, 3)
    assert (text_to_image.mined(fit.method, fit.data(0), 1, rows, 3) == first).all()
    with torch.no_grad():
        for value in fit.encoder.visual.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    assert (text_to_image.mined(fit.method, fit.data(0), 1, rows, 3) != first).any()


# --- the step -------------------------------------------------------------------------------------


def test_a_step_is_the_loss_of_images_and_texts_with_the_groups_as_ids(hands):
    fit = Fit(hands, read(dataset_type="standard"), said_of)
    batch, logged = next(iter(fit.loader())), {}
    fit.method.log = lambda name, value, **_: logged.__setitem__(name, value.item())
    loss = fit.method.training_step(batch, 0)
    how, ids = fit.preprocess, fit.train.groups[batch.rows]
    images = fit.encoder.encode_image(transforms.normalise(batch.pixels, how.mean, how.std))
    texts = fit.encoder.encode_text(batch.texts)
    expected = image_text_losses.contrastive(images, texts, torch.tensor(ids), 0.07, 0.5, 3)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    nearest = (normalize(images) @ normalize(texts).T).argmax(dim=1).numpy()
    assert logged["train/loss"] == loss and loss > 0.1
    assert logged["train/accuracy"] == pytest.approx((ids[nearest] == ids).mean())
    assert len(set(ids)) < len(ids), "people share a text"


# --- what is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frozen, still, moves",
    [
        ("image", ["visual.conv1.weight", "visual.proj"], ["ln_final.weight", "text_projection"]),
        ("text", ["ln_final.weight", "text_projection"], ["visual.conv1.weight", "visual.proj"]),
        ("projections", ["visual.proj", "text_projection"], ["visual.conv1.weight"]),
        ("", ["logit_scale"], ["visual.conv1.weight", "visual.proj", "text_projection"]),
    ],
)
def test_what_a_recipe_freezes_stays_and_the_rest_moves(hands, frozen, still, moves):
    own = {f"freeze_{frozen}{'' if frozen == 'projections' else '_encoder'}": True}
    fit = Fit(hands, read(fit__epochs=1, fit__lr=1e-3, **(own if frozen else {})))
    fit.run()
    assert not fit.moved() & set(still) and set(moves) <= fit.moved()


def test_the_text_encoder_may_have_a_rate_of_its_own(hands):
    fit = Fit(hands, read(fit__lr=1e-3, fit__lr_text=2e-4, fit__epochs=1, fit__warmup=0))
    groups = fit.method.configure_optimizers()["optimizer"].param_groups
    rates = {(one["name"], one["initial_lr"]) for one in groups}
    assert rates == {("encoder", 1e-3), ("text", 2e-4)}
    text = {id(v) for one in groups if one["name"] == "text" for v in one["params"]}
    named = {n for n, v in fit.encoder.named_parameters() if id(v) in text}
    assert {"text_projection", "token_embedding.weight", "ln_final.bias"} <= named
    assert not any(name.startswith("visual") for name in named)
    _, history = fit.run()
    assert history[["lr", "lr/text"]].iloc[0].tolist() == pytest.approx([1e-3, 2e-4])
    both = Fit(hands, read()).method.configure_optimizers()["optimizer"].param_groups
    assert {one["name"] for one in both} == {"encoder"}
    decayed = {id(v) for one in both if one["weight_decay"] for v in one["params"]}
    assert id(fit.encoder.token_embedding.weight) not in decayed and decayed


def test_nothing_to_train_is_told():
    encoder = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError, match="nothing is left to train"):
        optimisers.of_towers(encoder, 1e-3, None, 0.1)


# --- one's own loss and data ----------------------------------------------------------------------


class Noise(Dataset):
    """Not a photograph and no table: pixels and words made up by row."""

    def __init__(self, count):
        self.count, self.asked = count, []
        self.words = prompts.tokens([f"thing number {row}" for row in range(count)])

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        self.asked.append(rows)
        draw = [np.random.default_rng(row).integers(0, 256, (48, 48, 3)) for row in rows]
        pixels = torch.from_numpy(np.stack(draw).astype(np.uint8))
        rows = torch.tensor(rows)
        return Batch(pixels, torch.full_like(rows, -1), rows, self.words[rows])


def test_ones_own_loss_and_ones_own_data_go_through_the_one_fit(hands):
    seen = []

    def apart(images, texts, ids):
        seen.append((tuple(images.shape), tuple(texts.shape), ids.tolist()))
        return (normalize(images) - normalize(texts)).square().sum(dim=1).mean()

    p = read(fit__lr=1e-3, fit__epochs=2, fit__best_by="loss")
    fit = Fit(hands, p, loss=apart)
    noise = Noise(len(fit.train.groups))
    run, history = fit.run(data=lambda epoch: noise)
    assert {images for images, _, _ in seen} == {texts for _, texts, _ in seen} == {(8, 32)}
    assert set(seen[0][2]) <= set(fit.train.groups) and len(set(seen[0][2])) == 8
    assert history["train/loss"].iloc[1] < history["train/loss"].iloc[0] < 4
    assert history["val/loss"].notna().all() and fit.moved()
    assert all(isinstance(rows, list) for rows in noise.asked)
    assert (run.folder / "checkpoints" / "best.safetensors").is_file()


def apart(images, texts, ids):
    return (normalize(images) - normalize(texts)).square().sum(dim=1).mean()


def test_weights_of_the_recipes_loss_are_not_those_of_ones_own_nor_the_other_way(hands, state):
    p = read(fit__lr=1e-3, fit__epochs=1, fit__best_by="last", dataset_type="standard")
    run, first = Fit(hands, p).run()
    weights = state(run)
    again, _ = Fit(hands, p).run()
    assert state(again) == weights
    run, history = Fit(hands, p, loss=apart).run()
    assert history["train/loss"][0] != first["train/loss"][0] and state(run) != weights
    run, history = Fit(hands, p).run()
    assert history["train/loss"][0] == first["train/loss"][0] and state(run) == weights


def test_the_key_of_ones_own_loss_is_its_source_and_the_numbers_that_it_reads(hands):
    def of(loss):
        return Fit(hands, read(), loss=loss).method.loss_sha256

    def scaled(factor):
        return lambda images, texts, ids: factor * apart(images, texts, ids)

    keys = [of(scaled(2)), of(scaled(3)), of(apart), of(partial(apart, ids=None))]
    assert of(None) == "" and len({*keys, ""}) == 5 and of(scaled(2)) == keys[0]
    with pytest.raises(InputError, match="loss: its source cannot be read"):
        of(torch.nn.Identity())


@pytest.mark.parametrize("own", [True, False])
def test_captions_of_ones_own_data_are_mirrored_if_it_says_how(hands, own):
    fit = Fit(hands, read(fit__augment__flip=0.5, dataset_type="standard"))
    noise = Noise(len(fit.train.groups))
    if own:
        noise.turned = prompts.tokens([f"thing mirrored {row}" for row in range(noise.count)])
    batches = list(text_to_image.loader(fit.method, lambda epoch: noise)(0))
    rows, texts = (torch.cat([getattr(b, name) for b in batches]) for name in ("rows", "texts"))
    plain = (texts == noise.words[rows]).all(dim=1)
    assert plain.all() == (not own)
    if own:
        assert torch.equal(texts[~plain], noise.turned[rows][~plain]) and plain.any()


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", ["semantic", "random"])
def test_a_fit_that_is_killed_reads_on_what_an_unbroken_one_reads(hands, state, mine):
    p = read(fit__lr=1e-3, fit__epochs=4, negatives__mine=mine, vary__count=2, fit__best_by="last")

    def recorded(fit, rows):
        step = fit.method.training_step
        fit.method.training_step = lambda *a: rows.append(a[0].rows.tolist()) or step(*a)

    whole, expected = Fit(hands, p), []
    recorded(whole, expected)
    run, history = whole.run("whole")
    steps = len(expected) // 4

    def stop(number):
        if number == 2 * steps + 1:
            raise KeyboardInterrupt

    broken = Fit(hands, p)
    with pytest.raises(KeyboardInterrupt):
        broken.run("broken", at=stop)
    resumed, rows = Fit(hands, p), []
    recorded(resumed, rows)
    again, after = resumed.run("broken")
    assert again.facts["resumed_at"] == [2]
    assert rows == expected[2 * steps :], "the same negatives, mined by the same weights"
    assert state(again) == state(run)
    pd.testing.assert_frame_equal(after, history)
    assert expected[:steps] != expected[steps : 2 * steps]


def test_what_decides_the_weights_stands_in_their_key(hands):
    def key(p, **more):
        return files.digest(runs.fit_content(p, "s", text_to_image, **more))

    first = key(read(), prompts="a")
    assert key(read(), prompts="b") != first != key(read(negatives__count=2), prompts="a")
    assert key(read(embed__batch=5), prompts="a") == first
    assert key(read(prompts__described=["{caption}!"]), prompts="a") == first, "their texts decide"
    assert key(read(vary__count=1), prompts="a") != first


# --- validation -----------------------------------------------------------------------------------


def test_validation_is_what_the_test_will_be_and_the_loss_of_shuffled_pairs(hands):
    fit = Fit(hands, read(), said_of)
    fit.method.eval()
    found = text_to_image.measure(fit.method, fit.val, fit.root)()
    assert found == text_to_image.measure(fit.method, fit.val, fit.root)()
    expected = fit.recall(fit.val)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert 0.1 < found["loss"] < 10 and set(found) == {*expected, "loss"}


def test_without_validation_images_the_last_epoch_is_kept_or_the_fix_is_told(hands):
    fit = Fit(hands, read(fit__epochs=1, fit__best_by="last"))
    table = fit.val.table
    silent = pd.DataFrame({"image_id": ["of another"], "prompt": ["A hand"]})
    said = told_apart(table)
    for images, words in ((table.head(0), said), (table, silent)):
        fit.val = text_to_image.validation_pairs(images, words, "last")
        assert text_to_image.measure(fit.method, fit.val, fit.root)() == {}
        assert len(files.digest([fit.val.sha256])) == 64
    _, history = fit.run()
    assert not [name for name in history if name.startswith("val/")]
    with pytest.raises(InputError, match="data.val: the split keeps nobody.*take fit.best_by last"):
        text_to_image.validation_pairs(table.head(0), said, "mAP")
    with pytest.raises(InputError, match="data.val: no prompt is of its images"):
        text_to_image.validation_pairs(table, silent, "loss")
    found = text_to_image.validation_pairs(table, said, "last")
    assert found.sha256 == pairs.make(table, said).sha256


def test_the_epoch_with_the_best_recall_at_1_is_kept_if_that_is_asked_for(hands):
    fit = Fit(hands, read(fit__epochs=3, fit__lr=1e-3, fit__best_by="recall@1"))
    values = iter([0.2, 0.5, 0.1])
    step = fit.encoder.state_dict
    seen = []
    plain = text_to_image.measure(fit.method, fit.val, fit.root)

    def told():
        seen.append({name: value.clone() for name, value in step().items()})
        return plain() | {"recall@1": next(values)}

    check = training.Check(told, "recall@1", 1, 5)
    p, run = fit.p, runs.start("08_text_to_image", fit.p, "outputs")
    what = runs.fit_content(p, "s", text_to_image)
    training.fit(fit.method, fit.loader, run, what, p.fit, "cpu", check)
    run.finish()
    kept = fit.encoder.state_dict()
    assert run.facts["best_epoch"] == 1
    assert all(torch.equal(kept[name], value) for name, value in seen[1].items())
    assert not all(torch.equal(kept[name], value) for name, value in seen[2].items())


# --- who trains -----------------------------------------------------------------------------------


def test_people_with_few_images_that_have_a_prompt_do_not_train(hands):
    table = hands[1]
    first, second = sorted(table["pid"].unique())[:2]
    said = told_apart(table)
    own = said["image_id"].isin(table.loc[table["pid"] == first, "image_id"])
    said = said[~own | (own.cumsum() == 1)]  # all but one of the first lost theirs in cleaning
    p = read(prompts__least_images=2)
    kept, alone = text_to_image.training_pairs(table, said, p.prompts.least_images)
    assert alone.to_dict("list") == {"pid": [first], "images": [1]}
    assert second in set(kept.table["pid"]) and first not in set(kept.table["pid"])
    every, none = text_to_image.training_pairs(table, said, read().prompts.least_images)
    assert first in set(every.table["pid"]) and none.empty
    with pytest.raises(InputError, match=r"least_images 99: nobody has .* the most are \d+;"):
        text_to_image.training_pairs(table, said, 99)
    with pytest.raises(InputError, match=r"none of the \d+ training images has one"):
        text_to_image.training_pairs(table, said.head(0), 1)


def test_a_single_image_of_its_own_trains_also_where_other_prompts_are_asked_for():
    assert read(prompts__strategy="v4").prompts.least_images == 1
    assert read().prompts.least_images == 1


def test_a_group_of_most_images_is_told(hands):
    table = hands[1].head(20)
    apart = told_apart(table)
    line = text_to_image.grouped(pairs.make(table, apart))
    assert line.endswith("20 groups of images that share a text, the largest of 1")
    apart.iloc[:11, 1] = "A hand"
    line = text_to_image.grouped(pairs.make(table, apart))
    assert "10 groups" in line and "the largest of 11, more than half: few negatives" in line
    apart.iloc[10, 1] = "Another hand"
    assert "few negatives" not in text_to_image.grouped(pairs.make(table, apart))


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_told_before_the_fit(hands):
    def one(table):
        return told_apart(table).assign(prompt="A hand")

    with pytest.raises(InputError, match="the same text is true of all training images"):
        Fit(hands, read(), one)
    with pytest.raises(InputError, match=r"fit.batch_size is 4000, there are \d+ training images"):
        Fit(hands, read(fit__batch_size=4000))
    p = read(model__name="timm/test_vit")
    with pytest.raises(InputError, match="timm/test_vit reads no text; searching needs a CLIP"):
        Fit(hands, p)


@pytest.mark.parametrize(
    "own, message",
    [
        ({"freeze_image_encoder": True, "freeze_text_encoder": True}, "nothing is left to train"),
        ({"negatives__count": 8}, "fit.batch_size 8 holds no anchor with negatives.count 8"),
        ({"fit__schedule": "plateau", "fit__best_by": "last"}, "plateau needs a measure"),
        ({"fit__schedule": "plateau"}, "fit.schedule plateau takes no fit.warmup"),
        ({"fit__schedule": "plateau", "fit__warmup": 0}, "make step smaller"),
        ({"fit__schedule": "multistep"}, "multistep needs fit.milestones"),
        ({"data__val": "published"}, "those people are trained on"),
        ({"evaluation__rerank": {"k1": 5}}, "evaluation.rerank compares images with images"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(own, message):
    with pytest.raises(InputError, match=message):
        read(**own)


# --- it learns ------------------------------------------------------------------------------------


COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 220),
           "yellow": (230, 210, 40), "black": (20, 20, 20), "pink": (240, 150, 200)}  # fmt: skip


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Root and images of six squares of each colour on each side, four of which train."""
    root, rows = tmp_path_factory.mktemp("squares"), []
    draw = np.random.default_rng(0)
    for number in range(6):
        for name, colour in COLOURS.items():
            for side in ("left", "right"):
                pixels = draw.integers(150, 250, (48, 48, 3)).astype(np.uint8)
                x, y = draw.integers(2, 8) + (22 if side == "right" else 0), draw.integers(2, 28)
                pixels[y : y + 16, x : x + 16] = colour
                path = f"{name}_{side}_{number}.png"
                Image.fromarray(pixels).save(root / path)
                rows.append((path, path, number, f"A {name} square on the {side}"))
    return root, pd.DataFrame(rows, columns=["image_id", "path", "pid", "prompt"])


@pytest.mark.parametrize(
    "own, learns",
    [
        ({}, True),
        ({"loss": "triplet", "triplets": "semi_hard", "dataset_type": "triplet"}, True),
        ({"loss": "info_nce", "dataset_type": "standard"}, True),
        ({"fit__lr": 1e-9}, False),  # the control must not learn
    ],
)
def test_a_sentence_finds_pictures_that_nobody_trained_on(squares, own, learns):
    quick = {"fit__lr": 2e-3, "fit__epochs": 20, "fit__batch_size": 16, "fit__best_by": "last"}
    quick |= {"fit__augment__saturation": 0, "vary__count": 0, "negatives__count": 1}
    root, images = squares
    first = images["pid"] < 4
    p = read(**quick | own)
    fit = Fit((root, images), p, lambda table: table[["image_id", "prompt"]], people=4)
    fit.val = pairs.make(images[~first], images)
    before = fit.recall(fit.val)["mAP"]
    fit.run()
    gained = fit.recall(fit.val)["mAP"] - before  # 0.36 to 0.55 over three seeds
    assert (gained > 0.2) == learns


# --- what is shown --------------------------------------------------------------------------------


def test_a_sheet_of_negatives_shows_the_own_image_first_and_then_what_is_mined(hands):
    fit = Fit(hands, read(vary__count=3), said_of)
    shown = text_to_image.examples(fit.method, fit.data, fit.train, anchors=3, others=4)
    groups = pd.Series(fit.train.groups, fit.train.table["path"])
    assert shown["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    assert shown["right"].tolist() == [True, False, False, False, False] * 3
    for start in (0, 5, 10):
        part = shown.iloc[start : start + 5]
        own = groups[part["path"].iloc[0]]
        assert (groups[part["path"].iloc[1:]] != own).all() and part["sentence"].nunique() == 1
        assert part["similarity"].iloc[1:].is_monotonic_decreasing
    texts = text_image.texts_of(fit.encoder, shown["sentence"].tolist())
    table = fit.train.table.set_index("path").loc[shown["path"]].reset_index()
    images = embeddings.extract(
        fit.encoder, fit.preprocess, table, fit.root, EmbedParams(), where="cpu"
    ).array
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    assert shown["similarity"].to_numpy() == pytest.approx((images * texts).sum(axis=1), abs=1e-5)


@pytest.mark.parametrize("mine", ["semantic", "random"])
def test_a_sheet_of_negatives_looks_through_a_spread_of_images_alone(hands, monkeypatch, mine):
    monkeypatch.setattr(text_to_image, "LOOKED", 10)
    fit = Fit(hands, read(negatives__mine=mine))
    shown = text_to_image.examples(fit.method, fit.data, fit.train, anchors=4, others=9)
    spread = np.linspace(0, len(fit.train.table) - 1, 10).round().astype(int)
    allowed = set(fit.train.table["path"].iloc[spread])
    assert set(shown["path"]) == allowed and len(shown) == 40
    first = shown[shown["rank"] == 1]
    own = dict(zip(fit.train.table["path"], told_apart(fit.train.table)["prompt"], strict=True))
    assert first["sentence"].tolist() == [own[path] for path in first["path"]]


def ended(p, ranks, split="s"):
    """A finished run of p that keeps these ranks; its folder."""
    run = runs.start("08_text_to_image", p, "outputs")
    run.save_table("ranks", ranks)
    run.record(split_sha256=split)
    run.finish()
    return run.folder


@pytest.fixture(scope="module")
def ranked(hands):
    """Noise -> ranks before (much noise) and after training, 24 images with a text each."""
    draw = np.random.default_rng(0)
    table = hands[1].iloc[:24]
    said = pairs.make(table, told_apart(table))

    def of(noise, weights):
        texts = draw.standard_normal((24, 8))
        images = texts[said.ids] + noise * draw.standard_normal((24, 8))
        return text_image.evaluate(images, texts, said, weights, resamples=50).ranks

    return lambda noise: pd.concat([of(noise, "trained"), of(2, "untrained")], ignore_index=True)


def of_text(table, kind):
    """mAP, text to image, by recipe."""
    rows = table[(table["compared"] == kind) & (table["direction"] == "text_image")]
    return rows[rows["metric"] == "mAP"].set_index("recipe")


def test_a_run_stands_beside_those_of_other_recipes_and_names_the_missing_ones(ranked):
    mine, good, bad = ranked(0.8), ranked(0.01), ranked(9)
    p = read()
    none = beside.compare(p, mine, "s", "outputs")
    assert none.groupby("recipe").size().to_dict() == dict.fromkeys(beside.RECIPES, 1) | {
        "default": 8}  # fmt: skip
    said = recipes_beside.printed(none).set_index("recipe")["points"]
    assert said["default"] == "gained over its start"
    assert said[list(beside.RECIPES)].str.startswith("not run yet; run this").all()
    for recipe, found in (("info_nce", good), ("random_negatives", bad)):
        ended(read(recipe), found)
    table = beside.compare(p, mine, "s", "outputs")
    assert table.groupby("recipe").size().to_dict() == {
        "default": 8, "contrastive": 1, "triplet": 1, "info_nce": 16, "random_negatives": 16
    }  # fmt: skip
    lead, gain = of_text(table, "lead"), of_text(table, "gain")
    assert lead.loc["info_nce", "high"] < 0 < lead.loc["random_negatives", "low"]
    assert lead.loc["random_negatives", "negatives"] == "random, 3"
    assert lead.loc["info_nce", "negatives"] == "none"
    mAP = {}
    for recipe, ranks in {"default": mine, "info_nce": good, "random_negatives": bad}.items():
        found = text_image.summarise(ranks, 50).metrics
        found = found[(found["direction"] == "text_image") & (found["metric"] == "mAP")]
        mAP[recipe] = found.set_index("weights")["value"]
    for recipe, own in mAP.items():
        assert gain.loc[recipe, "difference"] == pytest.approx(own["trained"] - own["untrained"])
        if recipe != "default":
            ahead = mAP["default"]["trained"] - own["trained"]
            assert lead.loc[recipe, "difference"] == pytest.approx(ahead)
    assert gain.loc["info_nce", "low"] > 0
    shown = recipes_beside.printed(table, "demo")
    assert shown["points"].tolist() == [
        "gained over its start",
        *[
            f"not run yet; run this notebook with recipe = '{r}'"
            for r in ("contrastive", "triplet")
        ],
        *["gained over its start", "this run ahead by"] * 2,
    ]
    assert shown["mAP"].str.contains("[", regex=False).sum() == 5


@pytest.mark.parametrize(
    "own, other, why",
    [
        ({"fit__batch_size": 3, "negatives__count": 1}, "contrastive", ""),
        ({"fit__batch_size": 3}, "contrastive", "fit.batch_size 3 holds no anchor"),
        ({"negatives__count": 40}, "contrastive", "fit.batch_size 8 holds no anchor"),
    ],
)
def test_a_recipe_that_refuses_the_overrides_is_a_line_and_no_error(ranked, own, other, why):
    recipe = "triplet" if why.startswith("fit.batch_size 3") else "info_nce"
    table = beside.compare(read(recipe, **own), ranked(1), "s", "outputs")
    said = table.set_index("recipe")["why"]
    assert said[other].startswith(why or "not run yet") and (said[recipe] == "").all()
    assert recipes_beside.printed(table)["points"].str.contains(why or "not run yet").any()


def test_a_run_that_cannot_be_compared_is_a_line_that_says_why(ranked):
    p, mine = read(), ranked(1)
    ended(read("contrastive"), mine, split="another")
    fewer = mine[mine["query"] != mine["query"].iloc[0]]
    ended(read("triplet"), fewer)
    damaged = ended(read("info_nce"), mine)
    (damaged / "ranks.csv").write_text("weights,direction\n")
    torn = ended(read("random_negatives"), mine)
    (torn / "manifest.json").write_text("{")
    said = beside.compare(p, mine, "s", "outputs").set_index("recipe")["why"]
    assert said["contrastive"] == "of another split of the data; run it again"
    assert "do not search by the same texts and images" in said["triplet"]
    assert "ranks.csv is not what its manifest says; run it again" in said["info_nce"]
    assert "manifest.json is damaged" in said["random_negatives"]
    assert (said["default"] == "").all() and len(said["default"]) == 8


def test_an_image_id_of_digits_is_compared_as_it_is_written(ranked):
    mine = ranked(1)
    number = {name: f"{place:04d}" for place, name in enumerate(mine["query"].unique())}
    mine = mine.assign(query=mine["query"].map(number))
    ended(read("info_nce"), mine)
    lead = of_text(beside.compare(read(), mine, "s", "outputs"), "lead")
    assert lead.loc["info_nce", "difference"] == 0
