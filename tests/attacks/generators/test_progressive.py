"""The progressive GAN at its real size, with random weights, against the released graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.attacks.generators.progressive import CHANNELS, load_progressive_gan
from atoll.errors import DataUnavailableError
from tests.support.attacks.stage_checks import check_stages


def graph_weights() -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of the released graph."""
    generator = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    for block, (inputs, outputs) in enumerate(CHANNELS):
        for i, before in enumerate((inputs, outputs)):
            number = 2 * block + i
            side = 4 if number == 0 else 3
            suffix = f"_{number}" if number else ""
            weights[f"module_apply_default/Conv2D{suffix}/merged_input"] = generator.normal(
                0, (2 / (side * side * before)) ** 0.5, (side, side, before, outputs)
            )
            weights[f"module/g_model/res_{block}/conv{i}/bias"] = generator.normal(0, 0.1, outputs)
    weights["module_apply_default/Conv2D_12/merged_input"] = generator.normal(
        0, 0.1, (1, 1, 128, 3)
    )
    weights["module_apply_default/add_26"] = generator.normal(0.5, 0.1, 3)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def write(weights: dict[str, np.ndarray], folder: Path) -> Path:
    entries = [{"name": n, "shape": list(v.shape), "dtype": "float32"} for n, v in weights.items()]
    (folder / "shard.bin").write_bytes(b"".join(v.tobytes() for v in weights.values()))
    manifest = {"weightsManifest": [{"paths": ["shard.bin"], "weights": entries}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def graph(weights: dict[str, np.ndarray], latent: Tensor) -> Tensor:
    """The released graph, node by node, up to its last sum."""

    def norm(x: Tensor, dim: int) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim, keepdim=True) + 1e-8)

    x = F.pad(norm(latent, -1).view(-1, 512, 1, 1), (3, 3, 3, 3))
    for number in range(13):
        suffix = f"_{number}" if number else ""
        kernel = torch.from_numpy(weights[f"module_apply_default/Conv2D{suffix}/merged_input"])
        if number >= 2 and number % 2 == 0 and number < 12:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        padding = 1 if 0 < number < 12 else 0
        x = F.conv2d(x, kernel.permute(3, 2, 0, 1), padding=padding)
        name = f"module/g_model/res_{number // 2}/conv{number % 2}/bias"
        bias = weights["module_apply_default/add_26" if number == 12 else name]
        x = x + torch.from_numpy(bias).view(1, -1, 1, 1)
        if number < 12:
            x = norm(torch.maximum(x, 0.2 * x), 1)
    return x


@pytest.mark.slow
def test_a_real_sized_model_makes_what_the_released_graph_makes_from_every_stage(
    tmp_path: Path,
) -> None:
    weights = graph_weights()
    generator = load_progressive_gan(write(weights, tmp_path))
    assert sum(p.numel() for p in generator.parameters()) == 22_926_467
    assert (generator.stages, generator.image_shape) == (6, (3, 128, 128))
    features = generator.init(torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The graph's images are around 0.5 with twice the contrast.
        expected = (graph(weights, features.free["latent"]) - 0.5) / 2 + 0.5
    check_stages(generator, features, expected)


def test_another_model_is_refused_before_compute(tmp_path: Path) -> None:
    weights = {"module_apply_default/Conv2D/merged_input": np.zeros((4, 4, 2, 2), np.float32)}
    with pytest.raises(DataUnavailableError, match="is not the progressive GAN of faces"):
        load_progressive_gan(write(weights, tmp_path))
    with pytest.raises(DataUnavailableError, match=r"nowhere.*cannot be read"):
        load_progressive_gan(tmp_path / "nowhere")
