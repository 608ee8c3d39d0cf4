"""Augmentation against colorsys, Pillow and plain slices."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atoll.clients.data.augmentation import augment, change_colors, crop, luma, turn_hue

ONES, ZEROS = torch.ones(3), torch.zeros(3)


def images(size: int = 12) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(-1, 1))
@settings(max_examples=200)
def test_hue_turns_as_colorsys_says(color: tuple[float, float, float], turns: float) -> None:
    pixel = torch.tensor(color, dtype=torch.float64).view(1, 3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
    found = turn_hue(pixel, torch.tensor([turns], dtype=torch.float64))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_factors_of_one_change_nothing_and_saturation_zero_is_grey() -> None:
    same = change_colors(images(), brightness=ONES, contrast=ONES, saturation=ONES, hue=ZEROS)
    torch.testing.assert_close(same, images())
    grey = change_colors(images(), brightness=ONES, contrast=ONES, saturation=ZEROS, hue=ONES / 3)
    torch.testing.assert_close(grey, luma(images()).expand(-1, 3, -1, -1))
    flat = change_colors(images(), brightness=ONES, contrast=ZEROS, saturation=ONES, hue=ZEROS)
    assert float(flat.std(dim=(2, 3)).max()) < 1e-6


def test_luma_is_pillows() -> None:
    pixels = (images()[0] * 255).round()
    array = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
    ours = luma(pixels[None]).squeeze().numpy()
    assert np.abs(ours - np.asarray(Image.fromarray(array).convert("L"), float)).max() <= 1


def test_crops_are_slices_where_no_resizing_is_needed() -> None:
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3)
    none, all_ = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(crop(images(), whole, none), images(), atol=1e-5, rtol=0)
    torch.testing.assert_close(crop(images(), whole, all_), images().flip(3), atol=1e-5, rtol=0)
    # A quarter of an image of constant quadrants is a constant image.
    quadrants = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    box = torch.tensor([[0.5 + 1 / 16, 1 / 16, 0.375, 0.375]])
    lower_left = crop(quadrants, box, none[:1])
    torch.testing.assert_close(lower_left, torch.full_like(quadrants, 2.0))


def test_domainbeds_augmentation_varies_images_by_the_seed_alone() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3)).astype(np.uint8)
    one, again = augment(batch, "domainbed", 1), augment(batch, "domainbed", 1)
    np.testing.assert_array_equal(one, again)
    assert (augment(batch, "domainbed", 2) != one).any()
    assert one.shape == batch.shape
    assert one.dtype == np.uint8
    grey = (one == one[..., :1]).all(axis=(1, 2, 3)).mean()
    assert 0.05 < grey < 0.15
    assert augment(batch, "none", 1) is batch
    assert len(augment(batch[:0], "domainbed", 1)) == 0
