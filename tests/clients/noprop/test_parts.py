"""Baselines, memory, and the loop that trains parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.noprop.block_training.epoch_training import train_epoch
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.training_memory import (
    held_bytes,
    saved_bytes,
    training_bytes,
)
from atoll.clients.noprop.block_training.training_units import (
    make_shared_part,
    make_unit,
    unit_names,
)
from atoll.clients.noprop.networks.baseline_networks import ChainedBlocks, plain_cnn
from atoll.clients.settings import ClientSettings
from tests.support.clients.small_networks import design, seeded


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("block", ["small", "half"])
def test_the_plain_network_has_as_many_parameters_as_all_blocks(block: str) -> None:
    made = design(block=block, steps=6)
    wanted = 6 * parameters(made.make_block())
    assert parameters(plain_cnn(made)) == pytest.approx(wanted, rel=0.01)


def test_the_chain_is_its_recurrence() -> None:
    torch.manual_seed(0)
    made = design(block="small", steps=3)
    chain = ChainedBlocks(made).eval()
    with torch.no_grad():
        chain.mix.copy_(torch.tensor([0.3, 0.5, 0.7]))
        images, z = torch.randn(4, 1, 28, 28), torch.zeros(4, 10)
        for place in range(3):
            said = chain.blocks[place](images, z).softmax(1)
            alpha = np.tanh(0.3 + 0.2 * place)
            z = (1 - alpha) * z + alpha * said
        assert torch.allclose(chain(images), chain.head(z), atol=1e-5)


def test_the_chain_is_trained_end_to_end() -> None:
    torch.manual_seed(0)
    chain = ChainedBlocks(design(block="small", steps=3))
    chain(torch.randn(4, 1, 28, 28)).square().sum().backward()
    first = chain.blocks[0].from_image.weight.grad
    assert first is not None
    assert float(first.abs().max()) > 0


def test_members_of_the_ensemble_are_first_blocks_with_parameters_of_their_own() -> None:
    made = design(block="small", steps=3)
    shared = make_shared_part(made, 0)
    one, other = (make_unit(f"member-0{i}", made, shared, 0) for i in (1, 2))
    keys = one.module.state_dict().keys()
    assert keys == make_unit("block-01", made, shared, 0).module.state_dict().keys()
    weight = "block.from_image.weight"
    assert not torch.equal(one.module.state_dict()[weight], other.module.state_dict()[weight])


def test_parts_of_a_trained_embedding_have_no_head_of_their_own() -> None:
    assert unit_names(design(steps=2)) == ["head", "block-01", "block-02"]
    assert unit_names(design(steps=2, embedding="learned")) == ["block-01", "block-02"]
    assert unit_names(design("noprop-fm")) == ["block-01"]


def test_memory_counts_what_autograd_keeps_once() -> None:
    """One linear layer on a batch: its input is kept, by hand."""

    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(784, 100, bias=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1))

    from atoll.clients.noprop.block_training.training_units import ClassifierUnit

    part, made = ClassifierUnit(OneLayer()), design()
    client = ClientSettings(optimizer="adamw", batch_size=32)
    # The input; the cross-entropy keeps the log-probabilities, the labels, and a weight.
    kept = saved_bytes(part, made, 32)
    assert 32 * (784 + 100) * 4 <= kept <= 32 * (784 + 100) * 4 + 32 * 8 + 64
    weights = 784 * 100 * 4
    assert training_bytes(part, made, client) == 4 * weights + kept
    assert held_bytes(part.module) == weights


def test_one_layer_takes_at_most_a_quarter_of_the_chains_memory() -> None:
    made, client = design(block="half"), ClientSettings(optimizer="adamw", batch_size=128)
    shared = make_shared_part(made, 0)
    layer, chain = (
        training_bytes(make_unit(name, made, shared, 0), made, client)
        for name in ("block-01", "chain")
    )
    assert layer <= chain / 4


def test_measuring_memory_changes_nothing() -> None:
    made = design(block="small")
    part = make_unit("block-02", made, make_shared_part(made, 0), 0)
    before = {k: v.clone() for k, v in part.module.state_dict().items()}
    state = torch.get_rng_state()
    saved_bytes(part, made, 8)
    assert all(torch.equal(before[k], v) for k, v in part.module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_training_continues_from_the_optimisers_state_as_torch_would() -> None:
    """Two epochs with AdamW, against torch.optim.AdamW on the same batches."""
    dataset = load_dataset("digits")
    examples = Examples(dataset, dataset.train, np.arange(50))
    made = design(image_shape=(1, 8, 8), block="small", norm="none")
    client = ClientSettings(optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, batch_size=20)
    shared = make_shared_part(made, 0)
    part, twin = (make_unit("block-02", made, shared, 0) for _ in range(2))
    state = None
    for epoch in range(2):
        done = train_epoch(
            part,
            examples,
            client,
            learning_rate=1e-3,
            generator=seeded(epoch),
            optimizer=state,
        )
        state = done.optimizer
    assert (done.examples, done.steps) == (50, 3)
    optimizer = torch.optim.AdamW(twin.module.parameters(), lr=1e-3, weight_decay=0.1)
    for epoch in range(2):
        generator = seeded(epoch)
        order = torch.randperm(50, generator=generator)
        for chosen in (order[:20], order[20:40], order[40:]):
            draws = twin.draw(len(chosen), generator)
            loss, _ = twin.loss(examples.images(chosen), examples.labels(chosen), draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(part.module.parameters(), twin.module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_batch_of_one_example_is_left_out_before_batch_norm() -> None:
    dataset = load_dataset("digits")
    examples = Examples(dataset, dataset.train, np.arange(17))
    client = ClientSettings(optimizer="adamw", batch_size=16)
    for norm, seen in (("batch", 16), ("group", 17)):
        made = design(image_shape=(1, 8, 8), block="small", norm=norm)
        part = make_unit("block-01", made, make_shared_part(made, 0), 0)
        done = train_epoch(part, examples, client, learning_rate=1e-3, generator=seeded())
        assert done.examples == seen


def test_examples_are_the_data_sets_normalised() -> None:
    dataset = load_dataset("digits")
    examples = Examples(dataset, dataset.train, np.array([5, 3, 8]))
    chosen = torch.tensor([2, 0])
    assert examples.labels(chosen).tolist() == dataset.train.labels[[8, 5]].tolist()
    pixels = dataset.train.images[[8, 5]].transpose(0, 3, 1, 2) / 255
    expected = (pixels - dataset.mean[0]) / dataset.std[0]
    assert np.allclose(examples.images(chosen).numpy(), expected, atol=1e-5)
