import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from clipfh_lib.data import images, loaders, transforms
from clipfh_lib.data.images import Size
from clipfh_lib.files import InputError
from clipfh_lib.learning import FitParams
from clipfh_lib.schema import AugmentParams


@pytest.fixture
def table(drawn):
    paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.glob("Hands/*.jpg"))[:10]
    return pd.DataFrame({"path": paths[::-1], "pid": range(40, 50)}, index=range(5, 15))


def test_a_batch_holds_the_pixels_pids_and_rows_that_were_asked_for(drawn, table):
    data = loaders.HandImages(table, drawn, Size(24, 24))
    batch = data[[7, 0]]
    assert len(data) == 10 and batch.texts is None
    assert batch.pids.tolist() == [47, 40] and batch.rows.tolist() == [7, 0]
    crop = v2.Compose([v2.Resize(24, v2.InterpolationMode.BICUBIC), v2.CenterCrop(24)])
    for row, pixels in zip([7, 0], batch.pixels, strict=True):
        with Image.open(drawn / table["path"].iloc[row]) as picture:
            np.testing.assert_array_equal(pixels, np.asarray(crop(picture)))
    batch.pixels[:] = 0  # a copy: what is kept stays as it is
    assert data[[7, 0]].pixels.float().mean() > 50


def test_words_go_with_their_images(drawn, table):
    texts = torch.arange(20).view(10, 2)
    data = loaders.Captioned(loaders.HandImages(table, drawn, Size(16, 16)), texts)
    batch = data[np.array([3, 9])]
    assert len(data) == 10
    assert batch.texts.tolist() == [[6, 7], [18, 19]] and batch.pids.tolist() == [43, 49]


def test_the_first_image_that_cannot_be_read_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    table = pd.DataFrame({"path": ["good.png", "bad.png", "absent.png"], "pid": 1})
    with pytest.raises(InputError, match=r"2 of 3 images cannot be read, first: bad.png \(no imag"):
        loaders.HandImages(table, tmp_path, Size(8, 8))


def test_shuffled_batches_are_decided_by_seed_and_epoch():
    def order(seed, epoch):
        return list(loaders.Shuffled(23, 5, seed, epoch))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0) != order(0, 0)
    for batches in (order(0, 0), order(3, 8)):
        rows = sum(batches, [])
        assert [len(batch) for batch in batches] == [5, 5, 5, 5]  # 3 rows make no batch
        assert len(set(rows)) == 20 and set(rows) <= set(range(23))
    assert len(loaders.Shuffled(23, 5, 0, 0)) == 4
    left_out = {row for epoch in range(9) for row in set(range(23)) - set(sum(order(0, epoch), []))}
    assert len(left_out) > 10  # not the same ones in each epoch


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="fit.batch_size is 24, there are 23 training images"):
        loaders.Shuffled(23, 24, 0, 0)


@pytest.mark.parametrize("count, size, lengths", [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 8, [2])])
def test_in_order_gives_every_row_once(count, size, lengths):
    order = loaders.InOrder(count, size)
    assert [len(batch) for batch in order] == lengths and len(order) == len(lengths)
    assert sum(order, []) == list(range(count))


def test_a_loader_reads_the_decode_cache_and_no_file(drawn, table, tmp_path, monkeypatch):
    data = loaders.HandImages(table, drawn, Size(16, 16))
    monkeypatch.setattr(images, "_read", None)  # nothing is decoded from here on
    again = loaders.HandImages(table, drawn, Size(16, 16))
    first, second = (
        torch.cat([batch.pixels for batch in loaders.batches(each, loaders.InOrder(10, 4))])
        for each in (data, again)
    )
    assert torch.equal(first, second) and first.shape == (10, 16, 16, 3)


# --- augmented ---------------------------------------------------------------------------------

HOW = AugmentParams(flip=0.5, rotation=20, brightness=0.3, pad=2, erase=0.4)


def test_augmented_images_are_those_of_the_table_changed_by_seed_epoch_and_row(drawn, table):
    texts = torch.arange(20).view(10, 2)
    plain = loaders.Captioned(loaders.HandImages(table, drawn, Size(24, 24)), texts)

    def pixels(seed, epoch, rows=(7, 0, 3)):
        return loaders.Augmented(plain, HOW, seed, epoch)[rows].pixels

    batch = loaders.Augmented(plain, HOW, 0, 1)[np.array([7, 0, 3])]
    assert batch.rows.tolist() == [7, 0, 3] and batch.pids.tolist() == [47, 40, 43]
    assert batch.texts.tolist() == [[14, 15], [0, 1], [6, 7]]
    assert batch.pixels.dtype == torch.uint8 and batch.pixels.shape == (3, 24, 24, 3)
    expected = transforms.augment(plain[[7, 0, 3]].pixels, HOW, transforms.draws(0, 1, [7, 0, 3]))
    assert torch.equal(batch.pixels, expected)
    assert torch.equal(pixels(0, 1)[1], pixels(0, 1, [9, 5, 0])[2])  # whatever stands beside it
    for other in (pixels(1, 1), pixels(0, 0), plain[[7, 0, 3]].pixels):
        assert not torch.equal(other, batch.pixels)
    twice = pixels(0, 1, [4, 4])
    assert not torch.equal(*twice)
    off = loaders.Augmented(plain, AugmentParams(), 0, 1)
    assert len(off) == 10 and torch.equal(off[[7, 0]].pixels, plain[[7, 0]].pixels)


