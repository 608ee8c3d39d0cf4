"""StyleGAN2 at a real size, with random weights, against the released layers one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.attacks.generators.stylegan2 import StyleGAN2, load_stylegan2
from atoll.attacks.generators.stylegan2_weights import read_stylegan2, widths_of
from atoll.errors import DataUnavailableError
from tests.support.attacks.stage_checks import check_stages

STYLE = 512
# config-f: channels at 4x4, 8x8, ...
CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64, 32)


def checkpoint(blocks: int) -> dict[str, Tensor]:
    """Random weights with the names and shapes of the port, at 4 * 2^(blocks - 1) pixels."""
    random = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def modulated(name: str, inputs: int, outputs: int, side: int) -> None:
        state[f"{name}.conv.weight"] = normal(1, outputs, inputs, side, side)
        state[f"{name}.conv.modulation.weight"] = normal(inputs, STYLE)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.1 * normal(inputs)

    def layer(name: str, inputs: int, outputs: int) -> None:
        modulated(name, inputs, outputs, 3)
        state[f"{name}.noise.weight"] = 0.3 * normal(1)
        state[f"{name}.activate.bias"] = 0.1 * normal(outputs)

    def rgb(name: str, inputs: int) -> None:
        modulated(name, inputs, 3, 1)
        state[f"{name}.bias"] = 0.1 * normal(1, 3, 1, 1)

    for number in range(1, 9):
        state[f"style.{number}.weight"] = 100 * normal(STYLE, STYLE)
        state[f"style.{number}.bias"] = 10 * normal(STYLE)
    state["input.input"] = normal(1, 512, 4, 4)
    layer("conv1", 512, 512)
    rgb("to_rgb1", 512)
    for block in range(1, blocks):
        inputs, outputs = CHANNELS[block - 1 : block + 1]
        layer(f"convs.{2 * block - 2}", inputs, outputs)
        layer(f"convs.{2 * block - 1}", outputs, outputs)
        rgb(f"to_rgbs.{block - 1}", outputs)
        state[f"convs.{2 * block - 2}.conv.blur.kernel"] = torch.zeros(4, 4)
    for index in range(2 * blocks - 1):
        side = 4 << ((index + 1) // 2)
        state[f"noises.noise_{index}"] = normal(1, 1, side, side)
    return state


def reference(state: dict[str, Tensor], blocks: int, styles: Tensor, noise: list[Tensor]) -> Tensor:
    """The released synthesis network for one image: weights modulated, then one convolution."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(row, row)

    def filtered(x: Tensor, pad: tuple[int, int], up: int) -> Tensor:
        """Insert zeros, pad and filter (upfirdn)."""
        channels, height, width = x.shape[1:]
        spread = x.new_zeros(1, channels, height * up, width * up)
        spread[:, :, ::up, ::up] = x
        padded = F.pad(spread, (*pad, *pad))
        return F.conv2d(padded.transpose(0, 1), 4 * kernel.flip(0, 1)[None, None]).transpose(0, 1)

    def conv(name: str, x: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False):
        weight = state[f"{name}.conv.weight"][0]
        affine = state[f"{name}.conv.modulation.weight"] / STYLE**0.5
        scale = affine @ style + state[f"{name}.conv.modulation.bias"]
        weight = weight / weight[0].numel() ** 0.5 * scale[None, :, None, None]
        if demodulate:
            weight = weight * (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if up:
            return filtered(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1), 1)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def layer(name: str, x: Tensor, style: Tensor, noise_map: Tensor, *, up: bool = False):
        x = conv(name, x, style, up=up) + state[f"{name}.noise.weight"] * noise_map
        bias = state[f"{name}.activate.bias"][:, None, None]
        return F.leaky_relu(x + bias, 0.2) * 2**0.5

    x = layer("conv1", state["input.input"], styles[0], noise[0])
    image = conv("to_rgb1", x, styles[1], demodulate=False) + state["to_rgb1.bias"]
    for block in range(1, blocks):
        at = 2 * block - 1
        x = layer(f"convs.{2 * block - 2}", x, styles[at], noise[at], up=True)
        x = layer(f"convs.{2 * block - 1}", x, styles[at + 1], noise[at + 1])
        rgb = f"to_rgbs.{block - 1}"
        painted = conv(rgb, x, styles[at + 2], demodulate=False) + state[f"{rgb}.bias"]
        image = painted + filtered(image, (2, 1), 2)
    return (image + 1) / 2


