import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch.nn.functional import normalize

from clipfh_lib.models import losses
from clipfh_lib.models.losses import info_nce

SHAPES = [(8, 4, 2), (9, 16, 5), (64, 128, 16)]  # images, dimensions, people; (9, 16, 5): one alone


def drawn(rows, dimensions, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dimensions, generator=draw, dtype=torch.float64).requires_grad_()


def assert_same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    assert ours > 0.1  # they agree on a number, not on nothing
    slopes = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.abs().max() > 1e-5


# --- image and text, pairs ----------------------------------------------------------------------


@pytest.mark.parametrize("pairs, dimensions, scale", [(2, 3, 1.0), (9, 4, 14.3), (64, 128, 100.0)])
def test_info_nce_equals_open_clips_loss_in_value_and_gradients(pairs, dimensions, scale):
    draw = torch.Generator().manual_seed(pairs)
    images, texts = (
        torch.randn(pairs, dimensions, generator=draw, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    ours = info_nce(images, texts, factor)
    theirs = ClipLoss()(normalize(images, dim=1), normalize(texts, dim=1), factor)
    torch.testing.assert_close(ours, theirs)
    assert ours > 0.1  # they agree on a number, not on nothing
    for mine, other in zip(
        torch.autograd.grad(ours, (images, texts, factor)),
        torch.autograd.grad(theirs, (images, texts, factor)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)
        assert mine.abs().max() > 1e-5


def test_info_nce_is_the_closed_form_for_two_opposite_pairs():
    images = torch.tensor([[3.0, 0.0], [-0.5, 0.0]], dtype=torch.float64)  # any norm
    loss = info_nce(images, images * 7, scale=2.0)  # cosine 1 to the own text, -1 to the other
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-4)))
    assert info_nce(images, -images, 2.0).item() == pytest.approx(math.log(1 + math.exp(4)))


@pytest.mark.parametrize("images, texts", [((1, 4), (1, 4)), ((3, 4), (2, 4)), ((3, 4), (3, 5))])
def test_info_nce_refuses_what_is_no_batch_of_pairs(images, texts):
    with pytest.raises(ValueError, match="two or more pairs"):
        info_nce(torch.ones(images), torch.ones(texts), 1.0)


# --- images of one person -----------------------------------------------------------------------


@pytest.mark.parametrize("images, dimensions, people", SHAPES)
def test_supervised_contrastive_equals_pytorch_metric_learning(images, dimensions, people):
    embeddings = drawn(images, dimensions)
    pids = torch.arange(images) % people
    ours = losses.supervised_contrastive(embeddings, pids, temperature=0.1)
    assert_same(ours, SupConLoss(temperature=0.1)(embeddings, pids), embeddings)


def test_supervised_contrastive_is_the_closed_form_for_two_people_at_right_angles():
    embeddings = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss = losses.supervised_contrastive(embeddings, torch.tensor([7, 7, 3]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))  # the lone third has no row


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0, None])
@pytest.mark.parametrize("images, dimensions, people", SHAPES)
def test_batch_hard_triplet_equals_pytorch_metric_learning(images, dimensions, people, margin):
    embeddings = drawn(images, dimensions)
    pids = torch.arange(images) % people
    distance = LpDistance(normalize_embeddings=False)
    hardest = BatchHardMiner(distance=distance)(embeddings, pids)
    referee = TripletMarginLoss(
        margin=margin or 0.0, smooth_loss=margin is None, distance=distance, reducer=MeanReducer()
    )
    ours = losses.batch_hard_triplet(embeddings, pids, margin)
    assert_same(ours, referee(embeddings, pids, hardest), embeddings)


