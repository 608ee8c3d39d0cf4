"""Metrics against independent computations."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from atoll.attacks.metrics.identification import identified
from atoll.attacks.metrics.lpips import ALEXNET, LPIPS, SCALE, SHIFT, VGG16, read_checkpoint
from atoll.attacks.metrics.pixels import mse, psnr
from atoll.attacks.metrics.ssim import ssim
from atoll.clients.data.files.cache import cache_root
from atoll.errors import DataUnavailableError


def test_psnr_is_that_of_the_squared_error() -> None:
    truth = torch.zeros(3, 1, 4, 4)
    images = torch.stack([torch.full((1, 4, 4), value) for value in (0.1, 0.01, 0.0)])
    torch.testing.assert_close(psnr(images, truth), torch.tensor([20.0, 40.0, 200.0]).double())
    torch.testing.assert_close(mse(images, truth)[:2], torch.tensor([1e-2, 1e-4]).double())


def ssim_by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Wang's formula with scipy's Gaussian filter, cut to the windows that lie in the image."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5)[5:-5, 5:-5]

    ux, uy = blur(x), blur(y)
    vx, vy, c = blur(x * x) - ux * ux, blur(y * y) - uy * uy, blur(x * y) - ux * uy
    top = (2 * ux * uy + 1e-4) * (2 * c + 9e-4)
    return float((top / ((ux**2 + uy**2 + 1e-4) * (vx + vy + 9e-4))).mean())


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(11, 30), st.floats(0.0, 0.5))
def test_ssim_is_wangs(seed: int, size: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    x = generator.random((size, size + 3))
    y = np.clip(x + noise * generator.standard_normal(x.shape), 0, 1)
    found = ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert float(found) == pytest.approx(ssim_by_scipy(x, y), abs=1e-9)


def test_ssim_of_small_and_of_colour_images() -> None:
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ssim(images, images), torch.ones(2).double())
    by_channel = torch.stack(
        [ssim(images[:, c : c + 1], 1 - images[:, c : c + 1]) for c in (0, 1, 2)]
    )
    torch.testing.assert_close(ssim(images, 1 - images), by_channel.mean(0))


def test_an_image_is_identified_if_no_other_is_nearer() -> None:
    truth, candidates = torch.rand(4, 1, 6, 6), torch.rand(50, 1, 6, 6)
    assert identified(truth + 0.05 * torch.randn_like(truth), truth, candidates).all()
    assert not identified(candidates[:4], truth, candidates).any()
    assert identified(truth, truth, torch.cat([candidates, truth])).all()


def random_weights(network: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if network == "alexnet":
        sizes = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
        heads = [64, 192, 384, 256, 256]
    else:
        heads, sizes, inputs = [64, 128, 256, 512, 512], [], 3
        for width, count in zip(heads, VGG16, strict=True):
            for _ in range(count):
                sizes.append((inputs, width, 3))
                inputs = width
    weights = {
        f"head.{i}": torch.rand(1, n, 1, 1, generator=generator) for i, n in enumerate(heads)
    }
    for index, (inputs, outputs, kernel) in enumerate(sizes):
        shape = (outputs, inputs, kernel, kernel)
        spread = (2 / (inputs * kernel * kernel)) ** 0.5
        weights[f"conv.{index}.weight"] = spread * torch.randn(shape, generator=generator)
        weights[f"conv.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return weights


def alexnet_by_modules(weights: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Torchvision's AlexNet features, by its layer list, after each ReLU."""
    pool = nn.MaxPool2d(3, 2)
    layers: list[nn.Module] = []
    for index, (stride, padding, pools) in enumerate(ALEXNET):
        weight = weights[f"conv.{index}.weight"]
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding)
        layer.weight.data, layer.bias.data = weight, weights[f"conv.{index}.bias"]  # type: ignore[union-attr]
        layers += [*([pool] if pools else []), layer, nn.ReLU()]
    found, x = [], images
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append(x)
    return found


def test_lpips_is_the_weighted_distance_of_unit_features(tmp_path: Path) -> None:
    weights = random_weights("alexnet")
    save_file(weights, tmp_path / "alexnet.safetensors")
    images, truth = torch.rand(2, 3, 64, 72), torch.rand(2, 3, 64, 72)
    shift, scale = torch.tensor(SHIFT)[:, None, None], torch.tensor(SCALE)[:, None, None]
    wanted = torch.zeros(2)
    with torch.no_grad():
        for layer, (a, b) in enumerate(
            zip(
                alexnet_by_modules(weights, (2 * images - 1 - shift) / scale),
                alexnet_by_modules(weights, (2 * truth - 1 - shift) / scale),
                strict=True,
            )
        ):
            difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
            wanted += (difference * weights[f"head.{layer}"]).sum(1).mean((1, 2))
    measure = LPIPS("alexnet", tmp_path / "alexnet.safetensors")
    torch.testing.assert_close(measure(images, truth), wanted, rtol=1e-4, atol=1e-6)
    grey = torch.rand(1, 1, 8, 8)
    assert float(measure(grey, grey)) == 0.0
    torch.testing.assert_close(
        measure(grey, 1 - grey), measure(grey.expand(1, 3, 8, 8), (1 - grey).expand(1, 3, 8, 8))
    )


def test_the_packages_checkpoint_is_read_without_running_code(tmp_path: Path) -> None:
    weights = random_weights("alexnet")
    tree = {
        "AlexNet_0": {
            f"Conv_{i}": {
                "kernel": weights[f"conv.{i}.weight"].permute(2, 3, 1, 0).numpy(),
                "bias": weights[f"conv.{i}.bias"].numpy(),
            }
            for i in range(5)
        },
        **{
            f"NetLinLayer_{i}": {
                "Conv_0": {"kernel": weights[f"head.{i}"].permute(2, 3, 1, 0).numpy()}
            }
            for i in range(5)
        },
    }
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree))
    found = read_checkpoint(tmp_path / "alexnet.ckpt")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    LPIPS("alexnet", tmp_path)
    with pytest.raises(DataUnavailableError, match="not LPIPS's for vgg16"):
        LPIPS("vgg16", tmp_path / "alexnet.ckpt")
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(DataUnavailableError, match=r"cannot be read .*it asks for pathlib"):
        read_checkpoint(tmp_path / "evil.ckpt")
    with pytest.raises(DataUnavailableError, match=r"has no alexnet\.ckpt"):
        LPIPS("alexnet", cache_root() / "datasets" / "digits")


@pytest.mark.skipif(
    not (cache_root() / "weights" / "lpips-alexnet").is_dir(),
    reason="LPIPS's weights are not in the cache, and they are 64 MB",
)
def test_the_real_weights_say_what_people_say() -> None:
    grid = torch.linspace(0, 1, 64)
    image = torch.stack([grid.expand(64, 64), grid.expand(64, 64).T, 0.5 * torch.ones(64, 64)])[
        None
    ]
    measure = LPIPS("alexnet")
    assert float(measure(image, image)) == 0.0
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    distances = [float(measure((image + s * noise).clamp(0, 1), image)) for s in (0.02, 0.1, 0.4)]
    assert distances == sorted(distances)
    # A shift of the brightness is as large an error as noise of 0.1, and looks like the same image.
    assert float(measure((image + 0.1).clamp(0, 1), image)) < distances[1] / 2
