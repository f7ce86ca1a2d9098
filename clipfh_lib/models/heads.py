"""What owns parameters beside a backbone; every width is that of the features that come in.

`Classifier`, `ArcFace` and `CosFace` are called alike, with features and targets (a person's index
0..P-1), and give logits for `F.cross_entropy`, whose `label_smoothing` serves them all.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Linear):
    """Linear map to one logit per person, without bias.

    The small normal start of Luo et al., Bag of Tricks for person re-identification, CVPRW 2019
    (arXiv:1903.07071): all people start equally likely, the first loss is ln P.
    """

    def __init__(self, width: int, people: int):
        super().__init__(width, people, bias=False)
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        """(B, D) -> (B, P); `targets` changes nothing: it is taken as ArcFace takes it."""
        return super().forward(features)


class ArcFace(nn.Module):
    """Scaled cosines to one direction per person, the angle to the own one made larger by a margin.

    Deng et al., ArcFace, CVPR 2019, eq. 3 (arXiv:1801.07698): scale * cos(theta + margin) for the
    own person, scale * cos(theta) for the others. Where theta + margin passes pi, cos would rise
    again and reward a worse image; from there the own logit is
    scale * (cos(theta) - margin * sin(margin)), which is lower still and goes on falling. There is
    no easy margin: the margin also holds for theta above pi / 2.

    Args:
        width: of the features, D.
        people: P.
        scale: of the logits, above 0.
        margin: in radians, 0 or above and below pi; 0.5 are 28.6 degrees.

    Raises:
        ValueError: a scale or margin out of its range.
    """

    def __init__(self, width: int, people: int, scale: float = 30.0, margin: float = 0.5):
        super().__init__()
        if not (scale > 0 and 0 <= margin < math.pi):
            raise ValueError(f"scale above 0, margin 0..pi in radians; got {scale}, {margin}")
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(people, width)))

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        """(B, D), any norm, and (B,) -> (B, P) logits; without targets none gets the margin."""
        unit, directions = _units(features), _units(self.weight)
        with torch.autocast(features.device.type, enabled=False):
            cosine = unit @ directions.T
        if targets is None:
            return self.scale * cosine
        own = directions[targets]  # (B, D)
        # Kahan's angle: exact near 0 and pi, where the slope of arccos is infinite.
        norm = torch.linalg.vector_norm
        theta = 2 * torch.atan2(norm(unit - own, dim=1), norm(unit + own, dim=1))
        beyond = theta.cos() - self.margin * math.sin(self.margin)
        held = torch.where(theta + self.margin <= math.pi, (theta + self.margin).cos(), beyond)
        return self.scale * cosine.scatter(1, targets[:, None], held[:, None])


class CosFace(nn.Module):
    """Scaled cosines to one direction per person, the own one made smaller by a margin.

    Wang et al., CosFace, CVPR 2018, eq. 4 (arXiv:1801.09414): scale * (cos(theta) - margin) for
    the own person, scale * cos(theta) for the others.

    Args:
        width: of the features, D.
        people: P.
        scale: of the logits, above 0.
        margin: of the cosine, 0 or above and below 2.

    Raises:
        ValueError: a scale or margin out of its range.
    """

    def __init__(self, width: int, people: int, scale: float = 30.0, margin: float = 0.35):
        super().__init__()
        if not (scale > 0 and 0 <= margin < 2):
            raise ValueError(f"scale above 0, margin 0..2 of the cosine; got {scale}, {margin}")
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(people, width)))

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        """(B, D), any norm, and (B,) -> (B, P) logits; without targets none gets the margin."""
        with torch.autocast(features.device.type, enabled=False):
            cosine = _units(features) @ _units(self.weight).T
        if targets is not None:
            cosine = cosine - self.margin * F.one_hot(targets, cosine.shape[1])
        return self.scale * cosine


class Neck(NamedTuple):
    """What a BNNeck gives: features (B, D) before and after its norm, logits (B, P)."""

    before: Tensor
    after: Tensor
    logits: Tensor


class BNNeck(nn.Module):
    """Batch norm between the features for distances and those for the classifier.

    Luo et al., Bag of Tricks for person re-identification, CVPRW 2019, section on BNNeck
    (arXiv:1903.07071): triplet and centre loss take the features before the norm, the ID loss the
    logits of those after it. The norm's bias stays 0, so that the planes of a bias-free classifier
    pass through the middle of the features.

    Args:
        width: of the features, D.
        classifier: Classifier, ArcFace or CosFace of that width.

    Raises:
        ValueError: by the norm, in training, for a batch of one image.
    """

    def __init__(self, width: int, classifier: Classifier | ArcFace | CosFace):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)
        self.classifier = classifier

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Neck:
        """(B, D), and (B,) for a margin -> features before, after, logits."""
        after = self.norm(features)
        return Neck(features, after, self.classifier(after, targets))


class Centres(nn.Module):
    """Mean squared distance of each image to the centre of its person, which is learned.

    Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016,
    eq. 2, as a mean over the batch and without its factor 1/2, as Luo et al. weigh it by 0.0005.
    Give the centres an optimiser group, and a rate, of their own. The loss's weight scales their
    gradient too: for Adam that is nothing, for SGD the rate must be as much larger.

    Args:
        width: of the features, D.
        people: P.
    """

    def __init__(self, width: int, people: int):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, width))

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """(B, D), (B,) -> scalar, a squared distance."""
        return (features - self.centres[targets]).square().sum(dim=1).mean()


class Projection(nn.Linear):
    """Linear map of features to another width, without bias.

    Orthogonal at the start: to a greater width all distances are kept, to a smaller one it is a
    random projection.
    """

    def __init__(self, width: int, out: int):
        super().__init__(width, out, bias=False)
        nn.init.orthogonal_(self.weight)


def _units(vectors: Tensor) -> Tensor:
    """(N, D) -> unit length, in float32 or better: the scale makes bf16's 0.004 a 0.1 of logit."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)
