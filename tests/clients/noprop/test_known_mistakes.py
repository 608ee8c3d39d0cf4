"""Mistakes of public implementations, each made impossible or shown not to be ours.

The schedule's direction is in ``test_diffusion.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.noprop.block_training import block_objective as objectives
from atoll.clients.noprop.block_training.epoch_training import train_epoch
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.training_units import (
    TrainingUnit,
    index_of,
    make_shared_part,
    make_unit,
    unit_names,
)
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.network import NoPropNetwork
from atoll.clients.settings import ClientSettings
from atoll.clients.training.evaluation import evaluate
from tests.support.clients.small_networks import design, seeded

ADAMW = {"optimizer": "adamw", "learning_rate": 2e-3, "batch_size": 16}


def digits() -> Any:
    return load_dataset("digits")


def examples(count: int) -> Examples:
    dataset = digits()
    return Examples(dataset, dataset.train, np.arange(count))


def trained(made: Design, count: int, epochs: int) -> tuple[SharedPart, dict[str, TrainingUnit]]:
    shared = make_shared_part(made, 0)
    parts = {name: make_unit(name, made, shared, 0) for name in unit_names(made)}
    client = ClientSettings.model_validate({**ADAMW, "epochs": epochs})
    for place, part in enumerate(parts.values()):
        torch.manual_seed(place)
        train_epoch(part, examples(count), client, learning_rate=2e-3, generator=seeded(place))
    return shared, parts


def network_of(made: Design, shared: SharedPart, parts: dict[str, TrainingUnit]) -> NoPropNetwork:
    network = NoPropNetwork(made)
    network.shared = shared
    for name, part in parts.items():
        if name.startswith("block"):
            network.blocks[index_of(name)] = part.module.get_submodule("block")
    return network.eval()


@pytest.mark.long
def test_a_block_that_saw_z_t_in_training_fails_in_stochastic_inference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A label too clear in training: the noise-free accuracy hides it, the stochastic one not."""
    made = design(image_shape=(1, 8, 8), block="small", steps=5, mean_of=3)
    test = digits()
    found = []
    sound = objectives.noised
    for shift in (0, 1):

        def at_a_later_level(
            target: Tensor, level: float, noise: Tensor, shift: int = shift
        ) -> Tensor:
            place = min(made.levels.index(level) + shift, len(made.levels) - 1)
            return sound(target, made.levels[place], noise)

        monkeypatch.setattr(objectives, "noised", at_a_later_level)
        network = network_of(made, *trained(made, 480, 6))
        done = evaluate(network, test, test.test, np.arange(300))
        runs = done.right_otherwise["stochastic_runs"] / done.examples
        found.append((done["accuracy"], float(runs.mean())))
    (right, right_stochastic), (wrong, wrong_stochastic) = found
    assert right > 0.8
    assert right_stochastic > wrong_stochastic + 0.05
    assert right - wrong < right_stochastic - wrong_stochastic


@pytest.mark.slow
def test_no_label_reaches_inference() -> None:
    """Predictions are the same whatever the labels are; accuracy on shifted labels is not."""
    made = design(image_shape=(1, 8, 8), block="small", steps=3, mean_of=2)
    network = network_of(made, *trained(made, 600, 4))
    dataset = digits()
    seen: list[dict[str, Tensor]] = []
    honest = network.inferences

    def watched(images: Tensor, place: int) -> dict[str, Tensor]:
        seen.append(honest(images, place))
        return seen[-1]

    network.inferences = watched  # type: ignore[method-assign]
    split = dataset.test
    shifted = type(split)(split.images, (split.labels + 1) % 10)
    true = evaluate(network, dataset, split, np.arange(200))
    false = evaluate(network, dataset, shifted, np.arange(200))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert true["accuracy"] > 0.6
    assert false["accuracy"] < 0.2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("noprop-dt", {}),
        ("noprop-dt", {"embedding": "learned"}),
        ("noprop-ct", {"snr_weight": True}),
        ("noprop-fm", {}),
        ("noprop-fm", {"embedding": "learned"}),
    ],
)
def test_every_trained_tensor_of_a_network_is_trained_by_some_part(
    name: str, arguments: dict[str, Any]
) -> None:
    made = design(name, image_shape=(1, 8, 8), block="small", steps=2, **arguments)
    before = {
        part_name: {k: v.clone() for k, v in _fresh(part_name, made).module.named_parameters()}
        for part_name in unit_names(made)
    }
    parts = {}
    client = ClientSettings.model_validate(ADAMW)
    for part_name in unit_names(made):
        parts[part_name] = _fresh(part_name, made)
        train_epoch(parts[part_name], examples(64), client, learning_rate=2e-3, generator=seeded())
    moved = set()
    for part_name, part in parts.items():
        for key, parameter in part.module.named_parameters():
            assert not torch.equal(parameter, before[part_name][key]), (part_name, key)
            where, _, rest = key.partition(".")
            moved.add(
                f"shared.{rest}" if where == "shared" else f"blocks.{index_of(part_name)}.{rest}"
            )
    wanted = {key for key, p in NoPropNetwork(made).named_parameters() if p.requires_grad}
    assert moved == wanted


def test_blocks_share_no_tensor_with_each_other() -> None:
    made = design(block="small", steps=3)
    shared = make_shared_part(made, 0)
    pointers: list[set[int]] = []
    for name in ("block-01", "block-02", "block-03"):
        module = make_unit(name, made, shared, 0).module
        pointers.append({t.data_ptr() for t in module.state_dict().values() if t.numel()})
    assert not pointers[0] & pointers[1]
    assert not pointers[1] & pointers[2]


def _fresh(name: str, made: Design) -> TrainingUnit:
    return make_unit(name, made, make_shared_part(made, 0), 0)
