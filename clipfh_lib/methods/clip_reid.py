"""CLIP-ReID: prompts are learned for frozen encoders, then the image encoder for frozen prompts."""

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipfh_lib import files, params, runs
from clipfh_lib.data import loaders
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.splits import Prepared
from clipfh_lib.data.transforms import normalise
from clipfh_lib.evaluation import embeddings
from clipfh_lib.evaluation.embeddings import Embeddings
from clipfh_lib.files import InputError
from clipfh_lib.learning import ClipReidEncoderParams, ClipReidPromptsParams
from clipfh_lib.methods import training
from clipfh_lib.models import backbones, checkpoints, losses, objective, optimisers, prompts, towers
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import EmbedParams

FIRST = "04_clip_reid_prompts"
FILE = "checkpoints/prompts.safetensors"

# --- first stage: prompts -----------------------------------------------------------------------


class Rows(NamedTuple):
    """A batch of the first stage: (B,) rows of the image features."""

    rows: Tensor


class PromptStage(L.LightningModule):
    """Learnable tokens of each person under CLIP-ReID's two losses; both encoders are frozen.

    Li et al., CLIP-ReID, AAAI 2023, first stage, L_i2t + L_t2i (arXiv:2211.13977). Images come as
    features that were computed once; each person's text is encoded once for a batch.

    Args:
        encoder: of `backbones.load`; it gets no gradient, and stands in no checkpoint.
        p: the recipe.
        images: (N, D) features of the training images, any norm.
        targets: (N,) index of the person on each.
        aspects: (P,) of each person, see `people`.

    Raises:
        InputError: see `prompts.PersonPrompts`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        p: ClipReidPromptsParams,
        images: np.ndarray,
        targets: np.ndarray,
        aspects: Sequence[str],
    ):
        super().__init__()
        self.encoder = (encoder.requires_grad_(False).eval(),)  # a tuple: not a part of the module
        self.p, self.steps = p, -(-len(images) // p.fit.batch_size)
        self.prompts = prompts.PersonPrompts(encoder, p.prompts, aspects, p.seed)
        self.register_buffer("images", torch.from_numpy(images), persistent=False)
        self.register_buffer("targets", torch.tensor(targets), persistent=False)

    @property
    def kept(self) -> nn.Module:
        """Whose tensors are kept."""
        return self.prompts

    def forward(self, people: Tensor) -> Tensor:
        """(K,) people -> (K, D) their text features."""
        return self.prompts(self.encoder[0], people)

    def on_fit_start(self) -> None:
        """The encoder comes along to the device."""
        self.encoder[0].to(self.device)

    def on_fit_end(self) -> None:
        """And back."""
        self.encoder[0].cpu()

    def training_step(self, batch: Rows, _: int) -> Tensor:
        """Loss of one batch; logs both terms and how often the nearest text is the own person's."""
        images, targets = self.images[batch.rows], self.targets[batch.rows]
        people, place = targets.unique(return_inverse=True)
        texts = self(people)
        units = F.normalize(images, dim=1), F.normalize(texts.float(), dim=1)
        if self.p.loss_text_normalise:
            images, texts = units
        pairs = images, texts[place], targets, self.p.loss_text_temperature
        terms = {"i2t": losses.image_to_text(*pairs), "t2i": losses.text_to_image(*pairs)}
        loss = terms["i2t"] + terms["t2i"]
        right = (units[0] @ units[1].T).argmax(dim=1) == place
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def configure_optimizers(self) -> dict:
        """One group, the tokens; optimiser and schedule of the recipe."""
        fit = self.p.fit
        group = {"name": "prompts", "lr": fit.lr, "weight_decay": fit.weight_decay}
        optimizer = optimisers.make([{**group, "params": [self.prompts.tokens]}], fit)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


def image_features(
    encoder: nn.Module, preprocess: Preprocess, data: Prepared, p: ClipReidPromptsParams
) -> Embeddings:
    """Features of the training images, (N, D) float32, as the frozen encoder gives them."""
    where = data.root, EmbedParams(), p.data.resize, p.loader.workers, p.device
    return embeddings.extract(encoder, preprocess, data.train, *where)


