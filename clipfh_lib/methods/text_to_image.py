"""Text to image: both encoders of a CLIP trained so that a sentence finds its pictures."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset, Subset

from clipfh_lib import files
from clipfh_lib.data import loaders, pairs, tidying, transforms
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.pairs import Pairs
from clipfh_lib.evaluation import embeddings, mining, text_image
from clipfh_lib.files import InputError
from clipfh_lib.models import image_text_losses, optimisers, prompts, spoken, towers
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.models.image_text_losses import Loss
from clipfh_lib.schema import EmbedParams
from clipfh_lib.words import TextToImageParams

Epochs = Callable[[int], Dataset]
SEVERAL = 256  # texts that are encoded at once
LOOKED = 2_000  # images that a sheet of negatives looks through


# --- what is trained on, and what validates -------------------------------------------------------


def training_pairs(
    table: pd.DataFrame, said: pd.DataFrame, least: int
) -> tuple[Pairs, pd.DataFrame]:
    """Training images and their prompts, without people (or things) who have too few of them.

    Args:
        table: images of `data.train`.
        said: prompts after cleaning: `image_id, prompt`.
        least: `prompts.least_images`; images without a prompt do not count.

    Returns:
        The pairs, and who is left out: `pid, images`.

    Raises:
        InputError: no training image has a prompt, or nobody has so many.
    """
    told = table[table["image_id"].isin(said["image_id"])]
    if told.empty:
        raise InputError(
            f"prompts: none of the {len(table)} training images has one; see the report of their "
            "cleaning, and prompts.file if it is set"
        )
    kept, alone = tidying.lone(told, least)
    if kept.empty:
        raise InputError(
            f"prompts.least_images {least}: nobody has so many training images with a prompt, the "
            f"most are {alone['images'].max()}; take at most that many"
        )
    return pairs.make(kept, said), alone


def validation_pairs(table: pd.DataFrame, said: pd.DataFrame, best_by: str) -> Pairs:
    """Validation images and their prompts; of no image where none is needed: `fit.best_by last`.

    Args:
        table: images of `data.val`.
        said: prompts after cleaning: `image_id, prompt`.
        best_by: of the fit.

    Raises:
        InputError: none of the images has a prompt, or there are none.
    """
    told = table[table["image_id"].isin(said["image_id"])]
    if len(told):
        return pairs.make(told, said)
    if best_by != "last":
        why = "no prompt is of its images" if len(table) else "the split keeps nobody for it"
        raise InputError(f"data.val: {why}, so that nothing is validated; take fit.best_by last")
    return Pairs(told, [], np.zeros(0, np.int64), np.zeros(0, np.int64))


def grouped(trained: Pairs) -> str:
    """How many groups of true matches there are and how large the largest is, in one line."""
    sizes = np.bincount(trained.groups)
    largest, count = sizes.max(), len(trained.table)
    line = (
        f"{count} training images, {len(trained.texts)} texts; {len(sizes)} groups of images that "
        f"share a text, the largest of {largest}"
    )
    if 2 * largest <= count:
        return line
    return (
        f"{line}, more than half: few negatives are left; prompts that say more (prompts.strategy, "
        "prompts.traits) tell more images apart"
    )


# --- the method -----------------------------------------------------------------------------------


class TextToImage(L.LightningModule):
    """Both encoders under one loss over pairs of an image and a text.

    Args:
        encoder: a CLIP of `backbones.load`; trained in place.
        preprocess: mean and std of its pixels.
        p: the recipe.
        groups: (N,) `Pairs.groups`, by row of the table: images of one group are true matches.
        steps: batches of an epoch.
        loss: any function of (B, D) images, (B, D) texts and (B,) ids, equal ones of which are true
            matches, to a scalar; none: the recipe's. `loss_sha256` is the hash of its source, ""
            for the recipe's; it belongs into the key of the fit.

    Raises:
        InputError: the source of one's own loss cannot be read.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: TextToImageParams,
        groups: np.ndarray,
        steps: int,
        loss: Loss | None = None,
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        self.groups, self.loss = torch.tensor(groups), loss or image_text_losses.of(p)
        self.loss_sha256 = "" if loss is None else _source_sha256(loss)  # of one's own alone
        towers.freeze(encoder, p.frozen)

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept: both encoders."""
        return self.encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), any norm."""
        return self.encoder.encode_image(images)

    def on_fit_start(self) -> None:
        """Convolutions run faster in another order of memory."""
        towers.lay_out(self.encoder, training=True)

    def on_fit_end(self) -> None:
        """Back to the usual order, which embeddings are made in."""
        towers.lay_out(self.encoder, training=False)

    def on_train_epoch_start(self) -> None:
        """Hold what is frozen, also the statistics of its batch norms."""
        towers.freeze(self.encoder, self.p.frozen)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch; logs it, and how often a text that is true of an image is nearest."""
        how = self.preprocess
        images = self(transforms.normalise(batch.pixels, how.mean, how.std, self.device))
        said, which = batch.texts.unique(dim=0, return_inverse=True)  # each text once
        texts = prompts.encode(self.encoder, said)[which]
        ids = self.groups[batch.rows.cpu()].to(self.device)
        loss = self.loss(images, texts, ids)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        with torch.no_grad():
            nearest = (normalize(images, dim=1) @ normalize(texts, dim=1).T).argmax(dim=1)
            self.log("train/accuracy", (ids[nearest] == ids).float().mean(), **size)
        return loss

    def configure_optimizers(self) -> dict:
        """Groups, optimiser and schedule of the recipe."""
        fit = self.p.fit
        named = optimisers.of_towers(self.encoder, fit.lr, fit.lr_text, fit.weight_decay)
        optimizer = optimisers.make(named, fit)
        if fit.schedule == "plateau":
            self.plateau = optimisers.plateau(optimizer, fit, fit.best_by)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


def _source_sha256(loss: Loss) -> str:
    """Hash of the source of one's own loss, and of the plain values that it reads from outside.

    Functions that it calls do not count.

    Raises:
        InputError: it is no function that was written with `def` or `lambda`, or `partial` of one.
    """
    if isinstance(loss, partial):
        return files.digest([_source_sha256(loss.func), repr(loss.args), repr(loss.keywords)])
    try:
        source, read = inspect.getsource(loss), inspect.getclosurevars(loss)
    except (OSError, TypeError):
        raise InputError(
            "loss: its source cannot be read, so that its fit could not be told from others; write "
            "it as a function (def) in a cell or a file"
        ) from None
    plain = (bool, int, float, str, tuple, type(None))
    outside = {**read.globals, **read.nonlocals}
    values = {name: repr(value) for name, value in outside.items() if isinstance(value, plain)}
    return files.digest([source, values])


def make(
    encoder: nn.Module,
    preprocess: Preprocess,
    trained: Pairs,
    root: Path,
    p: TextToImageParams,
    loss: Loss | None = None,
) -> tuple[TextToImage, Epochs]:
    """The method for some pairs, and its data: epoch -> images with the words of that epoch.

    Args:
        trained: what is trained on.
        root: folder that the paths of `trained.table` start from.
        loss: see `TextToImage`.

    Raises:
        InputError: the backbone reads no text, fewer images than a batch, or the same text is true
            of all of them.
    """
    if not prompts.reads_text(encoder):
        raise InputError(f"model.name: {p.model.name} reads no text; searching needs a CLIP")
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(trained.table, root, size, p.loader.workers)
    if not trained.groups.any():
        raise InputError(
            "prompts: the same text is true of all training images, so that none is wrong; choose "
            "prompts.strategy or templates that tell them apart"
        )
    steps = len(loaders.Shuffled(len(images), p.fit.batch_size, p.seed, 0))
    words = spoken.of_epochs(trained, p.vary, p.seed, encoder.context_length)
    method = TextToImage(encoder, preprocess, p, trained.groups, steps, loss)
    return method, lambda epoch: loaders.Captioned(images, *words(epoch))


def loader(
    method: TextToImage, data: Epochs, device: str | torch.device = "cpu"
) -> Callable[[int], DataLoader]:
    """Epoch -> loader of changed images with their words, shuffled or with mined negatives.

    Args:
        method: whose current weights mine `semantic` negatives.
        data: of `make`, or any own one: epoch -> a data set of as many images as the method has
            groups, whose `__getitem__` takes a list of rows and gives a `loaders.Batch` with
            (B, H, W, 3) uint8 pixels, the rows and (B, L) token ids of `prompts.tokens`. Recipes
            flip images: where captions tell left from right it needs an attribute `turned`, (N, L)
            token ids of what is true of each mirror image, as `loaders.Captioned` has it; without
            one captions stay as they are, so set fit.augment.flip to 0. Only what is given to
            `runs.fit_content` decides whether a fit is done again: give it something there that
            changes with these data.
        device: where the images are changed.
    """
    p, groups = method.p, method.groups.numpy()

    def make(epoch: int) -> DataLoader:
        plain = data(epoch)
        if p.group == 1:
            order = loaders.Shuffled(len(groups), p.fit.batch_size, p.seed, epoch)
        else:
            order = loaders.WithNegatives(
                *(groups, p.fit.batch_size, p.group - 1, p.seed, epoch),
                lambda anchors, count: mined(method, plain, epoch, anchors, count),
            )
        changed = loaders.Augmented(plain, p.fit.augment, p.seed, epoch, device)
        return loaders.batches(changed, order)

    return make


def mined(
    method: TextToImage,
    data: Dataset,
    epoch: int,
    anchors: np.ndarray,
    count: int,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Negatives of some images of an epoch, as the recipe mines them.

    `semantic`: the images that the current weights find nearest to the anchor's text and that it is
    not true of. Weights, modes and random state stay as they are.

    Args:
        data: see `loader`; images as they are, with the words of the epoch.
        anchors: (A,) rows.
        count: of each anchor.
        among: (M,) rows that are looked through; none: all.

    Returns:
        (A, count) rows, see `mining.hard`.
    """
    p, groups = method.p, method.groups.numpy()
    rows = np.arange(len(groups)) if among is None else among
    ends = groups[anchors], groups[rows]
    if p.negatives.mine == "random":
        found = mining.random(*ends, count, [p.seed, epoch, 17])
        return np.where(found >= 0, rows[found], -1)
    encoder, device = method.encoder, method.device
    how = EmbedParams(batch=p.embed.batch, precision=p.fit.precision)
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]):  # a loader draws a number when it begins
            seen = data if among is None else Subset(data, rows.tolist())
            images = embeddings.encode(encoder, method.preprocess, seen, how, device, quiet=True)
        texts = _texts(method, data, anchors)
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = mining.hard(texts, images, *ends, count, device)
    return np.where(found >= 0, rows[found], -1)