def test_batch_hard_triplet_is_worked_by_hand_on_a_line_with_a_lone_person():
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    pids = torch.tensor([4, 4, 4, 9])  # 9 is alone: it is a negative, no anchor
    apart = [3 - 7, 2 - 6, 3 - 4]  # farthest positive less nearest negative
    hard = losses.batch_hard_triplet(embeddings, pids, margin=1.5)
    assert hard.item() == pytest.approx((0 + 0 + 0.5) / 3)
    soft = losses.batch_hard_triplet(embeddings, pids, margin=None)
    assert soft.item() == pytest.approx(sum(math.log(1 + math.exp(a)) for a in apart) / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", [0.3, None])
def test_batch_hard_triplet_of_equal_images_has_its_value_and_finite_gradients(dtype, margin):
    point = torch.full((1, 8), 100.0)
    embeddings = torch.cat([point, point, point, point, point + 2]).to(dtype).requires_grad_()
    loss = losses.batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1, 1]), margin)
    apart = math.sqrt(8) * 2  # anchors 0, 1: nothing apart; 2, 3: the fifth is far; 4: both are
    expected = (2 * 0 + 2 * apart + 0) / 5 + 0.3
    if margin is None:
        expected = (3 * math.log(2) + 2 * math.log(1 + math.exp(apart))) / 5
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.abs().max() > 0.01


def test_equally_hard_images_share_the_pull():
    embeddings = torch.tensor([[0.0], [1.0], [1.0], [1.5], [1.5]], requires_grad=True)
    losses.batch_hard_triplet(embeddings, torch.tensor([4, 4, 4, 9, 9]), margin=1.0).backward()
    # the first's two positives are its equals, 1 less 1.5 apart; theirs are at 1 less 0.5; and
    # the last two are at 0 less 0.5: each image moves as its twin does
    assert embeddings.grad[1] == embeddings.grad[2] != 0
    assert embeddings.grad[3] == embeddings.grad[4] != 0


def test_batch_hard_triplet_keeps_small_distances_of_far_points():
    embeddings = torch.tensor([[1000.0], [1000.01], [1000.03], [1000.07]])
    loss = losses.batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.0)
    # x*x - 2*x*y + y*y is good to 0.06 here, larger than every distance squared
    assert loss.item() == pytest.approx((0 + 0 + 0.02 + 0) / 4, rel=0.02)


@pytest.mark.parametrize("loss", [losses.supervised_contrastive, losses.batch_hard_triplet])
def test_a_loss_over_images_refuses_a_batch_of_lone_people(loss):
    with pytest.raises(ValueError, match="in the batch"):
        loss(torch.eye(4), torch.arange(4))


def test_batch_hard_triplet_refuses_a_batch_of_one_person():
    with pytest.raises(ValueError, match="no triplet in the batch"):
        losses.batch_hard_triplet(torch.eye(4), torch.zeros(4))


# --- images and their people's texts ------------------------------------------------------------


def people_and_texts(images, dimensions, people):
    pids = (torch.arange(images) % people) * 10 + 3
    own = drawn(people, dimensions, seed=1)
    return drawn(images, dimensions), own[torch.arange(images) % people], pids


def written_out_image_to_text(images, texts, pids):
    total = 0.0
    for i in range(len(pids)):
        below = sum((images[i] @ texts[a]).exp() for a in range(len(pids)))
        total = total - ((images[i] @ texts[i]).exp() / below).log()
    return total / len(pids)


def written_out_text_to_image(images, texts, pids):
    total = 0.0
    for i in range(len(pids)):
        own = [p for p in range(len(pids)) if pids[p] == pids[i]]
        below = sum((images[a] @ texts[i]).exp() for a in range(len(pids)))
        total = total - sum(((images[p] @ texts[i]).exp() / below).log() for p in own) / len(own)
    return total / len(pids)


WRITTEN_OUT = [
    (losses.image_to_text, written_out_image_to_text),
    (losses.text_to_image, written_out_text_to_image),
]