def batches(count: int, p: ClipReidPromptsParams) -> Callable[[int], DataLoader]:
    """Epoch -> loader of shuffled rows, each once; the last batch may be smaller."""

    def make(epoch: int) -> DataLoader:
        order = np.random.default_rng([p.seed, epoch]).permutation(count)
        parts = torch.from_numpy(order).split(p.fit.batch_size)
        return DataLoader([Rows(part) for part in parts], batch_size=None)

    return make


def people(table: pd.DataFrame) -> list[tuple[int, str]]:
    """Pid and aspect of each class of `loaders.classes`, in its order."""
    first = table.assign(target=loaders.classes(table)).drop_duplicates("target")
    first = first.sort_values("target")
    return list(zip(first["pid"].tolist(), first["aspect"].tolist(), strict=True))


def make_prompts(encoder: nn.Module, images: Embeddings, p: ClipReidPromptsParams) -> PromptStage:
    """The first stage for the images of a split.

    Raises:
        InputError: fewer than two people, and what `prompts.PersonPrompts` raises.
    """
    whose = people(images.table)
    if len(whose) < 2:
        raise InputError(f"{FIRST}: prompts tell people apart, and there are {len(whose)} to train")
    targets = loaders.classes(images.table)
    return PromptStage(encoder, p, images.array, targets, [aspect for _, aspect in whose])


def keep(
    method: PromptStage, images: Embeddings, data: Prepared, run: runs.Run, what: dict[str, object]
) -> prompts.Learned:
    """Write the learned prompts into a run's folder; its manifest will have their hash.

    Args:
        what: runs.fit_content of the fit.
    """
    encoder = method.encoder[0]
    about = {"key": files.digest(what), "split_sha256": data.sha256}
    about["weights_sha256"] = backbones.sha256(encoder)
    tokens, features = method.prompts.tokens.detach(), method.prompts.features(encoder)
    found = prompts.Learned(tokens, features, people(images.table), method.p.prompts, about)
    found = prompts.save(found, run.folder / FILE)
    run.record(prompts_sha256=found.sha256)
    return found


# --- second stage: the image encoder ------------------------------------------------------------


