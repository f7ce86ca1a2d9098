"""PromptSG: an image's own word in a sentence, and its patches read by that sentence."""

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from clipfh_lib.data import loaders
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.splits import Prepared
from clipfh_lib.data.transforms import normalise
from clipfh_lib.files import InputError
from clipfh_lib.learning import GuideParams, PromptSgParams
from clipfh_lib.models import guidance, objective, optimisers, prompts, towers
from clipfh_lib.models.backbones import Preprocess

Levels = dict[str, Tensor]


class Guide(nn.Module):
    """From levels and patches of images to their texts and guided features.

    Its state holds, beside the weights, the tokens of both sentences; `said` is the first one.

    Args:
        encoder: of `backbones.load`, with a text encoder; is not kept.
        how: the recipe's `guide`.
        aspects: of the data set, said in the sentences.

    Raises:
        InputError: a sentence that does not fit.
    """

    def __init__(self, encoder: nn.Module, how: GuideParams, aspects: Sequence[str]):
        super().__init__()
        table = prompts.text_tower(encoder).token_embedding.weight
        width, length = towers.widths(encoder)["projected"], encoder.context_length
        self.inversion = guidance.Inversion(
            width, table.shape[1], how.hidden, table.detach().std().item()
        )
        self.interaction = guidance.Interaction(
            width, how.cross_layers, how.self_layers, how.dropout
        )
        self.said = guidance.sentence(how.template, aspects)
        tokens, self.place = guidance.slot(self.said, length)
        self.register_buffer("template", tokens)
        fixed = prompts.tokens([guidance.sentence(how.fixed, aspects)], length)
        self.register_buffer("fixed", fixed)

    def text(self, encoder: nn.Module, levels: Levels, kind: str) -> Tensor:
        """(B, D) text feature of each image: `composed` with its own word, or `fixed`, all one."""
        if kind == "fixed":
            return prompts.encode(encoder, self.fixed).expand(len(levels["projected"]), -1)
        words = self.inversion(levels["projected"])
        return guidance.composed(encoder, self.template, self.place, words)

    def forward(self, encoder: nn.Module, images: Tensor, kind: str) -> tuple[Levels, Tensor]:
        """(B, 3, H, W) -> levels, `guided` among them, and texts (B, D), from one pass."""
        levels, patches = towers.levels_and_patches(encoder, images)
        texts = self.text(encoder, levels, kind)
        return {**levels, "guided": self.interaction(texts, patches)}, texts


