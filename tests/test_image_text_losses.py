import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import NTXentLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch.nn.functional import normalize

from clipfh_lib import params
from clipfh_lib.models import image_text_losses, losses
from clipfh_lib.models.image_text_losses import contrastive, info_nce, triplet

ALL = {
    "info_nce": info_nce,
    "hardest": triplet,
    "semi_hard": lambda *batch: triplet(*batch, negatives="semi_hard"),
    "contrastive": contrastive,
}
each_loss = pytest.mark.parametrize("name", ALL)


def drawn(rows, dimensions=5, seed=0):
    """Images near their texts, so that hinges are some of them open and some of them closed."""
    draw = torch.Generator().manual_seed(seed)
    texts = torch.randn(rows, dimensions, generator=draw, dtype=torch.float64)
    noise = torch.randn(rows, dimensions, generator=draw, dtype=torch.float64)
    return (texts + noise).requires_grad_(), texts.requires_grad_()


def assert_same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    assert ours > 0.05  # they agree on a number, not on nothing
    slopes = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.abs().max() > 1e-5


# --- told from their definitions, one number at a time ------------------------------------------


def anchors(images, texts):
    """(cosines to all others, own place) of every anchor: the images, then the texts."""
    cosines = normalize(images, dim=1) @ normalize(texts, dim=1).T
    return [(row, at) for each in (cosines, cosines.T) for at, row in enumerate(each)]


def plain_info_nce(images, texts, ids, temperature=0.07):
    found = []
    for row, at in anchors(images, texts):
        scores = [value / temperature for value in row]
        wrong = [scores[n] for n in range(len(ids)) if ids[n] != ids[at]]
        right = [scores[p] for p in range(len(ids)) if ids[p] == ids[at]]
        terms = [torch.stack([p, *wrong]).logsumexp(dim=0) - p for p in right]
        found.append(torch.stack(terms).mean())
    return torch.stack(found).mean()


def plain_triplet(images, texts, ids, margin=0.5, negatives="hardest"):
    found = []
    for row, at in anchors(images, texts):
        wrong = sorted((row[n] for n in range(len(ids)) if ids[n] != ids[at]), reverse=True)
        if negatives == "semi_hard" and wrong:
            wrong = [value for value in wrong if value < row[at]] or wrong[-1:]
        found.append((margin - row[at] + wrong[0]).clamp(min=0) if wrong else 0 * row[at])
    return torch.stack(found).sum() / len(ids)


def plain_contrastive(images, texts, ids, temperature=0.07, margin=0.5, count=3):
    found = []
    for row, at in anchors(images, texts):
        wrong = sorted((row[n] for n in range(len(ids)) if ids[n] != ids[at]), reverse=True)
        hinges = [(margin - row[at] + value).clamp(min=0) for value in wrong[:count]]
        found.append(torch.stack(hinges).mean() if hinges else 0 * row[at])
    return plain_info_nce(images, texts, ids, temperature) + torch.stack(found).mean()


PLAIN = {
    "info_nce": plain_info_nce,
    "hardest": plain_triplet,
    "semi_hard": lambda *batch: plain_triplet(*batch, negatives="semi_hard"),
    "contrastive": plain_contrastive,
}
GROUPS = st.lists(st.integers(0, 3), min_size=2, max_size=9)


@each_loss
@settings(max_examples=30, deadline=None)
@given(ids=GROUPS, seed=st.integers(0, 99))
def test_a_loss_is_what_its_definition_says_in_value_and_gradients(name, ids, seed):
    images, texts = drawn(len(ids), seed=seed)
    ours, theirs = ALL[name](images, texts, torch.tensor(ids)), PLAIN[name](images, texts, ids)
    torch.testing.assert_close(ours, theirs)
    slopes = (torch.autograd.grad(loss, (images, texts)) for loss in (ours, theirs))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("margin, count", [*product([0.0, 0.9], [1, 2, 50])])
