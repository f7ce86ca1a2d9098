"""The sum of a recipe's losses, and the feature that is compared at the end."""

import pytest
import torch
import torch.nn.functional as F

from clipfh_lib.files import InputError
from clipfh_lib.learning import FineTuneParams, LossParams, losses_of
from clipfh_lib.models import losses, objective
from clipfh_lib.models.objective import Objective

WIDTHS = {"before": 6, "last": 6, "projected": 4}
PEOPLE = 3
DATA = {"catalogue": "hands_11k", "root": "data/11k"}
OFF = {"loss_use_id": False, "loss_use_triplet": False}
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


def recipe(**keys):
    return LossParams(method="fine_tune", dataset="demo", data=DATA, **keys)


def build(**keys):
    torch.manual_seed(0)
    return Objective(recipe(**keys), WIDTHS, PEOPLE)


def some_levels(seed=0, scale=2.0):
    draw = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(6, w, generator=draw) for n, w in WIDTHS.items()}


def texts(seed=1):
    return torch.randn(PEOPLE, 4, generator=torch.Generator().manual_seed(seed))


EVERY = losses_of(LossParams)


def test_each_toggle_switches_on_its_own_term_and_no_other():
    for name in EVERY:
        one = build(**{**OFF, f"loss_use_{name}": True})
        terms = one(some_levels(), TARGETS, texts(), TARGETS)
        assert list(terms) == [name]
        assert terms[name].ndim == 0 and 1e-3 < float(terms[name].detach()) < 1e4, name
    assert set(EVERY) >= set("id arcface triplet center supcon image_supcon i2t".split())


def test_the_total_is_the_weighted_sum_and_a_weight_of_zero_takes_a_term_out():
    on = {f"loss_use_{name}": True for name in EVERY}
    weights = {f"loss_weight_{name}": 0.1 + number for number, name in enumerate(EVERY)}
    one = build(**on, **weights)
    terms = one(some_levels(), TARGETS, texts(), TARGETS)
    by_hand = sum((0.1 + number) * terms[name] for number, name in enumerate(EVERY))
    torch.testing.assert_close(one.total(terms), by_hand)
    none = build(**on, **dict.fromkeys(weights, 0))
    assert none.total(none(some_levels(), TARGETS, texts(), TARGETS)).item() == 0


def test_all_losses_off_is_an_error():
    with pytest.raises(ValueError, match="no loss is on"):
        recipe(**OFF)


def test_losses_over_several_levels_are_summed_over_them():
    both = build(loss_use_id=False, loss_triplet_levels=["before", "last", "projected"])
    levels = some_levels()
    parts = [losses.batch_hard_triplet(levels[name], TARGETS, 0.3) for name in levels]
    found = both(levels, TARGETS)["triplet"]
    torch.testing.assert_close(found, sum(parts))
    ids = build(loss_use_triplet=False, loss_id_levels=["last", "projected"], neck=False)
    assert list(ids.id) == ["last", "projected"] and ids.id["last"].weight.shape == (3, 6)
    by_hand = sum(
        F.cross_entropy(levels[n] @ ids.id[n].weight.T, TARGETS, label_smoothing=0.1)
        for n in ("last", "projected")
    )
    torch.testing.assert_close(ids(levels, TARGETS)["id"], by_hand)


def test_metric_losses_take_unit_vectors_if_asked_to():
    levels = some_levels()
    unit = F.normalize(levels["projected"], dim=1)
    for normal, features in ((True, unit), (False, levels["projected"])):
        one = build(loss_use_id=False, loss_normalise=normal)
        expected = losses.batch_hard_triplet(features, TARGETS, 0.3)
        torch.testing.assert_close(one(levels, TARGETS)["triplet"], expected)


@pytest.mark.parametrize("normal, warmth", [(True, 0.07), (False, 1.0)])
def test_losses_with_text_are_those_of_the_paper_on_raw_or_unit_vectors(normal, warmth):
    one = build(**OFF, loss_use_supcon=True, loss_use_i2t=True, loss_use_infonce=True,
                loss_text_normalise=normal, loss_text_temperature=warmth)  # fmt: skip
    levels, words = some_levels(), texts()
    terms = one(levels, TARGETS, words, TARGETS)
    images = levels["projected"]
    if normal:
        images, words = F.normalize(images, dim=1), F.normalize(words, dim=1)
    own = words[TARGETS]
    both = losses.image_to_text(images, own, TARGETS, warmth)
    both = both + losses.text_to_image(images, own, TARGETS, warmth)
    torch.testing.assert_close(terms["supcon"], both)
    smooth = F.cross_entropy(images @ words.T / warmth, TARGETS, label_smoothing=0.1)
    torch.testing.assert_close(terms["i2t"], smooth)
    torch.testing.assert_close(terms["infonce"], losses.info_nce(images, own, 1 / warmth))
    colder = one(levels, TARGETS, words, TARGETS, scale=torch.tensor(5.0))  # in place of its own
    torch.testing.assert_close(colder["infonce"], losses.info_nce(images, own, 5.0))


