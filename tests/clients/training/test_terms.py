"""Terms for label skew, contrast, wrong labels and soft targets against plain loops of autograd."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from torch import Tensor, nn

from atoll.clients.settings import ClientSettings, TermSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.objective.named_terms import check_terms, find_terms
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.objective.term import TermContext
from atoll.clients.training.terms.noisy_labels import NestedDropout, _other_network
from atoll.errors import InvalidExperimentError
from tests.support.clients.objectives import (
    settings_with,
    small_network,
    some_examples,
    train_with,
)

EXAMPLES = 17


def plan(settings: ClientSettings, seed: int = 0) -> list[Tensor]:
    """Return the places of each step's examples."""
    generator = torch.Generator().manual_seed(seed)
    return [
        chosen
        for _ in range(settings.epochs or 1)
        for chosen in torch.randperm(EXAMPLES, generator=generator).split(settings.batch_size)
    ]


def step(model: nn.Module, loss: Tensor, learning_rate: float) -> None:
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= learning_rate * gradient


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def skewed() -> tuple[Tensor, Tensor]:
    """Return examples of three of the four classes, in unequal numbers."""
    inputs, _ = some_examples(EXAMPLES)
    return inputs, torch.tensor([0] * 9 + [1] * 2 + [3] * 6)


def test_fedlc_subtracts_margins_of_the_fourth_root() -> None:
    inputs, labels = skewed()
    settings = settings_with({"name": "fedlc", "tau": 0.7}, epochs=2)
    model = small_network()
    expected = copy.deepcopy(model)
    margins = torch.tensor([0.7 / count**0.25 for count in (9, 2, 1e-8, 6)])
    for chosen in plan(settings):
        loss = F.cross_entropy(expected(inputs[chosen]) - margins, labels[chosen])
        step(expected, loss, 0.1)
    train_with(model, inputs, labels, settings)
    assert_equal(model, expected)


def test_fedrs_scales_the_logits_of_missing_classes() -> None:
    inputs, labels = skewed()
    settings = settings_with({"name": "fedrs", "alpha": 0.3, "weight": 0.6}, epochs=2)
    model = small_network()
    expected = copy.deepcopy(model)
    for chosen in plan(settings):
        outputs = expected(inputs[chosen])
        scaled = outputs * torch.tensor([1.0, 1.0, 0.3, 1.0])
        plain = F.cross_entropy(outputs, labels[chosen])
        step(expected, 0.4 * plain + 0.6 * F.cross_entropy(scaled, labels[chosen]), 0.1)
    train_with(model, inputs, labels, settings)
    assert_equal(model, expected)


def test_moon_contrasts_the_model_that_was_sent_with_the_clients_earlier_one() -> None:
    inputs, labels = some_examples(EXAMPLES)
    settings = settings_with({"name": "moon", "weight": 2.0, "temperature": 0.4}, epochs=2)
    state = RecordDict()
    sent = [small_network(seed) for seed in (1, 2)]
    previous = copy.deepcopy(sent[0])
    for chosen in plan(settings):
        step(previous, F.cross_entropy(previous(inputs[chosen]), labels[chosen]), 0.1)
    expected = copy.deepcopy(sent[1])
    for chosen in plan(settings):
        given, wanted = inputs[chosen], labels[chosen]
        own, of_server, earlier = (m[:2](given) for m in (expected, sent[1], previous))  # type: ignore[index]
        near = torch.exp(F.cosine_similarity(own, of_server.detach()) / 0.4)
        far = torch.exp(F.cosine_similarity(own, earlier.detach()) / 0.4)
        contrast = -torch.log(near / (near + far)).mean()
        step(expected, F.cross_entropy(expected(given), wanted) + 2.0 * contrast, 0.1)
    first, second = (copy.deepcopy(model) for model in sent)
    train_with(first, inputs, labels, settings, state=state)
    assert_equal(first, previous)
    train_with(second, inputs, labels, settings, state=state)
    assert_equal(second, expected)


def test_elr_pulls_predictions_to_their_running_mean() -> None:
    inputs, labels = some_examples(EXAMPLES)
    settings = settings_with({"name": "elr", "weight": 2.5, "beta": 0.6}, epochs=2)
    model, state = small_network(), RecordDict()
    expected, targets = copy.deepcopy(model), torch.zeros(EXAMPLES, 4)
    for _ in (1, 2):
        train_with(model, inputs, labels, settings, state=state)
        for chosen in plan(settings):
            outputs = expected(inputs[chosen])
            predicted = outputs.softmax(-1).clamp(1e-4, 1 - 1e-4)
            now = predicted.detach() / predicted.detach().sum(-1, keepdim=True)
            targets[chosen] = 0.6 * targets[chosen] + 0.4 * now
            pull = torch.log(1 - (targets[chosen] * predicted).sum(-1)).mean()
            step(expected, F.cross_entropy(outputs, labels[chosen]) + 2.5 * pull, 0.1)
    assert_equal(model, expected)
    (record,) = state.array_records.values()
    torch.testing.assert_close(torch.from_numpy(record["targets"].numpy().copy()), targets)


