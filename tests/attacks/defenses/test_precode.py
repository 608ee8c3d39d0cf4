import pytest
import torch

from atoll.attacks.defenses.precode import Precode
from atoll.clients.models.variational_bottleneck import find_bottleneck
from atoll.clients.training.gradients import gradients_of
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_the_divergence_is_in_the_gradient_with_its_weight() -> None:
    step = a_step(a_model("precode", base="lenet", width=8))

    def defended(beta: float) -> torch.Tensor:
        task = a_task(step)
        torch.manual_seed(3)
        return flat(Precode(beta=beta).apply(task, gradient))

    torch.manual_seed(3)
    step.objective()
    divergence = find_bottleneck(step.model).divergence
    slopes = gradients_of(divergence, step.parameters)
    torch.testing.assert_close(
        defended(0.5) - defended(0.0), 0.5 * flat(slopes), rtol=1e-3, atol=1e-6
    )


def test_the_gradient_differs_from_sample_to_sample() -> None:
    step = a_step(a_model("precode", base="lenet", width=8))
    task = a_task(step)
    first, second = (flat(Precode().apply(task, gradient)) for _ in range(2))
    assert float(torch.cosine_similarity(first, second, dim=0)) < 0.999


def test_the_attacker_leaves_out_the_bottlenecks_parameters_alone() -> None:
    step = a_step(a_model("precode", base="lenet", width=8))
    observed = Precode().apply(a_task(step), gradient)
    estimate = Precode.estimate(observed, step.model)
    left = Precode.mimic(observed, estimate)
    bottleneck = find_bottleneck(step.model)
    inside = {id(p) for p in bottleneck.parameters()}
    size = sum(p.numel() for p in bottleneck.parameters())
    assert estimate.figures["parameters left out"] == size
    for parameter, before, after in zip(step.parameters, observed, left, strict=True):
        expected = torch.zeros_like(before) if id(parameter) in inside else before
        assert torch.equal(after, expected)


def test_a_model_without_the_bottleneck_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected model.name = 'precode'"):
        Precode().check_model(a_model())