def test_a_projection_changes_the_width_of_what_is_compared_but_not_of_what_meets_text():
    one = build(projection=8, loss_use_arcface=True, loss_use_center=True, loss_use_i2t=True)
    levels = some_levels()
    assert one.feature(levels).shape == (6, 8)
    assert one.arcface.classifier.weight.shape == one.center.centres.shape == (3, 8)
    assert torch.isfinite(one.total(one(levels, TARGETS, texts(), TARGETS)))


def test_another_main_level_takes_margins_centre_supcon_and_projection():
    keys = {f"loss_use_{n}": True for n in ("arcface", "cosface", "center", "image_supcon")}
    widths, draw = {**WIDTHS, "guided": 5}, torch.Generator().manual_seed(3)
    levels = {**some_levels(), "guided": torch.randn(6, 5, generator=draw)}
    changed = {
        name: torch.randn(features.shape, generator=draw) for name, features in levels.items()
    }
    for projection in (None, 8):
        one = Objective(
            recipe(**OFF, **keys, projection=projection), widths, PEOPLE, main="guided"
        ).eval()
        assert one.arcface.classifier.weight.shape[1] == (projection or 5)
        here = one(levels, TARGETS)
        same = one({**changed, "guided": levels["guided"]}, TARGETS)
        other = one({**levels, "guided": changed["guided"]}, TARGETS)
        assert here == same and all(here[name] != other[name] for name in here)
        logits = one.logits(levels)
        assert torch.equal(logits, one.logits({**changed, "guided": levels["guided"]}))
        assert not torch.equal(logits, one.logits({**levels, "guided": changed["guided"]}))


def test_texts_of_single_images_belong_together_by_person():
    one = build(**OFF, loss_use_supcon=True, loss_use_infonce=True)
    levels = some_levels()
    words = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    terms = one(levels, TARGETS, words)
    images, unit = F.normalize(levels["projected"], dim=1), F.normalize(words, dim=1)
    table, by_hand = images @ unit.T / 0.07, 0.0
    for log_prob in (table.log_softmax(dim=1), table.T.log_softmax(dim=1)):
        for i in range(6):
            own = [j for j in range(6) if TARGETS[j] == TARGETS[i]]
            by_hand -= sum(log_prob[i, j] for j in own) / len(own) / 6
    torch.testing.assert_close(terms["supcon"], by_hand)
    torch.testing.assert_close(terms["infonce"], losses.info_nce(images, unit, 1 / 0.07))


def test_the_feature_is_the_levels_side_by_side_before_or_behind_the_neck():
    levels = some_levels()
    keys = {"feature": ["last", "projected"], "loss_id_levels": ["last", "projected"]}
    before = build(**keys).feature(levels)
    assert torch.equal(before, torch.cat([levels["last"], levels["projected"]], dim=1))
    one = build(**keys, feature_after_neck=True).eval()
    with torch.no_grad():
        for neck in one.id.values():
            neck.norm.running_mean += 1
            neck.norm.running_var *= 4
    expected = (before - 1) / (4 + 1e-5) ** 0.5
    torch.testing.assert_close(one.feature(levels), expected)
    with pytest.raises(ValueError, match="feature_after_neck"):
        recipe(feature=["last"], feature_after_neck=True)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"feature": ["last"]}, "feature: this backbone has no level last"),
        ({"loss_triplet_levels": ["before"]}, "loss_triplet_levels: this backbone has no level"),
        ({"loss_id_levels": ["last"]}, "loss_id_levels: this backbone has no level last"),
    ],
)
def test_a_level_that_the_backbone_has_not_is_refused(keys, said):
    with pytest.raises(InputError, match=said):
        Objective(recipe(**keys), {"projected": 4}, PEOPLE)