class PromptSG(L.LightningModule):
    """An image encoder with text guidance in one stage, the text encoder frozen.

    Yang et al., A Pedestrian is Worth One Prompt, CVPR 2024: triplet and ID loss, and half of the
    symmetric supervised contrastive loss between images and their sentences. The feature that is
    compared is that of the patches as the sentence reads them.

    Args:
        encoder: of `backbones.load`; trained in place.
        preprocess: mean and std of its pixels.
        p: the recipe.
        targets: (N,) index of the person on each training image, by row of the table.
        steps: batches of an epoch.
        aspects: of the data set, for {aspect} and {side} of the sentences.

    Raises:
        InputError: a backbone that reads no text or has no patches, a sentence that does not fit,
            more blocks to free than there are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: PromptSgParams,
        targets: np.ndarray,
        steps: int,
        aspects: Sequence[str] = (),
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        widths = towers.widths(encoder)
        if not prompts.reads_text(encoder) or "last" not in widths:
            raise InputError(
                f"model.name: PromptSG needs a text encoder and patches, {p.model.name} lacks one; "
                "take a ViT or ResNet of CLIP"
            )
        widths["guided"] = widths["projected"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            guide = Guide(encoder, p.guide, aspects)
            losses = objective.Objective(p, widths, int(targets.max()) + 1, main="guided")
        self.heads = nn.ModuleDict({"guide": guide, "losses": losses})
        self.targets = torch.tensor(targets)
        self.free(0)

    @property
    def guide(self) -> Guide:
        """What makes guided features."""
        return self.heads["guide"]

    @property
    def losses(self) -> objective.Objective:
        """What they are trained by."""
        return self.heads["losses"]

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept, with those of `heads`."""
        return self.encoder

    def free(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch."""
        towers.free(self.encoder, self.p.fit, epoch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F), what is compared at test time."""
        return self.embedder().encode_image(images)

    def embedder(self, kind: str | None = None) -> nn.Module:
        """Has `encode_image`: what is compared at test time.

        Args:
            kind: `composed` or `fixed` sentence; none: `guide.test` of the recipe.
        """
        kind = kind or self.p.guide.test
        return Embedder(self.encoder, self.guide, self.losses, kind)

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), one for each training person; none without a head for that."""
        return self.losses.logits(self.guide(self.encoder, images, self.p.guide.test)[0])

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
        levels, texts = self.guide(self.encoder, images, "composed")
        targets = self.targets[batch.rows.cpu()].to(self.device)
        terms = self.losses(levels, targets, texts)
        loss = self.losses.total(terms)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        with torch.no_grad():
            if (logits := self.losses.logits(levels)) is not None:
                right = logits.argmax(dim=1) == targets
                self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def configure_optimizers(self) -> dict:
        """Groups, optimiser and schedule of the recipe."""
        fit = self.p.fit
        self.free(fit.epochs)  # what is freed at some time stands in its group from the start
        named = optimisers.of_fit(self.encoder, self.heads, fit)
        self.free(self.current_epoch)
        optimizer = optimisers.make(named, fit)
        if fit.schedule == "plateau":
            self.plateau = optimisers.plateau(optimizer, fit, fit.best_by)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


class Embedder(nn.Module):
    """What a PromptSG compares, as an `encode_image`, with one kind of sentence.

    Its state holds, beside weights and sentences, which kind and feature that is, so that two that
    differ in nothing else are not taken for one another.
    """

    def __init__(self, encoder: nn.Module, guide: Guide, losses: objective.Objective, kind: str):
        super().__init__()
        self.encoder, self.guide, self.losses, self.kind = encoder, guide, losses, kind
        said = f"{kind} {losses.p.feature} {losses.p.feature_after_neck}".encode()
        self.register_buffer("said", torch.frombuffer(bytearray(said), dtype=torch.uint8))

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F)."""
        return self.losses.feature(self.guide(self.encoder, images, self.kind)[0])


class Words(nn.Module):
    """The words that a PromptSG makes of images, as an `encode_image`."""

    def __init__(self, method: PromptSG):
        super().__init__()
        self.encoder, self.inversion = method.encoder, method.guide.inversion

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, W), in the space of the token embeddings."""
        return self.inversion(self.encoder.encode_image(images))


def reopen(
    encoder: nn.Module, p: PromptSgParams, state: dict[str, Tensor], aspects: Sequence[str]
) -> nn.Module:
    """What a finished run embeds images by, from the tensors that it kept beside its encoder.

    Args:
        encoder: with the run's weights.
        state: of `PromptSG.heads`.
        aspects: as `aspects_of` the run's data.
    """
    parts = {
        part: {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        for part in ("guide.", "losses.")
    }
    widths = towers.widths(encoder)
    widths["guided"] = widths["projected"]
    guide = Guide(encoder, p.guide, aspects)
    guide.load_state_dict(parts["guide."])
    losses = objective.reopen(p, widths, parts["losses."], main="guided")
    return Embedder(encoder, guide, losses, p.guide.test).eval()


def make(
    encoder: nn.Module, preprocess: Preprocess, data: Prepared, p: PromptSgParams
) -> tuple[PromptSG, loaders.HandImages]:
    """The method for a split, and its training images.

    Raises:
        InputError: nobody to train on, fewer people or images than a batch, and what `PromptSG`
            raises.
    """
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(data.train, data.root, size, p.loader.workers)
    targets = loaders.classes(images.table)
    steps = len(loaders.training(images, targets, p.fit, p.seed)(0))
    return PromptSG(encoder, preprocess, p, targets, steps, aspects_of(data)), images


def aspects_of(data: Prepared) -> list[str]:
    """The aspects of the training images, for {aspect} and {side} of the sentences."""
    return sorted(data.train["aspect"].dropna().unique()) if "aspect" in data.train else []