def test_an_epoch_begun_anew_is_the_same_to_the_last_bit(drawn, table):
    data = loaders.HandImages(table, drawn, Size(16, 16))

    def epoch(number, size):
        order = loaders.Shuffled(10, size, 0, number)
        batches = list(loaders.batches(loaders.Augmented(data, HOW, 0, number), order))
        rows = torch.cat([batch.rows for batch in batches])
        return torch.cat([batch.pixels for batch in batches])[rows.argsort()]

    first = epoch(2, 5)
    torch.manual_seed(9)  # what was drawn elsewhere, and how images were dealt out, is no matter
    assert torch.equal(epoch(2, 5), first) and torch.equal(epoch(2, 2), first)
    assert not torch.equal(epoch(3, 5), first)


# --- P x K -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    people=st.integers(1, 6),
    each=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_people_and_images_are_dealt_out_evenly(sizes, people, each, seed):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    if len(sizes) < people:
        with pytest.raises(InputError, match=f"fit.people is {people}, there are {len(sizes)} "):
            loaders.PeopleImages(targets, people, each, seed, 0)
        return
    order = loaders.PeopleImages(targets, people, each, seed, 0)
    found = list(order)
    assert len(found) == len(order) == max(1, sum(sizes) // (people * each))
    for batch in found:
        assert len(batch) == people * each
        grid = targets[batch].reshape(people, each)
        assert (grid == grid[:, :1]).all() and len(set(grid[:, 0])) == people
        for rows in np.reshape(batch, (people, each)):
            own = (targets == targets[rows[0]]).sum()
            assert len(set(rows)) == min(own, each)  # none twice before each was there
    rows = np.concatenate(found)
    turns = np.array([(targets[rows] == 7 * person).sum() for person in range(len(sizes))]) // each
    assert turns.max() - turns.min() <= 1
    for person in range(len(sizes)):
        times = [(rows == row).sum() for row in np.flatnonzero(targets == 7 * person)]
        assert max(times) - min(times) <= 1


def test_people_and_images_are_decided_by_seed_and_epoch_alone():
    targets = np.repeat(np.arange(9), 6)

    def order(seed, epoch):
        return list(loaders.PeopleImages(targets, 4, 3, seed, epoch))

    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0) != order(0, 0)
    assert (before[0] == np.random.get_state()[1]).all()
    assert torch.equal(before[1], torch.get_rng_state())
    again = loaders.PeopleImages(targets, 4, 3, 0, 0)
    assert list(again) == list(again)  # each reading begins anew
    together = {
        tuple(sorted(set(targets[batch]))) for epoch in range(30) for batch in order(0, epoch)
    }
    assert len(together) > 50  # who meets whom is not fixed: 126 fours, 120 batches
    first = np.bincount([row for epoch in range(200) for row in order(0, epoch)[0]], minlength=54)
    assert first.min() > 20 and first.max() < 75  # 44 on average, for each image


def test_people_with_few_images_are_counted_and_repeated():
    targets = np.array([5, 5, 5, 5, 5, 8, 8, 9])
    order = loaders.PeopleImages(targets, 3, 4, 0, 0)
    assert len(order) == 1
    counted = np.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3])  # the last one has just enough
    fit = FitParams(epochs=1, lr=1, lr_heads=1, people=3, images=4)
    line = loaders.said(counted, fit)
    assert "12 images of 4 classes" in line and "3 x 4; 2 have fewer than 4 images" in line
    plain = fit.model_copy(update={"sampler": "shuffle"})
    assert loaders.said(counted, plain).endswith("batches of 32, shuffled")
    rows = next(iter(order))
    assert [rows.count(row) for row in (5, 6, 7)] == [2, 2, 4]
    assert len({row for row in rows if row < 5}) == 4
    for seed in range(20):  # two images take turns also when three are wanted each time
        rows = sum(loaders.PeopleImages([5] * 2 + [8] * 30, 2, 3, seed, 0), [])
        assert sorted([rows.count(0), rows.count(1)]) == [7, 8]


