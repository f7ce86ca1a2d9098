"""What a recipe's toggles add up to: heads and losses over the levels of an image tower."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfh_lib.files import InputError
from clipfh_lib.learning import LossParams, losses_of
from clipfh_lib.models import losses, towers
from clipfh_lib.models.heads import ArcFace, BNNeck, Centres, Classifier, CosFace, Projection

Levels = dict[str, Tensor]


class Objective(nn.Module):
    """All heads and losses that a recipe switches on, and the feature that is compared at the end.

    ID, ArcFace and CosFace are cross-entropies with label smoothing, behind a BNNeck each if the
    recipe has `neck`; triplet and centre loss take the features before it. A loss over several
    levels is their sum. A batch in which nobody appears twice has no triplet: it counts 0.

    Args:
        p: the recipe.
        widths: of each level, from the backbone (`towers.widths`).
        people: P, how many targets there are.
        main: the level that ArcFace, CosFace, centre and image SupCon take, and the projection.

    Raises:
        InputError: a level that the backbone has not.
    """

    def __init__(self, p: LossParams, widths: dict[str, int], people: int, main: str = "projected"):
        super().__init__()
        self.p, self.main = p, main
        asked = {"loss_id_levels": p.loss_id_levels, "loss_triplet_levels": p.loss_triplet_levels}
        for name, levels in {**asked, "feature": p.feature}.items():
            for level in set(levels) - set(widths):
                raise InputError(f"{name}: this backbone has no level {level}, only {[*widths]}")
        widths = dict(widths)
        self.projection = None
        if p.projection is not None:
            self.projection = Projection(widths[main], p.projection)
            widths[main] = p.projection
        last, scale = widths[main], p.loss_arcface_scale
        if p.loss_use_id:
            heads = {level: Classifier(widths[level], people) for level in p.loss_id_levels}
            self.id = nn.ModuleDict({name: self._necked(head) for name, head in heads.items()})
        if p.loss_use_arcface:
            self.arcface = self._necked(ArcFace(last, people, scale, p.loss_arcface_margin))
        if p.loss_use_cosface:
            margin = p.loss_cosface_margin
            self.cosface = self._necked(CosFace(last, people, p.loss_cosface_scale, margin))
        if p.loss_use_center:
            self.center = Centres(last, people)
        self.on = [name for name in losses_of(type(p)) if getattr(p, f"loss_use_{name}")]

    def _necked(self, head: Classifier | ArcFace | CosFace) -> nn.Module:
        width = head.weight.shape[1]
        return BNNeck(width, head) if self.p.neck else head

    def _shaped(self, levels: Levels) -> Levels:
        if self.projection is None:
            return levels
        return {**levels, self.main: self.projection(levels[self.main])}

    def forward(
        self,
        levels: Levels,
        targets: Tensor,
        texts: Tensor | None = None,
        text_ids: Tensor | None = None,
        true: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every loss that is on, by its name, without its weight; `total` adds them up.

        Args:
            levels: level -> (B, width).
            targets: (B,) index of each image's person, 0..P-1.
            texts: features of all texts that there are, (T, D); for losses with text, which hold
                them against the level `projected` as the encoder gives it.
            text_ids: (B,) row of `texts` that belongs to each image; none: each image has a text
                of its own, (B, D), and those of one person belong together.
            true: (B, B) where each image has a text of its own: whether text j is true of image i;
                another person's is then no error.
            scale: inverse temperature of the losses with text; none: that of the recipe.

        Returns:
            Scalars.
        """
        p, raw = self.p, levels.get("projected")
        levels = self._shaped(levels)
        found: dict[str, Tensor] = {}
        smooth = {"label_smoothing": p.loss_smoothing}
        if p.loss_use_id:
            logits = [_logits(head(levels[name], targets)) for name, head in self.id.items()]
            found["id"] = sum(F.cross_entropy(each, targets, **smooth) for each in logits)
        for name in ("arcface", "cosface"):
            if name in self.on:
                logits = _logits(getattr(self, name)(levels[self.main], targets))
                found[name] = F.cross_entropy(logits, targets, **smooth)
        if p.loss_use_triplet:
            found["triplet"] = sum(
                _or_nothing(losses.batch_hard_triplet, each, targets, p.loss_triplet_margin)
                for each in (self._metric(levels[name]) for name in p.loss_triplet_levels)
            )
        if p.loss_use_center:
            found["center"] = self.center(self._metric(levels[self.main]), targets)
        if p.loss_use_image_supcon:
            found["image_supcon"] = _or_nothing(
                losses.supervised_contrastive,
                levels[self.main],
                targets,
                p.loss_image_temperature,
            )
        if texts is not None:
            warmth = p.loss_text_temperature if scale is None else 1 / scale
            found |= self._with_text(raw, texts, text_ids, targets, true, warmth)
        return {name: found[name] for name in self.on}

    def _metric(self, features: Tensor) -> Tensor:
        return F.normalize(features.float(), dim=1) if self.p.loss_normalise else features

    def _with_text(
        self,
        images: Tensor,
        texts: Tensor,
        ids: Tensor | None,
        targets: Tensor,
        true: Tensor | None,
        warmth: float | Tensor,
    ) -> dict[str, Tensor]:
        p = self.p
        if p.loss_text_normalise:
            images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
        own, whose = (texts, targets) if ids is None else (texts[ids], ids)
        found = {}
        if p.loss_use_supcon:
            pairs = images, own, whose, warmth, true
            found["supcon"] = losses.image_to_text(*pairs) + losses.text_to_image(*pairs)
        if p.loss_use_i2t:
            found["i2t"] = losses.image_to_people(images, texts, ids, p.loss_smoothing, warmth)
        if p.loss_use_infonce:
            found["infonce"] = losses.info_nce(images, own, 1 / warmth, true)
        return found

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms, each by its weight."""
        return sum(getattr(self.p, f"loss_weight_{name}") * term for name, term in terms.items())

    def logits(self, levels: Levels, texts: Tensor | None = None) -> Tensor | None:
        """(B, P) of a head that tells people apart, without margins; none if there is none.

        The ID head of the last level comes first, then ArcFace, CosFace, then the texts of all
        people, if given.
        """
        shaped = self._shaped(levels)
        if self.p.loss_use_id:
            name = self.p.loss_id_levels[-1]
            return _logits(self.id[name](shaped[name]))
        for name in ("arcface", "cosface"):
            if name in self.on:
                return _logits(getattr(self, name)(shaped[self.main]))
        if texts is not None and self.p.loss_use_i2t:
            images = levels["projected"]
            if self.p.loss_text_normalise:
                images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
            return images @ texts.T / self.p.loss_text_temperature
        return None

    def id_logits(self, levels: Levels) -> list[Tensor]:
        """(B, P) of each ID head, without margins, level by level."""
        shaped = self._shaped(levels)
        return [_logits(head(shaped[name])) for name, head in self.id.items()]

    def feature(self, levels: Levels) -> Tensor:
        """What is compared at test time: the levels of `feature` side by side, (B, F)."""
        shaped = self._shaped(levels)
        parts = [
            self.id[name](shaped[name]).after if self.p.feature_after_neck else shaped[name]
            for name in self.p.feature
        ]
        return torch.cat(parts, dim=1)


def reopen(
    p: LossParams, widths: dict[str, int], state: dict[str, Tensor], main: str = "projected"
) -> Objective:
    """The heads of a finished run, from the tensors that it kept; in eval mode."""
    of_people = ("id.", "arcface.", "cosface.", "center.")
    found = [t.shape[0] for name, t in state.items() if name.startswith(of_people) and t.ndim == 2]
    heads = Objective(p, widths, found[0] if found else 1, main)  # 1: then nothing has that shape
    heads.load_state_dict(state)
    return heads.eval()


class Embedder(nn.Module):
    """An encoder whose `encode_image` gives the feature that an objective compares.

    Its state holds, beside the weights, which feature that is, so that two that differ in nothing
    else are not taken for one another.
    """

    def __init__(self, encoder: nn.Module, objective: Objective):
        super().__init__()
        self.encoder, self.objective = encoder, objective
        kind = f"{objective.p.feature} {objective.p.feature_after_neck}".encode()
        self.register_buffer("kind", torch.frombuffer(bytearray(kind), dtype=torch.uint8))

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F)."""
        return self.objective.feature(towers.levels(self.encoder, images))


def embedder(encoder: nn.Module, objective: Objective) -> nn.Module:
    """What embeds images at test time; the encoder itself where the feature is its own."""
    p = objective.p
    own = p.feature == ["projected"] and not p.feature_after_neck and p.projection is None
    return encoder if own else Embedder(encoder, objective)


def _logits(given: Tensor | tuple) -> Tensor:
    return given if isinstance(given, Tensor) else given.logits


def _or_nothing(loss: object, features: Tensor, *rest: object) -> Tensor:
    """A loss over pairs of images; 0, with a gradient of 0, where the batch has no pair."""
    try:
        return loss(features, *rest)
    except ValueError:
        return features.sum() * 0