class EncoderStage(L.LightningModule):
    """An image encoder under the losses of a recipe, among them those against people's texts.

    Li et al., CLIP-ReID, AAAI 2023, second stage (arXiv:2211.13977): the text features of all
    training people are computed once. With `learn_prompts` their tokens train on, and the texts are
    encoded anew at each step. At test time no text is read.

    Args:
        encoder: of `backbones.load`; its image tower is trained in place.
        preprocess: mean and std of its pixels.
        p: the recipe.
        targets: (N,) index of the person on each training image, by row of the table.
        steps: batches of an epoch.
        learned: prompts of these people, in this order.

    Raises:
        InputError: more blocks to free than there are, a level that the backbone has not, nobody to
            exchange prompts with.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: ClipReidEncoderParams,
        targets: np.ndarray,
        steps: int,
        learned: prompts.Learned,
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            widths = towers.widths(encoder)
            self.objective = objective.Objective(p, widths, len(learned.people))
        whose = torch.arange(len(learned.people))
        if p.prompts.shuffle:
            whose = torch.from_numpy(shuffled(learned.people, p.seed))
        self.prompts = learned.module(encoder) if p.learn_prompts else None
        self.register_buffer("whose", whose, persistent=False)
        self.register_buffer("texts", learned.features[whose], persistent=False)
        self.register_buffer("targets", torch.tensor(targets), persistent=False)
        self.free(0)

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept."""
        return self.encoder

    @property
    def heads(self) -> nn.Module:
        """What is trained beside the encoder, and kept with it."""
        if self.prompts is None:
            return self.objective
        return nn.ModuleDict({"objective": self.objective, "prompts": self.prompts})

    def free(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch."""
        towers.free(self.encoder, self.p.fit, epoch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F), what is compared at test time."""
        return self.objective.feature(towers.levels(self.encoder, images))

    def embedder(self) -> nn.Module:
        """Has `encode_image`: what is compared at test time."""
        return objective.embedder(self.encoder, self.objective)

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), one for each training person."""
        levels = towers.levels(self.encoder, images)
        return self.objective.logits(levels, self._texts(torch.arange(len(self.whose))))

    def on_fit_start(self) -> None:
        """Convolutions run faster in another order of memory."""
        towers.lay_out(self.encoder, training=True)

    def on_fit_end(self) -> None:
        """Back to the usual order, which embeddings are made in."""
        towers.lay_out(self.encoder, training=False)

    def on_train_epoch_start(self) -> None:
        """Free the blocks of this epoch; hold the statistics of frozen batch norms."""
        self.free(self.current_epoch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch; logs every term and the share of images that are named right."""
        how = self.preprocess
        images = normalise(batch.pixels, how.mean, how.std, self.device)
        levels = towers.levels(self.encoder, images)
        targets = self.targets[batch.rows.to(self.device)]
        if self.p.loss_use_i2t:
            texts, place = self._texts(torch.arange(len(self.whose))), targets
        else:  # those of the people in the batch are enough
            here, place = targets.unique(return_inverse=True)
            texts = self._texts(here)
        terms = self.objective(levels, targets, texts, place)
        loss = self.objective.total(terms)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        with torch.no_grad():
            named = self.objective.logits(levels, texts if self.p.loss_use_i2t else None)
            if named is not None:
                right = named.argmax(dim=1) == targets
                self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def _texts(self, people: Tensor) -> Tensor:
        """(K,) people -> (K, D), the text features that are theirs in this fit."""
        if self.prompts is None:
            return self.texts[people]
        return self.prompts(self.encoder, self.whose[people])

    def configure_optimizers(self) -> dict:
        """Groups, optimiser and schedule of the recipe; prompts that train on have their own."""
        fit = self.p.fit
        self.free(fit.epochs)  # what is freed at some time stands in its group from the start
        named = optimisers.of_fit(self.encoder, self.objective, fit)
        self.free(self.current_epoch)
        if self.prompts is not None:
            group = {"name": "prompts", "lr": self.p.prompts.lr, "weight_decay": fit.weight_decay}
            named.append({**group, "params": [self.prompts.tokens]})
        optimizer = optimisers.make(named, fit)
        if fit.schedule == "plateau":
            self.plateau = optimisers.plateau(optimizer, fit, fit.best_by)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


def shuffled(people: Sequence[tuple[int, str]], seed: int) -> np.ndarray:
    """(P,) whose prompt each person gets instead of the own: another person's of the same aspect.

    Raises:
        InputError: an aspect with one person.
    """
    draw, found = np.random.default_rng(seed), np.arange(len(people))
    aspects = np.array([aspect for _, aspect in people])
    for aspect in np.unique(aspects):
        ring = draw.permutation(np.flatnonzero(aspects == aspect))
        if len(ring) < 2:
            raise InputError(f"prompts.shuffle: {aspect} has one person, nobody to exchange with")
        found[ring] = np.roll(ring, 1)
    return found


def make_encoder(
    encoder: nn.Module,
    preprocess: Preprocess,
    data: Prepared,
    p: ClipReidEncoderParams,
    learned: prompts.Learned,
) -> tuple[EncoderStage, loaders.HandImages]:
    """The second stage for a split, and its training images.

    Raises:
        InputError: fewer people or images than a batch, and what `EncoderStage` raises.
    """
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(data.train, data.root, size, p.loader.workers)
    targets = loaders.classes(images.table)
    steps = len(loaders.training(images, targets, p.fit, p.seed)(0))
    return EncoderStage(encoder, preprocess, p, targets, steps, learned), images


# --- from one to the other ----------------------------------------------------------------------


