"""Below which similarity nobody is named, chosen on val people at a stated FAR."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from clipfh_lib.data import splits
from clipfh_lib.evaluation import metrics, open_set, trials, verification
from clipfh_lib.evaluation.embeddings import Embeddings

SIZES = [2**power for power in range(21)]  # people in a gallery: 1 to a million


@dataclass(frozen=True)
class Threshold:
    """Thresholds of a gallery, and on what they rest.

    `far` is the share of false accepts that is allowed. For two images it is counted in pairs of
    two people. For a search it is counted in searches of people who are not enrolled, any of whose
    comparisons may go wrong (FPIR in `open_set`), so the threshold rises with the gallery.

    Attributes:
        far: 0..1.
        each: images of an enrolled person that the searches were reckoned with.
        sizes: numbers of people, rising.
        searches: threshold of a search in a gallery of each size.
        pair: threshold of two images.
        people: val people.
        probes: their images, each searched for in vain.
        pairs: of images of two val people.
        reason: why there is no threshold; then the other fields are empty.
    """

    far: float
    each: int = 1
    sizes: tuple[int, ...] = ()
    searches: tuple[float, ...] = ()
    pair: float = float("inf")
    people: int = 0
    probes: int = 0
    pairs: int = 0
    reason: str = ""

    def search(self, images: int) -> float | None:
        """The threshold of a search among so many images; none where there is no threshold.

        It is that of the next larger size, so after somebody was added or removed no more than
        `far` is expected. A gallery beyond the largest size has none.
        """
        fits = [size * self.each >= images for size in self.sizes]
        return self.searches[fits.index(True)] if any(fits) else None

    def table(self, images: int) -> pd.DataFrame:
        """What the thresholds are and on what they rest: a row for searches and one for pairs.

        A (!) marks what is too little: fewer searches or pairs than the rule of 30 asks for; more
        enrolled people than there are other val people, whose few kinds of hands must then stand
        for all, so that more false accepts come than were allowed.
        """
        if self.reason:
            return pd.DataFrame({"threshold of": ["nothing"], "because": [self.reason]})
        need = round(verification.ERRORS / self.far)
        people = -(-images // self.each)
        many = f"{people:,} people, {self.each} images each" + " (!)" * (people > self.people - 1)
        rests = [
            f"{count:,} {of} of {self.people} val people" + f", not {need:,} (!)" * (count < need)
            for count, of in ((self.probes, "searches"), (self.pairs, "pairs"))
        ]
        return pd.DataFrame(
            {
                "threshold of": ["a search", "two images"],
                "similarity": [self.search(images), self.pair],
                "false accepts": [f"{self.far:g} of searches in vain", f"{self.far:g} of pairs"],
                "gallery": [many, ""],
                "rests on": rests,
            }
        )

    def dump(self) -> dict:
        """Plain values for JSON, which `load` reads."""
        return asdict(self)


def load(content: dict) -> Threshold:
    """What `Threshold.dump` gave.

    Raises:
        TypeError: fields are missing or unknown.
    """
    lists = {name: tuple(content[name]) for name in ("sizes", "searches")}
    return Threshold(**content | lists)


def choose(
    found: Embeddings, data: splits.Prepared, far: float, enrolled: Sequence[str]
) -> Threshold:
    """Choose thresholds on the val people of a split.

    A search threshold is the lowest at which `open_set.expected_fpir` of the val people is at most
    `far`, in a gallery of those who are enrolled and in galleries of 1, 2, 4, ... people. Few val
    people show few kinds of hands: in a gallery of many more people FPIR comes out higher than what
    is expected, see there. Images within 10 file numbers of each other are not compared.

    Args:
        found: embeddings of the val images at least, with their table.
        data: the split, whose val people must not train (data.val: held_out).
        far: 0..1.
        enrolled: the person of each enrolled image; of the mean number of images, rounded up, a
            person is taken to have as many.
    """
    val = open_set.probes(*found, data.split, trials.POOLED, "cosine")
    if val.reason:
        return Threshold(far, reason=val.reason)
    pairs = verification.val_impostors(*found, data.split, trials.POOLED, "cosine").scores
    people = max(len(set(enrolled)), 1)
    each = max(-(-len(enrolled) // people), 1)
    sizes = sorted({*SIZES, people})
    searches = [open_set.threshold_at(val, size, far, each) for size in sizes]
    return Threshold(
        far=far,
        each=each,
        sizes=tuple(sizes),
        searches=tuple(searches),
        pair=metrics.threshold_at(pairs, far),
        people=len(val.first),
        probes=len(val.scores),
        pairs=len(pairs),
    )
