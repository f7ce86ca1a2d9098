import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch.nn.functional import cross_entropy, linear, normalize

from clipfh_lib.models.heads import ArcFace, BNNeck, Centres, Classifier, CosFace, Projection

SHAPES = [(8, 4, 2), (9, 16, 5), (64, 128, 16)]  # images, dimensions, people; (9, 16, 5): one alone
MARGINS = [(ArcFace, ArcFaceLoss), (CosFace, CosFaceLoss)]


def drawn(rows, dimensions, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dimensions, generator=draw, dtype=torch.float64).requires_grad_()


def made(head, width, people, *rest, **named):
    torch.manual_seed(people)
    return head(width, people, *rest, **named).double()


# --- classifier ---------------------------------------------------------------------------------


def test_the_classifier_starts_with_people_equally_likely_and_has_no_bias():
    classifier = made(Classifier, 256, 50)
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    assert 0.0009 < classifier.weight.std() < 0.0011
    features, targets = drawn(64, 256), torch.arange(64) % 50
    logits = classifier(features, targets)
    torch.testing.assert_close(logits, features @ classifier.weight.T)
    assert cross_entropy(logits, targets).item() == pytest.approx(math.log(50), abs=0.02)
    assert torch.equal(logits, classifier(features))


# --- margins ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale, margin", [(1.0, 0.1), (20.0, 0.3), (64.0, 1.2)])
@pytest.mark.parametrize("images, dimensions, people", SHAPES)
@pytest.mark.parametrize("head, referee", MARGINS)
def test_margins_equal_pytorch_metric_learning(
    head, referee, images, dimensions, people, scale, margin
):
    features, targets = drawn(images, dimensions), torch.arange(images) % people
    ours = made(head, dimensions, people, scale, margin)
    its = math.degrees(margin) if head is ArcFace else margin  # its ArcFace takes degrees
    theirs = referee(people, dimensions, margin=its, scale=scale)
    theirs.W.data = ours.weight.detach().T.clone()
    mine, other = cross_entropy(ours(features, targets), targets), theirs(features, targets)
    torch.testing.assert_close(mine, other)
    assert mine > 0.1  # they agree on a number, not on nothing
    slopes = torch.autograd.grad(mine, (features, ours.weight))
    expected = torch.autograd.grad(other, (features, theirs.W))
    torch.testing.assert_close(slopes[0], expected[0])
    torch.testing.assert_close(slopes[1], expected[1].T)
    assert min(slope.abs().max() for slope in slopes) > 1e-5


@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_without_a_margin_or_without_targets_the_logits_are_scaled_cosines(head):
    features, targets = drawn(9, 16), torch.arange(9) % 5
    none, some = made(head, 16, 5, 20.0, 0.0), made(head, 16, 5, 20.0, 0.4)
    plain = 20 * linear(normalize(features, dim=1), normalize(none.weight, dim=1))
    losses = [cross_entropy(logits, targets) for logits in (none(features, targets), plain)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, features, retain_graph=True) for x in losses)
    )
    torch.testing.assert_close(some(features), plain)  # the same start by the same seed
    others = torch.ones(9, 5, dtype=torch.bool).scatter(1, targets[:, None], False)
    torch.testing.assert_close(some(features, targets)[others], plain[others])
    assert (some(features, targets)[~others] < plain[~others] - 0.1).all()


def at_angles(theta, margin):
    """Logit of the own person, unscaled, and its slope, for features at angles to it."""
    head = ArcFace(2, 2, scale=1.0, margin=margin).double()
    head.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    theta = torch.as_tensor(theta, dtype=torch.float64).requires_grad_()
    features = 5 * torch.stack([theta.cos(), theta.sin()], dim=1)
    own = head(features, torch.zeros(len(theta), dtype=torch.int64))[:, 0]
    return own, torch.autograd.grad(own.sum(), theta)[0]


