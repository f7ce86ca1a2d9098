"""MBA-Net: global, channel-attention and spatial-attention branches on one feature map."""

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from clipfh_lib.data import loaders
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.splits import Prepared
from clipfh_lib.data.transforms import normalise
from clipfh_lib.evaluation.embeddings import Embeddings
from clipfh_lib.learning import MbaNetParams
from clipfh_lib.models import branches, objective, optimisers, towers
from clipfh_lib.models.backbones import Preprocess


class MbaNet(L.LightningModule):
    """A convolutional tower with branches, each under a cross-entropy of its own.

    Baisa et al., Multi-Branch with Attention Network for Hand-Based Person Recognition, ICPR 2022
    (arXiv:2108.02234): the sum of the branches' label-smoothed cross-entropies, no metric loss; the
    features of all branches side by side are compared. What the tower has behind its map (CLIP's
    attention pooling) is neither used nor trained.

    Args:
        encoder: of `backbones.load`; trained in place, and its last stride changed if the recipe
            has it so.
        preprocess: mean and std of its pixels.
        p: the recipe.
        targets: (N,) index of the person on each training image, by row of the table.
        steps: batches of an epoch.

    Raises:
        InputError: a backbone without a feature map or with an unknown last stride, a level that
            there is not, more blocks to free than there are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: MbaNetParams,
        targets: np.ndarray,
        steps: int,
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        seen = _map(encoder, p)
        self.reached = seen.reached
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            made = branches.Branches(p.net, seen.channels, seen.size)
            losses = objective.Objective(
                p, made.widths, int(targets.max()) + 1, main=branches.TOGETHER
            )
        self.heads = nn.ModuleDict({"branches": made, "losses": losses})
        self.targets = torch.tensor(targets)
        self.free(0)

    @property
    def losses(self) -> objective.Objective:
        """What the branches are trained by."""
        return self.heads["losses"]

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept, with those of `heads`."""
        return self.encoder

    def free(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch, and what lies behind the map."""
        towers.free(self.encoder, self.p.fit, epoch)
        for name, parameter in self.encoder.named_parameters():
            if name not in self.reached:
                parameter.requires_grad_(False)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> branch -> (B, width), and `branches`, all of them side by side."""
        return self.heads["branches"](branches.feature_map(self.encoder, images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F), what is compared at test time."""
        return self.losses.feature(self.levels(images))

    def embedder(self) -> nn.Module:
        """Has `encode_image`: what is compared at test time."""
        return Embedder(self.encoder, self.heads["branches"], self.losses)

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), the mean over the branches; none without a head for that."""
        return named(self.losses, self.levels(images))

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
        levels = self.levels(images)
        targets = self.targets[batch.rows.cpu()].to(self.device)
        terms = self.losses(levels, targets)
        loss = self.losses.total(terms)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        with torch.no_grad():
            if (logits := named(self.losses, levels)) is not None:
                right = logits.argmax(dim=1) == targets
                self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def configure_optimizers(self) -> dict:
        """Groups, optimiser and schedule of the recipe."""
        fit = self.p.fit
        self.free(fit.epochs)  # what is freed at some time stands in its group from the start
        groups = optimisers.of_fit(self.encoder, self.heads, fit)
        self.free(self.current_epoch)
        optimizer = optimisers.make(groups, fit)
        if fit.schedule == "plateau":
            self.plateau = optimisers.plateau(optimizer, fit, fit.best_by)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


class Embedder(nn.Module):
    """What an MBA-Net compares, as an `encode_image`.

    Its state holds, beside the weights, which feature that is, so that two that differ in nothing
    else are not taken for one another.
    """

    def __init__(self, encoder: nn.Module, made: branches.Branches, losses: objective.Objective):
        super().__init__()
        self.encoder, self.branches, self.losses = encoder, made, losses
        said = f"{losses.p.feature} {losses.p.feature_after_neck}".encode()
        self.register_buffer("said", torch.frombuffer(bytearray(said), dtype=torch.uint8))

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> branch -> (B, width), and `branches`, all of them side by side."""
        return self.branches(branches.feature_map(self.encoder, images))

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F)."""
        return self.losses.feature(self.levels(images))

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), the mean over the branches; none without a head for that."""
        return named(self.losses, self.levels(images))


def named(losses: objective.Objective, levels: dict[str, Tensor]) -> Tensor | None:
    """(B, P) that tells people apart, without margins: the mean over the heads of the branches.

    What the paper chooses its epochs by, the closed-set accuracy of the whole network, needs one
    answer of three heads; how they are joined it does not say.
    """
    if not losses.p.loss_use_id:
        return losses.logits(levels)
    return torch.stack(losses.id_logits(levels)).mean(dim=0)


def alone(found: Embeddings, p: MbaNetParams) -> dict[str, Embeddings]:
    """The part that each branch has in embeddings of the whole, by its name.

    Args:
        found: of an `Embedder`; all of `feature` side by side.
    """
    sizes: list[tuple[str, int]] = []
    for level in p.feature:
        if level == branches.TOGETHER and p.projection is None:
            sizes += [(name, p.net.width) for name in p.net.branches]
        else:
            sizes.append((level, p.projection if level == branches.TOGETHER else p.net.width))
    ends = np.cumsum([width for _, width in sizes])
    return {
        name: Embeddings(found.array[:, end - width : end], found.table)
        for (name, width), end in zip(sizes, ends, strict=True)
    }


def _map(encoder: nn.Module, p: MbaNetParams) -> branches.Seen:
    """The map of a tower whose last stride is as the recipe has it."""
    if p.net.last_stride == 1:
        branches.keep_last_size(encoder)
    return branches.look(encoder)


def reopen(encoder: nn.Module, p: MbaNetParams, state: dict[str, Tensor]) -> Embedder:
    """What a finished run embeds images by, from the tensors that it kept beside its encoder.

    Args:
        encoder: with the run's weights; its last stride is changed if the recipe has it so.
        state: of `MbaNet.heads`.
    """
    seen = _map(encoder, p)
    parts = {
        part: {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        for part in ("branches.", "losses.")
    }
    made = branches.Branches(p.net, seen.channels, seen.size)
    made.load_state_dict(parts["branches."])
    losses = objective.reopen(p, made.widths, parts["losses."], main=branches.TOGETHER)
    return Embedder(encoder, made, losses).eval()


def make(
    encoder: nn.Module, preprocess: Preprocess, data: Prepared, p: MbaNetParams
) -> tuple[MbaNet, loaders.HandImages]:
    """The method for a split, and its training images.

    Raises:
        InputError: nobody to train on, fewer people or images than a batch, and what `MbaNet`
            raises.
    """
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(data.train, data.root, size, p.loader.workers)
    targets = loaders.classes(images.table)
    steps = len(loaders.training(images, targets, p.fit, p.seed)(0))
    return MbaNet(encoder, preprocess, p, targets, steps), images
