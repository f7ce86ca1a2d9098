"""A model gets the tensor its own preprocessing would make; each change is torchvision's."""

import random

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms.v2 import InterpolationMode, functional

from clipfh_lib.data import transforms
from clipfh_lib.data.transforms import normalise
from clipfh_lib.files import InputError
from clipfh_lib.schema import AugmentParams

CLIP = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.filterwarnings("error")  # torch warns of tensors on read-only memory
@pytest.mark.parametrize("mean, std", [CLIP, IMAGENET])
@pytest.mark.parametrize("kind", ["numpy", "torch", "memory map"])
def test_normalise_equals_open_clip_bit_for_bit(mean, std, kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    transform = open_clip.image_transform((32, 24), is_train=False, mean=mean, std=std)
    theirs = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    if kind == "torch":
        pixels = torch.from_numpy(pixels)
    elif kind == "memory map":
        np.save(tmp_path / "pixels.npy", pixels)
        pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    before = pixels.sum()
    ours = normalise(pixels, mean, std)
    assert ours.dtype == torch.float32 and ours.is_contiguous() and ours.std() > 0.5
    assert torch.equal(ours, theirs)
    assert pixels.sum() == before  # its input is left alone


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 8, 8, 3), np.float32),  # may be scaled already
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_normalise_refuses_other_shapes_and_types(wrong):
    with pytest.raises(ValueError, match="uint8 is wanted"):
        normalise(wrong, *CLIP)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalise_on_a_gpu_equals_the_cpu():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    torch.testing.assert_close(
        normalise(pixels, *CLIP, "cuda").cpu(), normalise(pixels, *CLIP), rtol=0, atol=1e-6
    )


# --- augment -----------------------------------------------------------------------------------

ALL = AugmentParams(
    crop=0.5,
    rotation=30,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    pad=4,
    erase=0.5,
    blur=1.5,
    flip=0.5,
    flip_vertical=0.5,
)


def noise(count=6, height=33, width=21):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), generator=draw, dtype=torch.uint8)