@pytest.mark.parametrize("loss, written_out", WRITTEN_OUT)
@pytest.mark.parametrize("images, dimensions, people", [(1, 3, 1), (5, 3, 5), *SHAPES[:2]])
def test_clip_reids_first_stage_equals_its_equations_in_loops(
    images, dimensions, people, loss, written_out
):
    images, own, pids = (
        drawn(images, dimensions),
        drawn(people, dimensions, 1),
        torch.arange(images),
    )
    pids = pids % people
    texts = own[pids]  # one text for each person: the gradient that counts is its own
    ours, loop = loss(images, texts, pids), written_out(images, texts, pids)
    if len(pids) > 1:
        assert_same(ours, loop, (images, own))
    assert ours.item() == pytest.approx(loop.item(), abs=1e-12)  # one image alone: nothing, no NaN


@pytest.mark.parametrize("temperature", [0.7, 10.0])
@pytest.mark.parametrize("images, dimensions, people", SHAPES)
def test_clip_reids_first_stage_equals_pytorch_metric_learning_across_two_sets(
    images, dimensions, people, temperature
):
    images, texts, pids = people_and_texts(images, dimensions, people)
    texts = (texts + 0.1 * drawn(*texts.shape, seed=2)).detach().requires_grad_()  # texts differ
    products = DotProductSimilarity(normalize_embeddings=False)
    referee = SupConLoss(temperature, distance=products)
    ours = losses.image_to_text(images, texts, pids, temperature)
    theirs = referee(images, pids, ref_emb=texts, ref_labels=pids.clone())
    assert_same(ours, theirs, (images, texts))
    ours = losses.text_to_image(images, texts, pids, temperature)
    theirs = referee(texts, pids, ref_emb=images, ref_labels=pids.clone())
    assert_same(ours, theirs, (images, texts))


def test_clip_reids_first_stage_is_not_the_usual_supervised_contrastive_loss():
    images, texts, pids = people_and_texts(9, 16, 5)
    images, texts = normalize(images + texts, dim=1), normalize(texts, dim=1)
    i2t = losses.image_to_text(images, texts, pids, 0.1)
    t2i = losses.text_to_image(images, texts, pids, 0.1)
    assert abs(i2t - t2i) > 0.1  # nor the same both ways
    among_images = losses.supervised_contrastive(images, pids, 0.1)
    among_all = losses.supervised_contrastive(torch.cat([images, texts]), pids.repeat(2), 0.1)
    without_own = SupConLoss(0.1)(images, pids, ref_emb=texts, ref_labels=pids)  # no diagonal
    for usual in (among_images, among_all, without_own):
        assert min(abs(i2t - usual), abs(t2i - usual), abs((i2t + t2i) / 2 - usual)) > 0.1
    lone = torch.arange(9)
    assert losses.image_to_text(images, texts, lone) > 0.1
    with pytest.raises(ValueError):  # where the usual loss has nothing to pull together
        losses.supervised_contrastive(images, lone)


@pytest.mark.parametrize("people", [9, 5])
def test_clip_reids_first_stage_is_clips_own_loss_where_each_person_has_one_text(people):
    images, own, pids = drawn(9, 16), drawn(people, 16, seed=1), torch.arange(9) % people
    units = normalize(images, dim=1), normalize(own, dim=1)[pids], pids
    both = losses.image_to_text(*units, 0.1) + losses.text_to_image(*units, 0.1)
    assert_same(both / 2, info_nce(images, own[pids], 10.0), (images, own))
    other = normalize(drawn(9, 16, seed=2), dim=1)  # another text with each image: no longer
    both = losses.image_to_text(units[0], other, pids, 0.1)
    both = both + losses.text_to_image(units[0], other, pids, 0.1)
    assert (abs(both / 2 - info_nce(images, other, 10.0)) > 0.05) == (people < 9)


@pytest.mark.parametrize("loss", [losses.image_to_text, losses.text_to_image])
@pytest.mark.parametrize("people, images", [(1, 5), (3, 4)])
def test_clip_reids_first_stage_falls_to_the_logarithm_of_a_persons_images(loss, people, images):
    own = torch.eye(people, dtype=torch.float64).repeat_interleave(images, dim=0)
    pids = torch.arange(people).repeat_interleave(images)
    assert loss(50 * own, own, pids).item() == pytest.approx(math.log(images))


