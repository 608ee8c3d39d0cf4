"""BigGAN-deep at its real size, with random weights, against the released layers one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from atoll.attacks.generators.biggan import BLOCKS, load_biggan
from atoll.errors import DataUnavailableError
from tests.support.attacks.stage_checks import check_stages

WIDTH, CONDITION, TRUNCATIONS = 128, 256, 51


def checkpoint(size: int) -> dict[str, Tensor]:
    """Random weights with the names and shapes of pytorch-pretrained-biggan."""
    random = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=random)

    def spectral(name: str, *shape: int, bias: bool) -> None:
        weight = normal(*shape)
        matrix = weight.flatten(1)
        # What training leaves there: vectors near the leading singular ones.
        v = F.normalize(matrix.T @ F.normalize(normal(shape[0]), dim=0), dim=0)
        u = F.normalize(matrix @ v, dim=0)
        state.update({f"{name}.weight_orig": weight, f"{name}.weight_u": u, f"{name}.weight_v": v})
        if bias:
            state[f"{name}.bias"] = normal(shape[0], scale=0.1)

    def statistics(name: str, channels: int) -> None:
        state[f"{name}.running_means"] = normal(TRUNCATIONS, channels, scale=0.1)
        state[f"{name}.running_vars"] = 1 + normal(TRUNCATIONS, channels).square()

    def block(name: str, inputs: int, outputs: int) -> None:
        middle = inputs // 4
        convolutions = ((inputs, middle, 1), (middle, middle, 3), (middle, middle, 3))
        for i, (before, after, side) in enumerate((*convolutions, (middle, outputs, 1))):
            statistics(f"{name}.bn_{i}", before)
            spectral(f"{name}.bn_{i}.scale", before, CONDITION, bias=False)
            spectral(f"{name}.bn_{i}.offset", before, CONDITION, bias=False)
            spectral(f"{name}.conv_{i}", after, before, side, side, bias=True)

    state["embeddings.weight"] = normal(128, 1000)
    spectral("generator.gen_z", 16 * 16 * WIDTH, CONDITION, bias=True)
    place = 0
    for number, (inputs, outputs, _) in enumerate(BLOCKS[size]):
        if number == 8:
            channels, name = WIDTH * inputs, f"generator.layers.{place}"
            for part, outs, ins in (("theta", 8, 1), ("phi", 8, 1), ("g", 2, 1), ("o_conv", 1, 2)):
                spectral(
                    f"{name}.snconv1x1_{part}", channels // outs, channels // ins, 1, 1, bias=False
                )
            state[f"{name}.gamma"] = torch.tensor([0.7])
            # Logits of a trained network's size: huge ones would make rounding decide.
            state[f"{name}.snconv1x1_theta.weight_u"] *= 1000
            place += 1
        block(f"generator.layers.{place}", WIDTH * inputs, WIDTH * outputs)
        place += 1
    statistics("generator.bn", WIDTH)
    state["generator.bn.weight"] = 1 + normal(WIDTH, scale=0.1)
    state["generator.bn.bias"] = normal(WIDTH, scale=0.1)
    spectral("generator.conv_to_rgb", WIDTH, WIDTH, 3, 3, bias=True)
    return state


def reference(state: dict[str, Tensor], size: int, latent: Tensor, label: int) -> Tensor:
    """The released network, layer by layer as its graph has them, at truncation 1."""

    def weight(name: str) -> Tensor:
        value = state[f"{name}.weight_orig"]
        norm = state[f"{name}.weight_u"] @ value.flatten(1) @ state[f"{name}.weight_v"]
        return value / norm

    def conv(name: str, x: Tensor) -> Tensor:
        kernel = weight(name)
        return F.conv2d(x, kernel, state.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance = state[f"{name}.running_means"][50], state[f"{name}.running_vars"][50]
        scale = 1 + condition @ weight(f"{name}.scale").T
        offset = condition @ weight(f"{name}.offset").T
        normalized = F.batch_norm(x, mean, variance, eps=1e-4)
        return F.relu(normalized * scale[..., None, None] + offset[..., None, None])

    def block(name: str, x: Tensor, outputs: int, grows: bool) -> Tensor:
        y = conv(f"{name}.conv_0", norm(f"{name}.bn_0", x))
        y = norm(f"{name}.bn_1", y)
        if grows:
            y, x = (F.interpolate(value, scale_factor=2) for value in (y, x))
        y = conv(f"{name}.conv_1", y)
        y = conv(f"{name}.conv_2", norm(f"{name}.bn_2", y))
        return conv(f"{name}.conv_3", norm(f"{name}.bn_3", y)) + x[:, :outputs]

    def attention(name: str, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        theta = conv(f"{name}.snconv1x1_theta", x).view(n, -1, height * width)
        phi, g = (
            F.max_pool2d(conv(f"{name}.snconv1x1_{part}", x), 2).flatten(2) for part in ("phi", "g")
        )
        weights = torch.einsum("ncq,nck->nqk", theta, phi).softmax(-1)
        seen = torch.einsum("nqk,nck->ncq", weights, g).view(n, channels // 2, height, width)
        return x + state[f"{name}.gamma"] * conv(f"{name}.snconv1x1_o_conv", seen)

    one_hot = F.one_hot(torch.tensor([label]), 1000).float()
    condition = torch.cat([latent, one_hot @ state["embeddings.weight"].T], 1)
    x = F.linear(condition, weight("generator.gen_z"), state["generator.gen_z.bias"])
    x = x.view(-1, 4, 4, 16 * WIDTH).permute(0, 3, 1, 2)
    place = 0
    for number, (_, outputs, grows) in enumerate(BLOCKS[size]):
        if number == 8:
            x = attention(f"generator.layers.{place}", x)
            place += 1
        x = block(f"generator.layers.{place}", x, WIDTH * outputs, grows)
        place += 1
    x = F.batch_norm(
        x,
        state["generator.bn.running_means"][50],
        state["generator.bn.running_vars"][50],
        state["generator.bn.weight"],
        state["generator.bn.bias"],
        eps=1e-4,
    )
    return (torch.tanh(conv("generator.conv_to_rgb", F.relu(x))[:, :3]) + 1) / 2


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return checkpoint(256)


@pytest.mark.slow
@pytest.mark.long
def test_a_real_sized_checkpoint_makes_what_the_released_network_makes_from_every_stage(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    generator = load_biggan(tmp_path)
    assert (generator.stages, generator.image_shape) == (14, (3, 256, 256))
    features = generator.init(torch.tensor([207]), torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(state, 256, features.free["latent"], 207)
    assert expected.std() > 0.05
    check_stages(generator, features, expected)


@pytest.mark.slow
def test_other_checkpoints_are_refused_before_compute(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    for change, problem in (
        ({"generator.layers.3.conv_0.weight_u": None}, r"layers\.3\.conv_0\.weight_u and"),
        ({"embeddings.weight": torch.zeros(128, 9)}, r"embeddings\.weight has shape \(128, 9\)"),
        ({"generator.layers.3.bn_0.running_means": None}, r"layers\.3\.bn_0\.mean is missing"),
        ({"generator.layers.30.gamma": torch.zeros(1)}, "it has 14 blocks, expected one of 11, 13"),
    ):
        # Tensors of the right shapes that take no room.
        given = {name: torch.ones(()).expand(value.shape) for name, value in state.items()}
        for name, value in change.items():
            given.pop(name, None)
            if value is not None:
                given[name] = value
        torch.save(given, path)
        with pytest.raises(DataUnavailableError, match=problem):
            load_biggan(path)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(DataUnavailableError, match=re.escape(f"{other}: is not a BigGAN-deep")):
        load_biggan(other)
