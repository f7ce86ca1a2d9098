"""Below which similarity nobody is named, chosen on val people at a stated FAR."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from clipfh_lib.data import splits
from clipfh_lib.evaluation import metrics, open_set, trials, verification
from clipfh_lib.evaluation.embeddings import Embeddings

SIZES = [2**power for power in range(21)]  # images in a gallery: 1 to a million


@dataclass(frozen=True)
class Threshold:
    """Thresholds of a gallery, and on what they rest.

    `far` is the share of false accepts that is allowed: of pairs of two people where two images
    are compared; of searches for people who are not enrolled where a gallery is searched. One of
    many comparisons can go wrong there, so that threshold rises with the gallery.

    Attributes:
        far: 0..1.
        sizes: numbers of enrolled images, rising.
        searches: threshold of a search among so many.
        search_pairs: impostor pairs that these rest on, of any two aspects.
        pair: threshold of two images.
        pairs: impostor pairs that it rests on, of one aspect each.
        people: val people, who make all these pairs.
        reason: why there is no threshold; then the other fields are empty.
    """

    far: float
    sizes: tuple[int, ...] = ()
    searches: tuple[float, ...] = ()
    search_pairs: int = 0
    pair: float = float("inf")
    pairs: int = 0
    people: int = 0
    reason: str = ""

    def search(self, images: int) -> float | None:
        """The threshold of a search among so many images; none where there is no threshold.

        It is that of the next larger size, so after somebody was added or removed no more than
        `far` is expected. A gallery beyond the largest size has none.
        """
        fits = [size >= images for size in self.sizes]
        return self.searches[fits.index(True)] if any(fits) else None

    def table(self, images: int) -> pd.DataFrame:
        """What the thresholds are and on what they rest: a row for searches and one for pairs.

        A (!) marks fewer pairs than the rule of 30 asks for. Pairs of few people are not
        independent, so that many of them still say little.
        """
        if self.reason:
            return pd.DataFrame({"threshold of": ["nothing"], "because": [self.reason]})
        return pd.DataFrame(
            [
                self._row(f"a search among {images:,}", self.search(images), "searches in vain")
                | self._rests(of_a_pair(self.far, images), self.search_pairs),
                self._row("two images", self.pair, "pairs") | self._rests(self.far, self.pairs),
            ]
        )

    def _row(self, what: str, similarity: float | None, of: str) -> dict[str, object]:
        said = f"{self.far:g} of {of}"
        return {"threshold of": what, "similarity": similarity, "false accepts": said}

    def _rests(self, far: float, pairs: int) -> dict[str, str]:
        need = verification.ERRORS / far
        return {
            "of one comparison": f"{far:.2g}",
            "rests on": f"{pairs:,} impostor pairs of {self.people} people",
            "rule of 30": f"{need:,.0f} pairs" + " (!)" * (pairs < need),
        }

    def dump(self) -> dict:
        """Plain values for JSON, which `load` reads."""
        return asdict(self)


def load(content: dict) -> Threshold:
    """What `Threshold.dump` gave.

    Raises:
        KeyError: a field is missing.
        TypeError: a field is unknown.
    """
    lists = {name: tuple(content[name]) for name in ("sizes", "searches")}
    return Threshold(**content | lists)


def of_a_pair(far: float, images: int) -> float:
    """FAR of one comparison, so that `images` of them together have `far`, were they independent.

    Solves 1 - (1 - x) ** images = far. That is cautious: some people are taken for others more
    easily, and the left side is concave in x, so that its mean over people is no more than its
    value at their mean x (Jensen), where who is enrolled is drawn at random. Of people who are
    unlike those whose pairs set the threshold it promises nothing.
    """
    return float(-np.expm1(np.log1p(-far) / max(images, 1)))


def choose(
    found: Embeddings,
    data: splits.Prepared,
    far: float,
    enrolled: Sequence[str],
    barred: str = "",
) -> Threshold:
    """Choose thresholds on the val people of a split.

    That of a search is the lowest at which `of_a_pair` of the pairs of two val people reach it, of
    any two aspects, as a gallery holds them. `open_set.threshold_at` is not taken here: it reckons
    with the val people as if nobody else were enrolled, and with ten of them named 16 % of drawn
    strangers where 10 % were allowed (12 draws; this one 10 %). That of two images is the lowest at
    which the share `far` of pairs of one aspect reach it, as in `verification`. Images within 10
    file numbers of each other are not compared.

    Args:
        found: embeddings of the val images at least, with their table.
        data: the split, whose val people must not train (data.val: held_out).
        far: 0..1.
        enrolled: the person of each enrolled image.
        barred: why these people may not choose, of `origin.no_threshold`: those whom the weights
            were trained to tell apart are taken for each other less often than strangers are.

    Returns:
        Thresholds, or the reason why there are none; then answers stay undecided.
    """
    val = open_set.probes(*found, data.split, trials.POOLED, "cosine")
    if reason := barred or val.reason:
        return Threshold(far, reason=reason)
    scores = val.scores[np.triu(val.scores > -np.inf, 1)]
    pairs = verification.val_impostors(*found, data.split, trials.POOLED, "cosine").scores
    sizes = sorted({*SIZES, max(len(enrolled), 1)})
    return Threshold(
        far=far,
        sizes=tuple(sizes),
        searches=tuple(metrics.threshold_at(scores, of_a_pair(far, size)) for size in sizes),
        search_pairs=len(scores),
        pair=metrics.threshold_at(pairs, far),
        pairs=len(pairs),
        people=len(val.first),
    )
