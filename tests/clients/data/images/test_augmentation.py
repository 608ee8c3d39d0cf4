"""Augmentation against colorsys, Pillow and plain slices."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atoll.clients.data.images.augmentation import (
    change_colors,
    crop,
    draw_augmentation,
    luma,
    random_boxes,
    turn_hue,
    vary_pixels,
)

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


def boxes_of_torchvision(aspect: float, count: int) -> np.ndarray:
    """``RandomResizedCrop.get_params`` as torchvision words it, on an image of a million rows."""
    generator = np.random.default_rng(0)
    height = 1_000_000
    width = round(aspect * height)
    found = []
    for _ in range(count):
        for _ in range(10):
            target_area = height * width * generator.uniform(0.7, 1.0)
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            w = round(np.sqrt(target_area * ratio))
            h = round(np.sqrt(target_area / ratio))
            if 0 < w <= width and 0 < h <= height:
                i = generator.integers(0, height - h + 1)
                j = generator.integers(0, width - w + 1)
                break
        else:
            in_ratio = width / height
            if in_ratio < 3 / 4:
                w, h = width, round(width / (3 / 4))
            elif in_ratio > 4 / 3:
                h, w = height, round(height * (4 / 3))
            else:
                w, h = width, height
            i, j = (height - h) // 2, (width - w) // 2
        found.append((i / height, j / width, h / height, w / width))
    return np.array(found)


@pytest.mark.parametrize("aspect", [1.0, 1.5, 2.5, 0.6])
def test_crops_are_drawn_as_torchvision_draws_them(aspect: float) -> None:
    ours = random_boxes(torch.full((8000,), aspect), torch.Generator().manual_seed(1)).numpy()
    theirs = boxes_of_torchvision(aspect, 8000)
    assert (ours >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 1 + 1e-6).all()
    for column in range(4):
        shares = np.linspace(0.05, 0.95, 7)
        found, expected = (
            np.quantile(ours[:, column], shares),
            np.quantile(theirs[:, column], shares),
        )
        np.testing.assert_allclose(found, expected, atol=0.025)


def test_each_image_has_its_own_order_of_colour_changes() -> None:
    batch = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    half, most, none = torch.full((2,), 0.7), torch.full((2,), 1.3), torch.zeros(2)
    order = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]])
    found = change_colors(
        batch, brightness=most, contrast=half, saturation=ONES[:2], hue=none, order=order
    )

    def brighter(image: torch.Tensor) -> torch.Tensor:
        return (image * 1.3).clamp(0, 1)

    def flatter(image: torch.Tensor) -> torch.Tensor:
        mean = luma(image[None]).mean()
        return (mean + 0.7 * (image - mean)).clamp(0, 1)

    torch.testing.assert_close(found[0], flatter(brighter(batch[0])))
    torch.testing.assert_close(found[1], brighter(flatter(batch[1])))
    assert not torch.allclose(found[1], flatter(brighter(batch[1])), atol=1e-3)


def varied(images: np.ndarray, seed: int, chosen: np.ndarray | None = None) -> np.ndarray:
    drawn = draw_augmentation("domainbed", np.ones(len(images), np.float32), seed)
    chosen = np.arange(len(images)) if chosen is None else chosen
    return vary_pixels(drawn, images[chosen], chosen)


def test_domainbeds_augmentation_varies_images_by_the_seed_alone() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3)).astype(np.uint8)
    one, again = varied(batch, 1), varied(batch, 1)
    np.testing.assert_array_equal(one, again)
    assert (varied(batch, 2) != one).any()
    assert one.shape == batch.shape
    assert one.dtype == np.uint8
    grey = (one == one[..., :1]).all(axis=(1, 2, 3)).mean()
    assert 0.05 < grey < 0.15
    assert len(varied(batch[:0], 1)) == 0
    # A few of a set are varied as they are among all.
    few = np.array([399, 3, 256])
    np.testing.assert_array_equal(varied(batch, 1, few), one[few])