@pytest.mark.parametrize("margin", [0.3, 0.5, 1.5])
def test_arcface_adds_radians_and_goes_on_falling_beyond_pi(margin):
    theta = torch.linspace(0.001, math.pi - 0.001, 500, dtype=torch.float64)
    own, slope = at_angles(theta, margin)
    before = theta + margin <= math.pi
    torch.testing.assert_close(own[before], torch.cos(theta + margin)[before])
    torch.testing.assert_close(slope[before], -torch.sin(theta + margin)[before])
    low = torch.cos(theta) - margin * math.sin(margin)
    torch.testing.assert_close(own[~before], low[~before])
    torch.testing.assert_close(slope[~before], -torch.sin(theta)[~before])
    assert (own.diff() < 0).all()
    assert before.sum() > 200 and (~before).sum() > 40


def test_arcface_keeps_its_slope_next_to_the_own_direction_and_opposite_to_it():
    _, slope = at_angles([1e-9, 1e-6, math.pi - 1e-6], 0.5)
    expected = [-math.sin(0.5 + 1e-9), -math.sin(0.5 + 1e-6), -math.sin(1e-6)]
    torch.testing.assert_close(slope, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_features_that_are_equal_or_on_their_own_direction_give_finite_gradients(head, dtype):
    margin = head(8, 3, 30.0, 0.5).to(dtype)
    on, opposite = 7 * margin.weight.detach()[:1], -2 * margin.weight.detach()[:1]
    features = torch.cat([on, on, opposite, torch.ones(2, 8)]).to(dtype).requires_grad_()
    loss = cross_entropy(margin(features, torch.tensor([0, 0, 0, 1, 1])), torch.zeros(5).long())
    loss.backward()
    assert loss > 0.1
    for slope in (features.grad, margin.weight.grad):
        assert slope.isfinite().all()
        assert 1e-3 < slope.abs().max() < 100


@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_autocast_neither_rounds_the_cosines_nor_the_weights(head):
    torch.manual_seed(0)
    margin, features, targets = (
        head(128, 16, 64.0, 0.3),
        torch.randn(64, 128),
        torch.arange(64) % 16,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = margin(features, targets)
    torch.testing.assert_close(mixed, margin(features, targets))
    assert margin(features.bfloat16(), targets).dtype == margin.weight.dtype == torch.float32


@pytest.mark.parametrize("scale, margin", [(0.0, 0.3), (-1.0, 0.3), (30.0, -0.1), (30.0, 28.6)])
@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_margins_refuse_degrees_and_negative_values(head, scale, margin):
    with pytest.raises(ValueError, match="scale above 0, margin 0"):
        head(4, 2, scale, margin)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(9)), size=st.floats(0.01, 1000))
@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_the_order_of_a_batch_and_the_size_of_its_features_change_no_margin(head, order, size):
    margin, features, targets = made(head, 16, 5), drawn(9, 16), torch.arange(9) % 5
    again = margin(size * features[order], targets[torch.tensor(order)])
    torch.testing.assert_close(again, margin(features, targets)[order])


# --- neck ---------------------------------------------------------------------------------------


def test_the_neck_gives_features_before_and_after_and_the_classifiers_logits():
    neck = BNNeck(16, made(Classifier, 16, 5)).double()
    features = drawn(9, 16)
    found = neck(features, torch.arange(9) % 5)
    assert found.before is features
    spread = features.var(dim=0, unbiased=False)
    torch.testing.assert_close(found.after, (features - features.mean(0)) / (spread + 1e-5).sqrt())
    torch.testing.assert_close(found.logits, found.after @ neck.classifier.weight.T)


@pytest.mark.parametrize("head", [ArcFace, CosFace])
def test_the_neck_hands_targets_to_a_margin(head):
    neck, targets = BNNeck(16, made(head, 16, 5)).double(), torch.arange(9) % 5
    found = neck(drawn(9, 16), targets)
    torch.testing.assert_close(found.logits, neck.classifier(found.after, targets))
    assert not torch.allclose(found.logits, neck.classifier(found.after))


