"""Terms of the objective against plain loops of autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from torch import Tensor, nn

from atoll.clients.models.weights.masks import with_masks
from atoll.clients.settings import ClientSettings, MaskSettings, TermSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.objective.named_terms import (
    TERMS,
    check_terms,
    find_terms,
    obstacle_to_vectorizing,
)
from atoll.errors import InvalidExperimentError
from tests.support.clients.objectives import (
    settings_with,
    small_network,
    some_examples,
    train_with,
)

OWN = "tests.support.clients.objectives"


def by_hand(
    model: nn.Module,
    settings: ClientSettings,
    gradient: Callable[[nn.Module, Tensor], list[Tensor]],
    seed: int = 0,
) -> list[Tensor]:
    """Return the parameters after plain gradient steps on a model's copy."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs or 1):
        for chosen in torch.randperm(17, generator=generator).split(settings.batch_size):
            found = gradient(model, chosen)
            with torch.no_grad():
                for parameter, g in zip(model.parameters(), found, strict=True):
                    parameter -= settings.learning_rate * g
    return [parameter.detach() for parameter in model.parameters()]


def gradient_of(loss: Tensor, model: nn.Module, **options: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), **options))


def norm_of(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]).norm()


def assert_trained(model: nn.Module, expected: list[Tensor], atol: float = 1e-6) -> None:
    for found, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=atol)


def test_sharpness_aware_steps_descend_the_gradient_uphill() -> None:
    inputs, labels = some_examples(17)
    settings = settings_with({"name": "sam", "rho": 0.3}, epochs=2)

    def gradient(model: nn.Module, chosen: Tensor) -> list[Tensor]:
        first = gradient_of(F.cross_entropy(model(inputs[chosen]), labels[chosen]), model)
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, g in zip(moved.parameters(), first, strict=True):
                p += 0.3 * g / norm_of(first)
        return gradient_of(F.cross_entropy(moved(inputs[chosen]), labels[chosen]), moved)

    model = small_network()
    expected = by_hand(model, settings, gradient)
    train_with(model, inputs, labels, settings)
    assert_trained(model, expected)


def test_the_gradient_norm_penalty_is_that_of_double_backpropagation() -> None:
    inputs, labels = some_examples(17)
    term = {"name": "gradient-norm", "weight": 0.2, "radius": 1e-3}
    settings = settings_with(term, epochs=2)

    def gradient(model: nn.Module, chosen: Tensor) -> list[Tensor]:
        loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
        first = gradient_of(loss, model, create_graph=True)
        return gradient_of(loss + 0.2 * norm_of(first), model)

    model = small_network().double()
    inputs = inputs.double()
    expected = by_hand(model, settings, gradient)
    train_with(model, inputs, labels, settings)
    # The finite difference is exact to the order of the radius.
    assert_trained(model, expected, atol=2e-4)


def test_the_norm_of_the_outputs_gradient_is_that_of_double_backpropagation() -> None:
    inputs, _ = some_examples(17)
    inputs, task = inputs.double(), Regression()
    targets = inputs.sum(1)
    term = {"name": "gradient-norm", "weight": 0.2, "radius": 1e-3, "of": "output"}
    settings = settings_with(term, epochs=2)

    def gradient(model: nn.Module, chosen: Tensor) -> list[Tensor]:
        outputs = model(inputs[chosen])
        loss = 0.5 * (outputs.squeeze(-1) - targets[chosen]).square().mean()
        of_output = gradient_of(outputs.mean(), model, create_graph=True)
        return gradient_of(loss + 0.2 * norm_of(of_output), model)

    model = small_network(classes=1).double()
    plain = copy.deepcopy(model)
    expected = by_hand(model, settings, gradient)
    train_with(model, inputs, targets, settings, task=task)
    assert_trained(model, expected, atol=2e-4)
    train_with(plain, inputs, targets, settings_with(epochs=2), task=task)
    change = norm_of([a - b for a, b in zip(plain.parameters(), expected, strict=True)])
    assert float(change.detach()) > 0.01


def test_the_mean_output_of_classes_is_refused() -> None:
    terms = find_terms([TermSettings(name="gradient-norm", of="output")])  # type: ignore[call-arg]
    with pytest.raises(InvalidExperimentError, match="the mean output of a classification is no"):
        check_terms(terms, classes_of(4), ClientSettings())


def test_a_function_of_ones_own_is_a_term() -> None:
    inputs, labels = some_examples(17)
    settings = settings_with({"name": f"{OWN}:squared_outputs", "weight": 0.5})

    def gradient(model: nn.Module, chosen: Tensor) -> list[Tensor]:
        outputs = model(inputs[chosen])
        return gradient_of(
            F.cross_entropy(outputs, labels[chosen]) + 0.5 * outputs.square().mean(), model
        )

    model = small_network()
    expected = by_hand(model, settings, gradient)
    train_with(model, inputs, labels, settings)
    assert_trained(model, expected)


OWN_SETTINGS = [name for name, term in TERMS.items() if term.of_strategy is None]


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_a_term_of_weight_0_leaves_every_bit_and_any_other_does_not(name: str) -> None:
    inputs, labels = some_examples(17)
    # A class that the client lacks.
    labels, trained = labels % 3, []
    for objective in ((), ({"name": name, "weight": 0.0},), ({"name": name},)):
        settings = settings_with(*objective, epochs=3)
        state = RecordDict()
        for number in (1, 2):
            model = small_network(number)
            if TERMS[name].needs_masks:
                model = with_masks(model, MaskSettings())
            rounds = {"server_round": number, "num_rounds": 2}
            train_with(model, inputs, labels, settings, state=state, **rounds)
        trained.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    plain, off, on = trained
    assert torch.equal(plain, off)
    assert not torch.equal(plain, on)


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ([{"name": "samm"}], "client.objective.name = 'samm': no such term of an objective; did"),
        ([{"name": "sam", "rho": 0.0}], "client.objective 'sam': rho = 0.0: expected"),
        ([{"name": "sam", "roh": 1.0}], "roh"),
        ([{"name": "sam"}, {"name": "SAM"}], "is there twice"),
        ([{"name": "scaffold"}], "expected strategy.name = 'SCAFFOLD' in its place"),
        ([{"name": "math:pi"}], "is a float, expected a function"),
        ([{"name": "sam"}, {"name": "elr"}], "has 'elr' and 'sam': the second computes each"),
    ],
)
def test_terms_that_cannot_be_are_refused_in_a_line(
    objective: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        find_terms([TermSettings(**term) for term in objective])
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_function_that_returns_no_scalar_is_refused() -> None:
    inputs, labels = some_examples(17)
    settings = settings_with({"name": f"{OWN}:no_scalar"})
    with pytest.raises(InvalidExperimentError, match=r"a tensor of shape \(5, 4\); expected a sc"):
        train_with(small_network(), inputs, labels, settings)


def test_terms_say_why_clients_train_one_after_another() -> None:
    (term,) = find_terms([TermSettings(name="sam")])
    assert obstacle_to_vectorizing([term]) == (
        "client.objective has 'sam': it has no form for several clients at once"
    )