def test_a_class_is_a_person_or_a_persons_aspect():
    table = pd.DataFrame(
        {
            "pid": [12, 7, 12, 7, 12],
            "aspect": ["palmar_l", "dorsal_r", "dorsal_r", "dorsal_r", "palmar_l"],
        },
        index=[4, 2, 9, 1, 3],
    )
    assert loaders.classes(table).tolist() == [2, 0, 1, 0, 2], "a person's sides are classes"
    assert loaders.classes(table.drop(columns="aspect")).tolist() == [1, 0, 1, 0, 1]
    one = table.assign(aspect="dorsal_r")
    assert loaders.classes(one).tolist() == [1, 0, 1, 0, 1]
    assert loaders.classes(table).dtype == np.int64


def test_a_loader_takes_batches_of_people(drawn, table):
    data = loaders.HandImages(table.assign(pid=[1, 1, 2, 2, 2, 3, 3, 3, 3, 3]), drawn, Size(16, 16))
    order = loaders.PeopleImages(loaders.classes(data.table), 2, 2, 0, 0)
    found = list(loaders.batches(loaders.Augmented(data, HOW, 0, 0), order))
    assert len(found) == 2
    for batch in found:
        assert batch.pids[0] == batch.pids[1] != batch.pids[2] == batch.pids[3]
        assert batch.pixels.shape == (4, 16, 16, 3)


# --- anchors with negatives -----------------------------------------------------------------------


def nearest_numbers(groups):
    """Stands for mining: the rows of other groups, those with near numbers first."""

    def mine(anchors, count):
        found = np.full((len(anchors), count), -1)
        for place, anchor in enumerate(anchors):
            rows = np.argsort(np.abs(np.arange(len(groups)) - anchor), kind="stable")
            rows = rows[groups[rows] != groups[anchor]][:count]
            found[place, : len(rows)] = rows
        return found

    return mine


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 60),
    kinds=st.integers(1, 30),
    batch_size=st.integers(2, 13),
    negatives=st.integers(1, 4),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_a_batch_is_anchors_each_followed_by_others_and_no_row_stands_twice(
    count, kinds, batch_size, negatives, seed, epoch
):
    groups = np.random.default_rng(seed).integers(0, kinds, count)
    if count < batch_size or batch_size < 1 + negatives:
        return
    how = groups, batch_size, negatives, seed, epoch, nearest_numbers(groups)
    order, plain = loaders.WithNegatives(*how), loaders.Shuffled(count, batch_size, seed, epoch)
    batches = list(order)
    assert len(batches) == len(order) == len(plain), "fits of all types cost the same"
    for batch, anchors in zip(batches, order.anchors(), strict=True):
        assert len(set(batch)) == len(batch) <= batch_size
        places = [batch.index(anchor) for anchor in anchors] + [len(batch)]
        assert places[0] == 0 and places == sorted(places)
        taken = set(anchors.tolist())
        for anchor, first, last in zip(anchors, places[:-1], places[1:], strict=True):
            own = batch[first + 1 : last]
            assert (groups[own] != groups[anchor]).all() and len(own) <= negatives
            free = [r for r in nearest_numbers(groups)([anchor], count)[0].tolist()
                    if r >= 0 and r not in taken]  # fmt: skip
            assert own == free[:negatives], "the best that are not in the batch"
            taken |= set(own)


def test_a_true_match_is_no_negative_even_if_it_is_mined():
    groups = np.arange(40) // 4
    order = loaders.WithNegatives(groups, 8, 3, 0, 0, nearest_numbers(np.arange(40)))
    for batch in order:
        assert len(batch) == 8
        assert (groups[batch[1:4]] != groups[batch[0]]).all()
        assert (groups[batch[5:]] != groups[batch[4]]).all()


def test_anchors_go_round_over_epochs_and_are_decided_by_seed_and_epoch():
    groups = np.arange(50)

    def order(seed, epoch):
        return loaders.WithNegatives(groups, 8, 3, seed, epoch, nearest_numbers(groups))

    assert list(order(0, 1)) == list(order(0, 1))
    assert list(order(0, 0)) != list(order(0, 1)) != list(order(1, 1))
    anchors = np.concatenate([order(3, epoch).anchors().ravel() for epoch in range(25)])
    assert anchors.shape == (25 * 6 * 2,)  # six batches of two: a round takes over four epochs
    for start in range(0, 300, 50):
        assert sorted(anchors[start : start + 50].tolist()) == groups.tolist()
    assert anchors[:50].tolist() != anchors[50:100].tolist()


def test_negatives_are_mined_when_the_first_batch_is_asked_for_and_for_the_anchors_alone():
    asked, groups = [], np.arange(40)

    def mine(anchors, count):
        asked.append((anchors.tolist(), count))
        return nearest_numbers(groups)(anchors, count)

    order = loaders.WithNegatives(groups, 10, 1, 0, 0, mine)
    assert len(order) == 4 and not asked
    next(iter(order))
    assert asked == [(order.anchors().ravel().tolist(), 10)]
    with pytest.raises(InputError, match="fit.batch_size is 41, there are 40 training images"):
        loaders.WithNegatives(groups, 41, 1, 0, 0, mine)