@pytest.mark.parametrize("head", [Classifier, ArcFace, CosFace])
def test_all_of_the_neck_moves_in_a_step_but_its_bias(head):
    neck = BNNeck(16, made(head, 16, 5)).double()
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    # all parameters on purpose, and with decay: a frozen one has no gradient and is left alone
    optimizer = torch.optim.AdamW(neck.parameters(), lr=0.1, weight_decay=0.1)
    targets = torch.arange(9) % 5
    for seed in range(3):
        optimizer.zero_grad()
        cross_entropy(neck(drawn(9, 16, seed) + 1, targets).logits, targets).backward()
        optimizer.step()
    same = {name for name, value in neck.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"norm.bias"}
    assert not neck.norm.bias.any() and not neck.norm.bias.requires_grad


def test_the_necks_statistics_follow_in_training_and_stand_in_evaluation():
    neck = BNNeck(16, made(Classifier, 16, 5)).double()
    features = drawn(32, 16).detach() * 3 + 2
    for _ in range(300):
        neck(features)
    torch.testing.assert_close(neck.norm.running_mean, features.mean(0))
    torch.testing.assert_close(neck.norm.running_var, features.var(0))
    neck.eval()
    one = neck(features[:1] + 10)  # one image alone has its features too
    torch.testing.assert_close(neck.norm.running_mean, features.mean(0))
    middle = (features[:1] + 10 - features.mean(0)) / (features.var(0) + 1e-5).sqrt()
    torch.testing.assert_close(one.after, middle)
    with pytest.raises(ValueError, match="more than 1 value"):
        neck.train()(features[:1])


# --- centres and projection ---------------------------------------------------------------------


@pytest.mark.parametrize("images, dimensions, people", SHAPES)
def test_centres_equal_their_equation_in_loops(images, dimensions, people):
    centres = made(Centres, dimensions, people + 1)  # one person is not in the batch
    features, targets = drawn(images, dimensions), torch.arange(images) % people
    total = 0.0
    for feature, target in zip(features, targets, strict=True):
        for d in range(dimensions):
            total = total + (feature[d] - centres.centres[target, d]) ** 2
    ours, inputs = centres(features, targets), (features, centres.centres)
    torch.testing.assert_close(ours, total / images)
    assert ours > 0.1
    slopes = torch.autograd.grad(ours, inputs)
    torch.testing.assert_close(slopes, torch.autograd.grad(total / images, inputs))
    assert not slopes[1][people].any() and slopes[1][:people].any(dim=1).all()


def test_a_centre_moves_at_its_own_rate_to_the_middle_of_its_person():
    centres, encoder = made(Centres, 4, 2), torch.nn.Linear(4, 4).double()
    features, targets = drawn(6, 4).detach(), torch.tensor([0, 0, 0, 0, 1, 1])
    start, weights = centres.centres.detach().clone(), encoder.weight.detach().clone()
    rates = [{"params": encoder.parameters(), "lr": 0.0}, {"params": centres.parameters()}]
    optimizer = torch.optim.SGD(rates, lr=0.25)
    centres(encoder(features), targets).backward()
    optimizer.step()
    moved = encoder(features).detach()
    for person, share in ((0, 4 / 6), (1, 2 / 6)):  # of the batch; 0.25 x 2 of the way each
        way = moved[targets == person].mean(0) - start[person]
        torch.testing.assert_close(
            centres.centres[person].detach(), start[person] + share / 2 * way
        )
    assert torch.equal(encoder.weight, weights)


def test_centres_of_a_mixed_precision_batch_are_measured_in_full():
    centres = Centres(8, 2)
    centres.centres.data.fill_(100.25)  # bf16 would round it to 100
    features = torch.full((3, 8), 100.0).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert centres(features, torch.tensor([0, 1, 1])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("width, out", [(64, 256), (128, 1024), (64, 64)])
def test_a_projection_to_a_greater_width_keeps_all_distances_at_the_start(width, out):
    projection, features = Projection(width, out), drawn(9, width).float()
    assert [name for name, _ in projection.named_parameters()] == ["weight"]
    assert projection(features).shape == (9, out)
    torch.testing.assert_close(*(torch.cdist(x, x) for x in (projection(features), features)))


def test_a_projection_to_a_smaller_width_is_orthogonal_at_the_start():
    weight = Projection(512, 256).weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(256), rtol=0, atol=1e-5)