@pytest.mark.parametrize("teacher", ["server", "local"])
def test_ps_kd_mixes_labels_with_an_earlier_models_predictions(teacher: str) -> None:
    inputs, labels = some_examples(EXAMPLES)
    settings = settings_with({"name": "ps-kd", "alpha": 0.9, "teacher": teacher}, epochs=2)
    state, sent = RecordDict(), [small_network(seed) for seed in (1, 2)]
    own = copy.deepcopy(sent[0])
    train_with(own, inputs, labels, settings, state=state, server_round=1, num_rounds=3)
    before = copy.deepcopy(own if teacher == "local" else sent[1])
    expected, share = copy.deepcopy(sent[1]), 0.9 * 2 / 3
    for chosen in plan(settings):
        soft = before(inputs[chosen]).softmax(-1).detach()
        target = (1 - share) * F.one_hot(labels[chosen], 4) + share * soft
        logs = expected(inputs[chosen]).log_softmax(-1)
        step(expected, -(target * logs).sum(-1).mean(), 0.1)
    second = copy.deepcopy(sent[1])
    train_with(second, inputs, labels, settings, state=state, server_round=2, num_rounds=3)
    assert_equal(second, expected)
    assert len(state) == (teacher == "local")


def test_nested_dropout_keeps_the_first_features() -> None:
    inputs, labels = some_examples(EXAMPLES)
    # With so narrow a distribution only the first feature is kept.
    settings = settings_with({"name": "nested-dropout", "deviation": 0.1}, epochs=2)
    model = small_network()
    expected = copy.deepcopy(model)
    for chosen in plan(settings):
        features = expected[:2](inputs[chosen]) * torch.tensor([1.0] + [0.0] * 7)  # type: ignore[index]
        step(expected, F.cross_entropy(expected[2](features), labels[chosen]), 0.1)  # type: ignore[index]
    train_with(model, inputs, labels, settings)
    assert_equal(model, expected)


def test_nested_dropout_draws_lengths_from_half_a_gaussian() -> None:
    model = small_network()
    context = TermContext(
        model=model, names=[], start=[], task=classes_of(4), settings=ClientSettings(),
        learning_rate=0.1, seed=5,
    )  # fmt: skip
    change = NestedDropout(deviation=3.0).begin(context).change_features
    assert change is not None
    draws = 4000
    lengths = torch.stack([change(torch.ones(1, 8)).sum() for _ in range(draws)]).long()
    shares = torch.tensor([math.exp(-((k / 3.0) ** 2)) for k in range(1, 9)])
    shares /= shares.sum()
    found = torch.bincount(lengths, minlength=9)[1:] / draws
    assert (found - shares).abs().max() < 4 * math.sqrt(0.25 / draws)


def test_co_teaching_exchanges_the_examples_of_small_loss() -> None:
    inputs, labels = some_examples(EXAMPLES)
    term = {"name": "co-teaching", "forget_rate": 0.6, "gradual_rounds": 4}
    settings = settings_with(term, epochs=2)
    model, state = small_network(), RecordDict()
    start = copy.deepcopy(model)
    context = TermContext(
        model=start, names=[], start=[torch.zeros(1)], task=classes_of(4), settings=settings,
        learning_rate=0.1, seed=9,
    )  # fmt: skip
    expected, other = copy.deepcopy(model), copy.deepcopy(_other_network(context))
    assert not torch.equal(other[0].weight, expected[0].weight)  # type: ignore[index]
    for number in (1, 2):
        rounds = {"server_round": number, "term_seed": 9}
        train_with(model, inputs, labels, settings, state=state, **rounds)
        for chosen in plan(settings):
            kept = int((1 - 0.6 * number / 4) * len(chosen))
            given, wanted = inputs[chosen], labels[chosen]
            ours = F.cross_entropy(expected(given), wanted, reduction="none")
            theirs = F.cross_entropy(other(given), wanted, reduction="none")
            small_ours, small_theirs = ours.argsort()[:kept], theirs.argsort()[:kept]
            step(expected, ours[small_theirs].mean(), 0.1)
            step(other, theirs[small_ours].mean(), 0.1)
    assert_equal(model, expected)
    found = NodeMemory(state, "co-teaching").read()
    for name, wanted_values in other.named_parameters():
        torch.testing.assert_close(found[name], wanted_values.detach())


@pytest.mark.parametrize("name", ["fedlc", "fedrs", "elr", "ps-kd"])
def test_terms_about_classes_refuse_a_regression_and_a_loss_of_ones_own(name: str) -> None:
    terms = find_terms([TermSettings(name=name)])
    with pytest.raises(InvalidExperimentError, match=f"'{name}': it is about classes, and the tas"):
        check_terms(terms, Regression(), ClientSettings())
    own: dict[str, Any] = {"loss": "my_losses:focal"}
    with pytest.raises(InvalidExperimentError, match="client.loss = 'my_losses:focal' replaces"):
        check_terms(terms, classes_of(4), ClientSettings(**own))