def test_margin_and_count_decide_which_hinges_are_open(margin, count):
    images, texts = drawn(9)
    ids = [0, 1, 2, 3, 4, 5, 6, 6, 6]
    batch = images, texts, torch.tensor(ids)
    theirs = plain_contrastive(images, texts, ids, 0.2, margin, count)
    assert_same(contrastive(*batch, 0.2, margin, count), theirs, (images, texts))
    others = plain_triplet(images, texts, ids, margin)
    torch.testing.assert_close(triplet(*batch, margin), others)


# --- against others -----------------------------------------------------------------------------


@pytest.mark.parametrize("pairs, temperature", [(2, 1.0), (9, 0.07), (64, 0.01)])
def test_info_nce_with_distinct_ids_is_the_one_of_pairs(pairs, temperature):
    images, texts = drawn(pairs, 8)
    ours = info_nce(images, texts, torch.arange(pairs) * 7, temperature)
    torch.testing.assert_close(ours, losses.info_nce(images, texts, 1 / temperature))
    assert ours > 1e-3


def test_info_nce_equals_pytorch_metric_learning_where_ids_are_equally_frequent():
    images, texts = drawn(12)
    ids = torch.arange(12) % 4
    one = NTXentLoss(temperature=0.1)
    ways = [(images, texts), (texts, images)]
    theirs = sum(one(a, ids, ref_emb=b, ref_labels=ids.clone()) for a, b in ways) / 2
    assert_same(info_nce(images, texts, ids, 0.1), theirs, (images, texts))


def test_the_hardest_triplets_equal_pytorch_metric_learning():
    images, texts = drawn(12)
    ids = torch.arange(12)
    near = CosineSimilarity()
    mine = BatchHardMiner(distance=near)
    one = TripletMarginLoss(margin=0.5, distance=near, reducer=MeanReducer())
    theirs = 0
    for a, b in [(images, texts), (texts, images)]:
        others = {"ref_emb": b, "ref_labels": ids.clone()}  # of the same object it drops own pairs
        theirs = theirs + one(a, ids, mine(a, ids, **others), **others)
    assert_same(triplet(images, texts, ids), theirs, (images, texts))


# --- closed forms and edges ---------------------------------------------------------------------


def test_two_opposite_pairs_give_the_closed_forms():
    images = torch.tensor([[3.0, 0.0], [-0.5, 0.0]], dtype=torch.float64)  # any norm
    ids, right, wrong = torch.tensor([4, 9]), images * 7, -images
    told = math.log(1 + math.exp(-4))  # cosine 1 to the own text, -1 to the other, t = 0.5
    assert info_nce(images, right, ids, 0.5).item() == pytest.approx(told)
    assert triplet(images, right, ids).item() == 0
    assert triplet(images, wrong, ids).item() == 5.0  # 0.5 + 1 + 1, both ways
    lost = math.log(1 + math.exp(4))
    assert contrastive(images, wrong, ids, 0.5).item() == pytest.approx(lost + 2.5)


def with_cosines(*rows):
    """Images and texts that have these cosines, a row an image."""
    wanted = torch.tensor(rows, dtype=torch.float64)
    rest = (1 - wanted.square().sum(dim=0, keepdim=True)).sqrt()
    images = torch.eye(len(wanted), len(wanted) + 1, dtype=torch.float64)
    return images, torch.cat([wanted, rest]).T


def test_semi_hard_takes_the_next_beyond_the_own_text_and_else_the_farthest():
    batch = with_cosines([0.5, 0.6, 0.3], [0.2, 0.4, 0.3], [0.1, 0.5, 0.2])
    ids = torch.arange(3)
    to_texts, to_images = 0.3 + 0.4 + 0.4, 0.2 + 0.6 + 0.6  # the last two: all are more similar
    found = triplet(*batch, ids, negatives="semi_hard").item()
    assert found == pytest.approx((to_texts + to_images) / 3)
    hardest = 0.6 + 0.4 + 0.8 + 0.2 + 0.7 + 0.6
    assert triplet(*batch, ids).item() == pytest.approx(hardest / 3)


