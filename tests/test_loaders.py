import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from clipfh_lib.data import images, loaders
from clipfh_lib.data.images import Size
from clipfh_lib.files import InputError


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