def as_nvidia(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The same weights as NVIDIA's PyTorch code names and shapes them."""
    given = {"synthesis.b4.const": state["input.input"][0]}
    for number in range(8):
        for part in ("weight", "bias"):
            given[f"mapping.fc{number}.{part}"] = state[f"style.{number + 1}.{part}"]
    given["mapping.w_avg"] = torch.zeros(STYLE)

    def modulated(ours: str, theirs: str) -> None:
        given[f"{theirs}.weight"] = state[f"{ours}.conv.weight"][0]
        for part in ("weight", "bias"):
            given[f"{theirs}.affine.{part}"] = state[f"{ours}.conv.modulation.{part}"]

    def layer(ours: str, theirs: str) -> None:
        modulated(ours, theirs)
        given[f"{theirs}.noise_strength"] = state[f"{ours}.noise.weight"][0]
        given[f"{theirs}.bias"] = state[f"{ours}.activate.bias"]
        given[f"{theirs}.resample_filter"] = torch.zeros(4, 4)

    for block in range(blocks):
        place = f"synthesis.b{4 << block}"
        rgb = f"to_rgbs.{block - 1}" if block else "to_rgb1"
        if block:
            layer(f"convs.{2 * block - 2}", f"{place}.conv0")
        layer(f"convs.{2 * block - 1}" if block else "conv1", f"{place}.conv1")
        modulated(rgb, f"{place}.torgb")
        given[f"{place}.torgb.bias"] = state[f"{rgb}.bias"].flatten()
    return given


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return checkpoint(7)


@pytest.mark.slow
@pytest.mark.long
def test_a_real_sized_checkpoint_makes_what_the_released_network_makes_from_every_stage(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"g_ema": state, "latent_avg": torch.zeros(STYLE)}, tmp_path / "port.pt")
    generator = load_stylegan2(tmp_path / "port.pt")
    assert (generator.stages, generator.image_shape) == (7, (3, 256, 256))
    features = generator.init(torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(1))
    everything = {**features.free, **features.fixed}
    noise = [everything[f"noise{index}"] for index in range(13)]
    with torch.no_grad():
        expected = reference(state, 7, everything["styles"][0], noise)
    check_stages(generator, features, expected)
    # The first five noise maps are free, then those of the next layers.
    assert sorted(features.free) == ["noise0", "noise1", "noise2", "noise3", "noise4", "styles"]
    second = generator.advance(0, features)
    assert sorted(second.free) == ["features", *(f"noise{i}" for i in range(1, 7)), "styles"]


@pytest.mark.slow
def test_styles_are_drawn_as_the_mapping_network_spreads_them(state: dict[str, Tensor]) -> None:
    small = {name: value for name, value in state.items() if name.startswith("style")}
    x = torch.randn(4000, STYLE, generator=torch.Generator().manual_seed(3))
    x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for number in range(1, 9):
        weight = small[f"style.{number}.weight"] * 0.01 / STYLE**0.5
        x = F.leaky_relu(x @ weight.T + 0.01 * small[f"style.{number}.bias"], 0.2) * 2**0.5
    generator = StyleGAN2((8, 8))
    with torch.no_grad():
        for number, layer in enumerate(generator.mapping, start=1):
            layer.weight.copy_(small[f"style.{number}.weight"] * 0.01 / STYLE**0.5)
            layer.bias.copy_(0.01 * small[f"style.{number}.bias"])
    features = generator.init(torch.zeros(4000).long(), torch.Generator().manual_seed(1))
    drawn = features.free["styles"]
    assert torch.equal(drawn[:, 0], drawn[:, -1])
    spread = x.std(0)
    assert ((drawn[:, 0].mean(0) - x.mean(0)).abs() / spread).mean() < 0.1
    assert (drawn[:, 0].std(0) / spread - 1).abs().mean() < 0.2


def test_both_layouts_give_the_same_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(as_nvidia(state, 7), tmp_path / "nvidia.pt")
    torch.save(state, tmp_path / "port.pt")
    port, nvidia = (read_stylegan2(tmp_path / f"{name}.pt") for name in ("port", "nvidia"))
    assert port.keys() == nvidia.keys()
    assert all(torch.equal(value, nvidia[name]) for name, value in port.items())
    assert widths_of(port, "") == widths_of(nvidia, "")
    assert widths_of(port, "").widths == CHANNELS[:7]


def test_other_checkpoints_are_refused_before_compute(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "other.pt"
    for given, problem in (
        ({"weight": torch.zeros(1)}, "is not a StyleGAN2 generator"),
        (
            {k: v for k, v in state.items() if k != "convs.3.activate.bias"},
            r"blocks\.2\.layer\.conv\.bias is missing",
        ),
        (
            state | {"to_rgbs.1.conv.weight": torch.zeros(1, 3, 9, 1, 1)},
            r"blocks\.2\.to_rgb\.weight has shape \(3, 9, 1, 1\)",
        ),
        (
            as_nvidia(state, 7) | {"mapping.embed.weight": torch.zeros(1)},
            "is a StyleGAN2 with classes",
        ),
    ):
        torch.save(given, path)
        with pytest.raises(DataUnavailableError, match=problem):
            load_stylegan2(path)
    with pytest.raises(DataUnavailableError, match="a pickle with code in it, which is not run"):
        load_stylegan2(tmp_path / "ffhq.pkl")