def smooth(count=6, height=33, width=21):
    """Waves of colour: a little off in place is a little off in value."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [(x / 7 + y / 9 + shift) for shift in range(3 * count)]
    pixels = 128 + 90 * torch.stack(waves).sin().view(count, 3, height, width)
    return pixels.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def chosen(count=6, **values):
    """Draws of 0.5 but for those named."""
    drawn = np.full((count, len(transforms.DRAWN)), 0.5)
    for name, value in values.items():
        drawn[:, transforms.DRAWN.index(name)] = value
    return drawn


def alike(ours, theirs, most=1.0):
    """Equal up to rounding to whole numbers."""
    difference = (ours.permute(0, 3, 1, 2).float() - theirs).abs()
    assert difference.max() <= most, difference.max()


def test_nothing_is_changed_unless_asked():
    pixels = noise()
    assert transforms.augment(pixels, AugmentParams(), chosen()) is pixels
    # switched on, but drawn so that nothing happens: the crop is whole, the angle 0, the factor 1
    still = chosen(
        area=0, flip=0.9, flip_vertical=0.9, sigma=0, erase=0.9, angle=0.5, shift_x=0.5, shift_y=0.5
    )
    before = pixels.clone()
    assert torch.equal(transforms.augment(pixels, ALL, still), before)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("name, axis", [("flip", 2), ("flip_vertical", 1)])
def test_a_flip_is_a_mirror_image_and_twice_the_picture_itself(name, axis):
    pixels, how = noise(), AugmentParams(**{name: 1})
    once = transforms.augment(pixels, how, chosen())
    assert torch.equal(once, pixels.flip(axis)) and not torch.equal(once, pixels)
    assert torch.equal(transforms.augment(once, how, chosen()), pixels)


@pytest.mark.parametrize("name", ["flip", "flip_vertical", "erase"])
def test_a_probability_is_how_often(name):
    pixels = noise(400, 9, 9)
    changed = transforms.augment(
        pixels, AugmentParams(**{name: 0.3}), transforms.draws(0, 0, range(400))
    )
    share = (changed != pixels).flatten(1).any(1).float().mean()
    assert abs(share - 0.3) < 0.07  # three standard deviations


def test_padding_and_cropping_shifts_whole_pixels_and_brings_in_white():
    pixels, drawn = noise(300), transforms.draws(5, 1, range(300))
    shifted = transforms.augment(pixels, AugmentParams(pad=3), drawn)
    padded = functional.pad(pixels.permute(0, 3, 1, 2), [3], fill=255).permute(0, 2, 3, 1)
    found = set()
    for ours, theirs in zip(shifted, padded, strict=True):
        places = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if torch.equal(ours, theirs[top : top + 33, left : left + 21])
        ]
        assert len(places) == 1
        found |= set(places)
    assert len(found) == 49  # all shifts of -3..3 occur: each is missed with a chance of 0.002


@pytest.mark.parametrize("left, top", [(0, 0), (3, 5), (10, 16)])
def test_a_crop_is_enlarged_as_torchvision_does_it(left, top):
    pixels = smooth(6, 32, 20)
    how = AugmentParams(crop=0.25)  # half of both sides where `area` is drawn as (nearly) 1
    drawn = chosen(area=1, left=left / 10, top=top / 16)
    ours = transforms.augment(pixels, how, drawn)
    theirs = functional.resized_crop(
        pixels.permute(0, 3, 1, 2).float(), top, left, 16, 10, [32, 20], antialias=False
    )
    # at the rim torchvision repeats the crop's edge, ours sees the picture beyond, or white
    alike(ours[:, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("degrees", [-30, 0, 12, 90])
def test_a_rotation_equals_torchvisions_with_white_beyond_the_picture(degrees):
    pixels = smooth(6, 21, 21)
    ours = transforms.augment(
        pixels, AugmentParams(rotation=180), chosen(angle=0.5 + degrees / 360)
    )
    theirs = functional.rotate(
        pixels.permute(0, 3, 1, 2).float(), degrees, InterpolationMode.BILINEAR, fill=[255.0]
    )
    inner = slice(6, 15)
    alike(ours[:, inner, inner], theirs[:, :, inner, inner])
    if degrees % 90:
        assert (ours[:, 0, 0] == 255).all()
    else:
        alike(ours, theirs)  # by a right angle nothing is lost


def test_an_oblong_picture_is_turned_and_not_sheared():
    pixels = torch.full((1, 31, 61, 3), 255, dtype=torch.uint8)
    pixels[:, 13:18, 20:41] = 0  # a bar, 5 x 21
    turned = transforms.augment(pixels, AugmentParams(rotation=180), chosen(1, angle=0.75))  # 90
    expected = torch.full((1, 31, 61, 3), 255, dtype=torch.uint8)
    expected[:, 5:26, 28:33] = 0
    assert torch.equal(turned, expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("drawn", [0.0, 0.2, 0.9])
def test_light_and_colour_change_as_in_torchvision(name, drawn):
    pixels = noise()
    ours = transforms.augment(pixels, AugmentParams(**{name: 0.6}), chosen(**{name: drawn}))
    change = getattr(functional, f"adjust_{name}")
    theirs = change(pixels.permute(0, 3, 1, 2).float() / 255, 1 + 0.6 * (2 * drawn - 1)) * 255
    alike(ours, theirs, 0.51)
    assert (ours != pixels).float().mean() > 0.5


@pytest.mark.parametrize("drawn", [0.1, 0.5, 1.0])
def test_a_blur_is_torchvisions_gaussian(drawn):
    pixels = noise()
    ours = transforms.augment(pixels, AugmentParams(blur=2), chosen(sigma=drawn))
    theirs = functional.gaussian_blur(pixels.permute(0, 3, 1, 2).float(), [13, 13], [2 * drawn] * 2)
    alike(ours, theirs, 0.51)


def test_an_erased_rectangle_has_one_colour_and_a_size_within_the_bounds():
    pixels = torch.full((500, 60, 60, 3), 7, dtype=torch.uint8)
    erased = transforms.augment(pixels, AugmentParams(erase=1), transforms.draws(0, 0, range(500)))
    changed = (erased != 7).any(3)
    rows, columns = changed.any(2), changed.any(1)
    height, width = rows.sum(1), columns.sum(1)
    assert torch.equal(changed, rows[:, :, None] & columns[:, None, :])  # a rectangle
    area, ratio = height * width / 3600, height / width
    low, high = transforms.ERASED_AREA
    assert low * 0.85 < area.min() < low * 1.5 and high * 0.9 < area.max() < high * 1.05
    assert abs(area.mean() - (low + high) / 2) < 0.02
    assert 0.25 < ratio.min() < 0.4 and 2.5 < ratio.max() < 4 and abs(ratio.log().mean()) < 0.15
    assert rows.any(0).all() and columns.any(0).all()  # everywhere in the picture
    colours = [image[where].unique(dim=0) for image, where in zip(erased, changed, strict=True)]
    assert all(len(colour) == 1 for colour in colours)
    assert torch.cat(colours).float().mean() == pytest.approx(127.5, abs=8)


def test_what_is_drawn_spreads_evenly_over_its_range_and_is_not_correlated():
    drawn = transforms.draws(3, 2, range(4000))
    assert drawn.shape == (4000, len(transforms.DRAWN)) and 0 <= drawn.min() < drawn.max() < 1
    assert np.abs(np.quantile(drawn, [0.25, 0.5, 0.75], axis=0).T - [0.25, 0.5, 0.75]).max() < 0.04
    assert np.abs(np.corrcoef(drawn.T) - np.eye(len(transforms.DRAWN))).max() < 0.08
    after = transforms.draws(3, 3, range(4000))
    assert np.abs(np.corrcoef(drawn.ravel(), after.ravel())[0, 1]) < 0.02


def test_sizes_of_crops_angles_and_factors_stay_within_their_ranges():
    drawn = transforms.draws(0, 0, range(800))
    grey = torch.full((800, 8, 8, 3), 100, dtype=torch.uint8)
    light = transforms.augment(grey, AugmentParams(brightness=0.4), drawn)[:, 0, 0, 0]
    assert 60 <= light.min() < 63 and 137 < light.max() <= 140
    assert light.float().mean() == pytest.approx(100, abs=2.5)
    # a ramp of 1 a pixel becomes one of sqrt(area): its slope is the crop, its centre the place
    ramp = torch.arange(0, 200).to(torch.uint8).view(1, 1, 200, 1).expand(800, 4, 200, 3)
    crops = transforms.augment(ramp.contiguous(), AugmentParams(crop=0.36), drawn)[:, 1, :, 0].int()
    share = ((crops[:, 190] - crops[:, 10]) / 180) ** 2
    assert 0.35 < share.min() < 0.38 and 0.98 < share.max() < 1.02
    assert share.mean() == pytest.approx(0.68, abs=0.02)
    assert crops[:, 5].min() >= 0 and crops[:, 194].max() <= 199  # within the picture
    assert crops[:, 100].float().mean() == pytest.approx(99.5, abs=2)


def test_angles_spread_evenly_to_both_sides():
    half = torch.full((800, 41, 41, 3), 255, dtype=torch.uint8)
    half[:, 21:] = 0  # the border lies level below the centre
    how = AugmentParams(rotation=20)
    turned = transforms.augment(half, how, transforms.draws(0, 0, range(800)))[..., 0].float() / 255
    fall = (turned[:, 10:31, 10] - turned[:, 10:31, 30]).sum(1)  # pixels, over 20 pixels
    angles = torch.atan(fall / 20).rad2deg()
    assert -20.5 < angles.min() < -19.5 and 19.5 < angles.max() < 20.5
    assert abs(angles.mean()) < 1.3 and abs(angles.abs().mean() - 10) < 0.7


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_comes_out_the_same_alone_and_in_any_batch(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pixels = noise(40)
        together = transforms.augment(pixels, ALL, transforms.draws(1, 2, range(40)))
        order = np.random.default_rng(0).permutation(40)
        for size in (1, 7):
            parts = [order[start : start + size] for start in range(0, 40, size)]
            apart = [
                transforms.augment(pixels[rows], ALL, transforms.draws(1, 2, rows))
                for rows in parts
            ]
            assert torch.equal(torch.cat(apart), together[order])
    finally:
        torch.set_num_threads(before)
    assert not any(torch.equal(*pair) for pair in zip(together, pixels, strict=True))


def test_seed_epoch_row_and_copy_each_decide():
    def one(seed=0, epoch=0, row=3):
        return transforms.draws(seed, epoch, [row])[0].tolist()

    kinds = [one(), one(seed=1), one(epoch=1), one(row=4), one(1, 0, 0), one(0, 1, 0)]
    assert len({tuple(kind) for kind in kinds}) == len(kinds) and one() == one()
    twice = transforms.draws(0, 0, [3, 5, 3])
    assert twice[0].tolist() == one() != twice[2].tolist()
    assert twice[1].tolist() == one(row=5)
    same_as_samplers = np.random.default_rng([0, 0]).random(len(transforms.DRAWN)).tolist()
    assert one(row=0) != same_as_samplers
    assert transforms.draws(0, 0, []).shape == (0, len(transforms.DRAWN))


def test_switching_one_change_on_leaves_the_others_as_they_were():
    pixels, drawn = noise(), transforms.draws(0, 0, range(6))
    light = transforms.augment(pixels, AugmentParams(brightness=0.5), drawn)
    both = transforms.augment(pixels, AugmentParams(brightness=0.5, erase=0.5), drawn)
    same = (light == both).flatten(1).float().mean(1)
    assert (same == 1).any() and ((same > 0.5) & (same < 1)).any()


def test_no_global_generator_is_drawn_from():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    transforms.augment(noise(), ALL, transforms.draws(0, 0, range(6)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()


@pytest.mark.parametrize("value", [0, 255])
def test_values_do_not_wrap_around(value):
    pixels = torch.full((200, 16, 16, 3), value, dtype=torch.uint8)
    how = ALL.model_copy(
        update={"erase": 0, "brightness": 1.0, "contrast": 1.0, "crop": 1, "pad": 0, "rotation": 0}
    )
    changed = transforms.augment(pixels, how, transforms.draws(0, 0, range(200)))
    lighter = transforms.draws(0, 0, range(200))[:, transforms.DRAWN.index("brightness")] > 0.5
    assert (changed[lighter] == value).all()  # 255 made lighter is 255, 0 is 0


@pytest.mark.parametrize(
    "shape, how, message",
    [
        ((1, 8, 12, 3), {"pad": 8}, "augment.pad is 8, at 8 pixels 7 is the most"),
        ((1, 12, 8, 3), {"blur": 2.5}, "augment.blur is 2.5, at 8 pixels 2.33 is the most"),
    ],
)
def test_pictures_too_small_for_a_change_are_refused(shape, how, message):
    with pytest.raises(InputError, match=message):
        transforms.augment(torch.zeros(shape, dtype=torch.uint8), AugmentParams(**how), chosen(1))


@pytest.mark.parametrize("wrong", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8).byte()])
def test_augment_refuses_other_shapes_and_types(wrong):
    with pytest.raises(ValueError, match="uint8 is wanted"):
        transforms.augment(wrong, AugmentParams(flip=1), chosen(2))


@pytest.mark.parametrize(
    "key, value",
    [
        ("crop", 0),
        ("crop", 1.1),
        ("rotation", 181),
        ("rotation", -1),
        ("rotation", float("nan")),
        ("blur", float("inf")),
        ("brightness", 1.5),
        ("pad", 2.5),
        ("erase", -0.1),
        ("blur", 11),
        ("flip", 2),
        ("flips", 0.5),
    ],
)
def test_a_value_outside_its_range_is_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        AugmentParams(**{key: value})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_augment_on_a_gpu_equals_the_cpu_up_to_rounding():
    pixels, drawn = smooth(), transforms.draws(0, 0, range(6))
    there = transforms.augment(pixels.cuda(), ALL, drawn)
    assert there.device.type == "cuda"
    alike(there.cpu(), transforms.augment(pixels, ALL, drawn).permute(0, 3, 1, 2).float())
