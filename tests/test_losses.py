import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from clipfh_lib.models.losses import info_nce


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