@torch.inference_mode()
def _texts(method: TextToImage, data: Dataset, rows: np.ndarray) -> Tensor:
    """(A, D) embeddings of what is said of some rows, each text encoded once."""
    some = [data[rows[at : at + SEVERAL].tolist()].texts for at in range(0, len(rows), SEVERAL)]
    said, which = torch.cat(some).cpu().unique(dim=0, return_inverse=True)
    kind = embeddings.PRECISION.get(method.p.fit.precision)
    with torch.autocast(method.device.type, kind, enabled=kind is not None):
        parts = [
            prompts.encode(method.encoder, each.to(method.device)).float()
            for each in said.split(SEVERAL)
        ]
    return torch.cat(parts)[which.to(method.device)]


def examples(
    method: TextToImage, data: Epochs, trained: Pairs, anchors: int = 4, others: int = 3
) -> pd.DataFrame:
    """Some texts with their own image and the ones mined for it, for `pictures.searched`.

    Args:
        trained: what `data` was made of.
        anchors: how many texts, spread over the table.
        others: negatives of each, mined as for the first epoch, by the caption as it stands, among
            at most `LOOKED` images that are spread over the table.

    Returns:
        `sentence, rank, similarity, right, path`, the own image first: similarity is the cosine.
    """
    among = _spread(np.arange(len(trained.table)), LOOKED)
    rows = _spread(among, anchors)
    texts = [trained.texts[text] for text in trained.drawn(method.p.seed, 0)]
    coded = prompts.tokens(texts, method.encoder.context_length)
    plain, how = loaders.Captioned(data(0), coded), method.preprocess
    near = np.column_stack([rows, mined(method, plain, 0, rows, others, among)])
    said = [texts[row] for row in rows]
    method.eval()
    with torch.inference_mode():
        pixels = plain[near.clip(min=0).ravel().tolist()].pixels
        images = method(transforms.normalise(pixels, how.mean, how.std, method.device)).cpu()
    words = torch.from_numpy(text_image.texts_of(method.encoder, said, method.device.type))
    scores = (normalize(images, dim=1).view(*near.shape, -1) @ words[:, :, None])[..., 0]
    frames = [
        pd.DataFrame({"sentence": text, "rank": 1 + np.arange(len(own)), "similarity": score})
        .assign(right=np.arange(len(own)) == 0, row=own)
        .query("row >= 0")
        for own, text, score in zip(near, said, scores.numpy(), strict=True)
    ]
    found = pd.concat(frames, ignore_index=True)
    return found.assign(path=trained.table["path"].to_numpy()[found.pop("row")])