def test_a_batch_without_pairs_counts_nothing_and_has_a_gradient_of_zero():
    one = build(loss_use_id=False, loss_use_image_supcon=True)
    levels = {n: f[:3].requires_grad_() for n, f in some_levels().items()}
    terms = one(levels, TARGETS[:3])
    assert terms["triplet"].item() == terms["image_supcon"].item() == 0
    one.total(terms).backward()
    assert torch.equal(levels["projected"].grad, torch.zeros(3, 4))


def test_every_head_gets_a_gradient_and_margins_are_in_the_loss():
    on = {f"loss_use_{name}": True for name in EVERY}
    one = build(**on, projection=5)
    levels = some_levels()
    one.total(one(levels, TARGETS, texts(), TARGETS)).backward()
    for name, parameter in one.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    small, large = (
        build(**OFF, loss_use_arcface=True, loss_arcface_margin=m)(levels, TARGETS)["arcface"]
        for m in (0.0, 0.5)
    )
    assert large > small + 0.1


def test_logits_name_people_without_margins_and_by_texts_where_there_is_no_head():
    levels = some_levels()
    one = build(**OFF, loss_use_arcface=True, neck=False).eval()
    cosine = F.normalize(levels["projected"], dim=1) @ F.normalize(one.arcface.weight, dim=1).T
    torch.testing.assert_close(one.logits(levels), 30 * cosine)
    text = build(**OFF, loss_use_i2t=True, loss_text_normalise=False)
    by_hand = levels["projected"] @ texts().T / 0.07
    torch.testing.assert_close(text.logits(levels, texts()), by_hand)
    assert build(loss_use_id=False).logits(levels) is None
    first = build(loss_id_levels=["last", "projected"], neck=False)
    torch.testing.assert_close(
        first.logits(levels), levels["projected"] @ first.id["projected"].weight.T
    )


def test_embedders_that_differ_in_their_feature_alone_are_told_apart():
    from clipfh_lib.models import backbones
    from clipfh_lib.schema import ModelParams

    encoder, how = backbones.load(ModelParams(name="demo_clip", weights="none"))
    widths = {"before": 128, "last": 128, "projected": 128}
    found = {}
    for feature in (["projected"], ["last"], ["before", "projected"]):
        one = Objective(recipe(feature=feature), widths, 2)
        made = objective.embedder(encoder, one)
        assert (made is encoder) == (feature == ["projected"])
        images = torch.randn(2, 3, how.height, how.width)
        assert made.encode_image(images).shape == (2, 128 * len(feature))
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
        found[str(feature)] = backbones.sha256(made)
    assert len(set(found.values())) == 3


def test_a_recipe_that_cannot_work_is_refused_in_words():
    keys = {"method": "fine_tune", "dataset": "d", "backbone": "b", "recipe": "r"}
    keys |= {"model": {"name": "demo_clip", "weights": "none"}, "data": DATA}
    fit = {"epochs": 1, "lr": 1, "lr_heads": 1}
    with pytest.raises(ValueError, match="fit.frozen lacks text"):
        FineTuneParams(**keys, fit={**fit, "frozen": []})
    with pytest.raises(ValueError, match="fit.best_by rank1 with data.val published"):
        published = {**DATA, "val": "published"}
        FineTuneParams(**{**keys, "data": published}, fit={**fit, "best_by": "rank1"})
    with pytest.raises(ValueError, match="accuracy needs data.val published"):
        FineTuneParams(**keys, fit={**fit, "best_by": "accuracy"})
    for changed, said in (
        ({"schedule": "plateau", "warmup": 1}, "plateau takes no fit.warmup"),
        ({"schedule": "plateau"}, "fit.step 10 .* fit.patience 5 end the fit before"),
        ({"schedule": "multistep"}, "needs fit.milestones"),
        ({"unfreeze_blocks": {-1: 1, 1: 2}}, "epochs from 0"),
        ({"epochs": 9, "unfreeze_blocks": {0: 3, 1: 2}}, "grow or stay"),
        ({"epochs": 9, "unfreeze_blocks": {0: -1}}, "grow or stay"),
    ):
        with pytest.raises(ValueError, match=said):
            FineTuneParams(**keys, fit={**fit, **changed})
    with pytest.raises(ValueError, match="captions.templates: 'colour' in 'A {colour} hand'"):
        FineTuneParams(**keys, fit=fit, captions={"templates": ["A {colour} hand"]})
    for name in ("loss_id_levels", "loss_triplet_levels", "feature"):
        with pytest.raises(ValueError, match=name):
            FineTuneParams(**keys, fit=fit, **{name: []})
