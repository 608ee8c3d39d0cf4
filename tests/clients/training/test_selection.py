"""Scores of examples against their definitions, and what is trained on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from pydantic import ValidationError

from atoll.clients.settings import ClientSettings, SelectionSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.training.local_training import train
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.selection import el2n_scores, grand_scores, selected
from tests.support.clients.objectives import small_network, some_examples

EXAMPLES = 17


def test_el2n_is_the_norm_of_the_error() -> None:
    model, (inputs, labels) = small_network(), some_examples(EXAMPLES)
    errors = model(inputs).softmax(-1) - F.one_hot(labels, 4)
    found = el2n_scores(model, classes_of(4), inputs, labels)
    torch.testing.assert_close(found, errors.square().sum(-1).sqrt().detach())


def test_grand_is_the_norm_of_each_gradient() -> None:
    model, (inputs, labels) = small_network(), some_examples(EXAMPLES)
    expected = []
    for image, label in zip(inputs, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        flat = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        expected.append(flat.norm())
    found = grand_scores(model, classes_of(4), inputs, labels)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("score", ["el2n", "grand"])
def test_a_client_drops_the_lowest_mean_scores_after_its_rounds(score: str) -> None:
    inputs, labels = some_examples(EXAMPLES)
    settings = SelectionSettings(score=score, drop=0.3, score_rounds=2)  # type: ignore[arg-type]
    memory, task = NodeMemory(RecordDict(), "selection"), classes_of(4)
    function = {"el2n": el2n_scores, "grand": grand_scores}[score]
    total = torch.zeros(EXAMPLES)
    for seed in (1, 2):
        model = small_network(seed)
        assert selected(settings, memory, model, task, inputs, labels, seed=0) is None
        assert model.training
        total += function(model, task, inputs, labels).detach()
    kept = selected(settings, memory, small_network(3), task, inputs, labels, seed=0)
    expected = np.sort(np.argsort(-total.numpy(), kind="stable")[:12])
    assert kept is not None
    assert kept.tolist() == expected.tolist()


def test_training_sees_the_kept_examples_alone() -> None:
    inputs, labels = some_examples(EXAMPLES)
    kept = torch.tensor([1, 4, 5, 9, 16])
    settings = ClientSettings(learning_rate=0.1, batch_size=2, epochs=3)
    model, plain = small_network(), small_network()
    result = train(
        model, inputs, labels, settings, learning_rate=0.1,
        generator=torch.Generator().manual_seed(0), kept=kept,
    )  # fmt: skip
    other = train(
        plain, inputs[kept], labels[kept], settings, learning_rate=0.1,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (result.examples, result.loss) == (5, other.loss)
    for found, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_random_scores_are_the_clients_own_and_drop_as_many() -> None:
    inputs, labels = some_examples(EXAMPLES)
    settings = SelectionSettings(score="random", drop=0.5, score_rounds=1)
    found = []
    for seed in (1, 2, 1):
        memory = NodeMemory(RecordDict(), "selection")
        arguments = (settings, memory, small_network(), classes_of(4), inputs, labels, seed)
        assert selected(*arguments) is None
        kept = selected(*arguments)
        assert kept is not None
        found.append(copy.copy(kept.tolist()))
    assert found[0] == found[2] != found[1]
    assert len(found[0]) == 8


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_nobody_drops_nothing_or_everything(drop: float) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings(drop=drop)