def _spread(rows: np.ndarray, number: int) -> np.ndarray:
    """At most so many of some rows, the first and the last among them."""
    return rows[
        np.unique(np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int))
    ]


def measure(method: TextToImage, validated: Pairs, root: Path) -> Callable[[], dict[str, float]]:
    """What validation measures after an epoch: how well texts find images, and the loss.

    The loss is the mean over batches of shuffled pairs, one text an image, the same each time.

    Args:
        validated: of `validation_pairs`: images that nobody trains on.
        root: folder that the paths of `validated.table` start from.

    Returns:
        What is called after an epoch; gives what `text_image.validate` gives, and `loss`;
        nothing where there is no image.
    """
    if validated.table.empty:
        return dict
    p, how = method.p, method.preprocess
    images = loaders.HandImages(validated.table, root, how.size(p.data.resize), p.loader.workers)
    said, groups = torch.tensor(validated.drawn(p.seed, 0)), torch.tensor(validated.groups)
    size = min(p.fit.batch_size, len(images))
    batches = [torch.tensor(rows) for rows in loaders.Shuffled(len(images), size, p.seed, 0)]

    @torch.no_grad()
    def found() -> dict[str, float]:
        device = method.device
        array = embeddings.encode(method.encoder, how, images, p.embed, device, quiet=True)
        texts = text_image.texts_of(method.encoder, validated.texts, device.type)
        both = torch.from_numpy(array), torch.from_numpy(texts)[said]
        losses = [method.loss(*(part[rows] for part in both), groups[rows]) for rows in batches]
        loss = torch.stack(losses).mean()
        return {**text_image.validate(array, texts, validated), "loss": float(loss)}

    return found