@pytest.mark.parametrize("loss", [losses.image_to_text, losses.text_to_image])
@pytest.mark.parametrize("texts, pids", [((2, 5), 3), ((3, 4), 3), ((3, 5), 1), ((3, 5), 4)])
def test_clip_reids_first_stage_refuses_rows_that_do_not_belong_together(loss, texts, pids):
    with pytest.raises(ValueError, match="in each row"):
        loss(torch.ones(3, 5), torch.ones(texts), torch.arange(pids))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("images, dimensions, people", [(1, 3, 2), *SHAPES])
def test_image_to_people_equals_its_equation_in_loops(images, dimensions, people, smoothing):
    images, texts = drawn(images, dimensions), drawn(people, dimensions, seed=1)
    targets = (torch.arange(len(images)) * 2 + 1) % people
    loop = 0.0
    for image, target in zip(images, targets, strict=True):
        below = sum((image @ text / 2).exp() for text in texts)
        for k in range(people):
            wanted = smoothing / people + (1 - smoothing) * (k == target)
            loop = loop - wanted * ((image @ texts[k] / 2).exp() / below).log()
    ours = losses.image_to_people(images, texts, targets, smoothing, temperature=2.0)
    assert_same(ours, loop / len(images), (images, texts))


def test_image_to_people_by_default_has_the_papers_smoothing_and_raw_products():
    images, texts = torch.eye(2, dtype=torch.float64) * 3, torch.eye(2, dtype=torch.float64) * 2
    loss = losses.image_to_people(images, texts, torch.tensor([0, 1]))
    own, other = math.log(1 + math.exp(-6)), math.log(1 + math.exp(6))
    assert loss.item() == pytest.approx(0.95 * own + 0.05 * other)


# --- all of them --------------------------------------------------------------------------------

ALL = {
    "supervised_contrastive": lambda e, t, p: losses.supervised_contrastive(e, p),
    "batch_hard_triplet": lambda e, t, p: losses.batch_hard_triplet(e, p, None),
    "image_to_text": losses.image_to_text,
    "text_to_image": losses.text_to_image,
    "image_to_people": losses.image_to_people,
    "info_nce": lambda e, t, p: losses.info_nce(e, t, 10.0),
}


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(9)), shift=st.integers(0, 1000))
def test_the_order_of_a_batch_and_the_names_of_its_people_change_nothing(name, order, shift):
    images, texts, pids = people_and_texts(9, 16, 5)
    order = torch.tensor(order)
    before = ALL[name](images, texts, pids % 9)  # mod 9: 0..8, rows of the texts as well
    renamed = order.argsort()[pids % 9] if name == "image_to_people" else pids % 9 * 7 + shift
    after = ALL[name](images[order], texts[order], renamed[order])
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(*(torch.autograd.grad(x, images)[0] for x in (before, after)))


@pytest.mark.parametrize("name", ALL)
def test_equal_images_give_finite_gradients(name):
    images = torch.ones(6, 8, requires_grad=True)
    loss = ALL[name](images, torch.ones(6, 8), torch.tensor([0, 0, 1, 1, 1, 2]))
    loss.backward()
    assert loss > 0.1
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_autocast_does_not_round_the_similarities(name):
    images, texts, pids = (x.detach() for x in people_and_texts(64, 128, 16))
    images, texts, pids = images.float(), texts.float(), pids // 10
    exact = ALL[name](images.double(), texts.double(), pids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ALL[name](images, texts, pids)
    assert mixed.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_embeddings_in_half_precision_are_compared_in_full(name, dtype):
    images, texts, pids = (x.detach() for x in people_and_texts(64, 128, 16))
    images, texts, pids = images.to(dtype), texts.to(dtype), pids // 10
    exact = ALL[name](images.double(), texts.double(), pids)
    half = ALL[name](images, texts, pids)
    assert half.item() == pytest.approx(exact.item(), rel=1e-5)
    assert half.dtype == torch.float32