def first_stage(p: ClipReidEncoderParams) -> ClipReidPromptsParams:
    """Parameters of the run that learns the prompts for a second stage.

    Of the overrides those of data and model count there too.
    """
    overrides = {k: v for k, v in p.overrides.items() if k.split(".")[0] in ("data", "model")}
    recipe = p.prompts.recipe or p.recipe
    axes = p.dataset, p.backbone, recipe, p.seed
    try:
        found = params.read("clip_reid_prompts", *axes, overrides)
    except InputError as error:
        raise InputError(
            f"the first stage of recipe {p.recipe}: {error}; see prompts.recipe"
        ) from None
    return found.model_copy(update={"device": p.device, "loader": p.loader})


def learned_prompts(
    encoder: nn.Module,
    preprocess: Preprocess,
    data: Prepared,
    p: ClipReidEncoderParams,
    run: runs.Run,
    outputs: str | Path,
) -> prompts.Learned:
    """Prompts for the second stage: found in the run that learned them, or made in this one.

    They are those of `prompts.run`; if that is not said, of the run of 04 with the same data set,
    backbone, recipe and seed; and if there is none, they are learned here, as that run would.

    Args:
        encoder: with the weights that the second stage starts from; frozen afterwards.
        run: the second stage's; its manifest will have their hash.

    Raises:
        InputError: they were learned on another split, for another encoder, for other people, or by
            other parameters.
    """
    first, named = first_stage(p), p.prompts.run
    folder = files.resolve(named) if named else runs.folder(FIRST, first, outputs)
    if named is None and not runs.is_complete(folder):
        run.logger.info("%s is no complete run: its prompts are learned here", folder)
        return _made(encoder, preprocess, data, first, run)
    run.logger.info("prompts of %s", folder)
    found = prompts.read(runs.kept(folder, FILE))
    _check(found, encoder, data, folder)
    if named is None:
        theirs = runs.manifest(folder)["params"]
        if other := checkpoints.difference(
            _decisive(theirs), _decisive(first.model_dump(mode="json"))
        ):
            raise InputError(
                f"{folder} is of other parameters than its recipe ({other}); run it again"
            )
    run.record(prompts_sha256=found.sha256)
    return found


def _made(
    encoder: nn.Module,
    preprocess: Preprocess,
    data: Prepared,
    p: ClipReidPromptsParams,
    run: runs.Run,
) -> prompts.Learned:
    """Learn prompts in a part of the second stage's folder; cut short, it goes on from there."""
    images = image_features(encoder, preprocess, data, p)
    method, what = (
        make_prompts(encoder, images, p),
        runs.fit_content(p, data.sha256, sys.modules[__name__]),
    )
    part = copy.copy(run)
    part.folder, part.params, part.facts = run.folder / "prompts", p, {}
    names = list(images.table["image_id"])
    training.fit(method, batches(len(names), p), part, what, p.fit, p.device, names=names)
    return keep(method, images, data, run, what)


def _check(found: prompts.Learned, encoder: nn.Module, data: Prepared, folder: Path) -> None:
    wrong = None
    if found.about.get("split_sha256") != data.sha256:
        wrong = "learned on another split of the data"
    elif found.about.get("weights_sha256") != backbones.sha256(encoder):
        wrong = (
            "learned for another encoder or other weights (model.name, model.weights, model.size)"
        )
    elif found.people != people(data.train):
        wrong = "of other people"
    if wrong:
        raise InputError(
            f"prompts.run: the prompts of {folder} are {wrong}; run {FIRST} again with these "
            "parameters, or name another run"
        )


def _decisive(content: dict) -> dict[str, object]:
    """Of a first stage's parameters those that decide its prompts, flat."""
    content = {
        k: v for k, v in content.items() if k == "fit" or k == "prompts" or k.startswith("loss")
    }
    content["fit"] = {k: v for k, v in content["fit"].items() if k not in runs.NOT_OF_FIT}
    return params.flat(content)