@each_loss
def test_a_batch_of_one_group_has_nothing_to_tell_apart(name):
    images, texts = drawn(4)
    loss = ALL[name](images, texts, torch.tensor([3, 3, 3, 3]))
    assert loss.item() == 0
    assert all((slope == 0).all() for slope in torch.autograd.grad(loss, (images, texts)))
    assert ALL[name](images[:1], texts[:1], torch.tensor([0])).item() == 0


@each_loss
def test_true_matches_do_not_push_each_other_away(name):
    """That an image is more like a match's text costs nothing, unless that is none."""

    def cost(cosine, ids):
        return ALL[name](*with_cosines([0.5, cosine], [0.1, 0.6]), torch.tensor(ids))

    three = [ALL[name](*with_cosines([0.5, c, 0.2], [0.1, 0.6, 0.2], [0.1, 0.2, 0.4]),
                       torch.tensor([0, 0, 1])) for c in (0.2, 0.4)]  # fmt: skip
    assert three[1] <= three[0] and three[0] > 0.1
    assert cost(0.4, [0, 1]) > cost(0.2, [0, 1]) + 1e-3


@each_loss
def test_order_and_names_of_ids_do_not_matter(name):
    images, texts = drawn(9)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 1])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    first = ALL[name](images, texts, ids)
    torch.testing.assert_close(ALL[name](images[order], texts[order], 100 - ids[order]), first)
    torch.testing.assert_close(ALL[name](texts, images, ids), first)  # both ways alike
    torch.testing.assert_close(ALL[name](images * 9, texts / 3, ids), first)  # any norm


@each_loss
def test_a_loss_under_autocast_is_as_fine_as_float32(name):
    images, texts = (each.detach().float() for each in drawn(32, 64))
    ids = torch.arange(32) // 2
    plain = ALL[name](images, texts, ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ALL[name](images, texts, ids)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)
    halves = ALL[name](images.bfloat16(), texts.bfloat16(), ids)
    assert halves.dtype == torch.float32 and abs(halves - plain) < 0.05 * plain


@each_loss
@pytest.mark.parametrize("shapes", [((3, 4), (2, 4), 3), ((3, 4), (3, 5), 3), ((3, 4), (3, 4), 2)])
def test_a_loss_refuses_rows_that_are_no_pairs(name, shapes):
    images, texts, ids = shapes
    with pytest.raises(ValueError, match="an image, a text and an id in each row"):
        ALL[name](torch.ones(images), torch.ones(texts), torch.arange(ids))


def test_other_negatives_than_the_two_are_refused():
    with pytest.raises(ValueError, match="hardest or semi_hard, not 'easy'"):
        triplet(torch.ones(2, 2), torch.ones(2, 2), torch.arange(2), negatives="easy")


@pytest.mark.parametrize(
    "own, expected",
    [
        ({"loss": "info_nce", "temperature": 0.2}, lambda *b: info_nce(*b, 0.2)),
        ({"loss": "triplet", "margin": 0.1}, lambda *b: triplet(*b, 0.1)),
        (
            {"loss": "triplet", "triplets": "semi_hard"},
            lambda *b: triplet(*b, 0.5, "semi_hard"),
        ),
        (
            {"loss": "contrastive", "temperature": 0.2, "margin": 0.1, "negatives.count": 1},
            lambda *b: contrastive(*b, 0.2, 0.1, 1),
        ),
    ],
)
def test_a_recipe_chooses_its_loss_and_what_that_is_told(own, expected):
    p = params.read("text_to_image", "demo", "vit_b16", "default", 0, own)
    images, texts = drawn(9)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 1])
    found = image_text_losses.of(p)(images, texts, ids)
    torch.testing.assert_close(found, expected(images, texts, ids))
    assert found > 0.1
