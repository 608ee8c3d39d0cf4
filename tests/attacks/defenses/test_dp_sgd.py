import pytest
import torch
from flwr.app import Context, RecordDict
from scipy import stats
from torch import Tensor

from atoll.attacks.defenses.dp_sgd import DPSGD
from atoll.clients.models.texts.minilm import Bert, BertSizes
from atoll.clients.tasks.losses import losses_of
from atoll.clients.training.step_mods import LocalStep
from tests.attacks.defenses.base.test_privacy_accounting import exact_epsilon
from tests.support.attacks.one_step import CLASSES, a_model, a_step, a_task, flat, gradient


def per_sample(step) -> list[Tensor]:  # type: ignore[no-untyped-def]
    losses = losses_of(step.model(step.images), step.labels)
    return [flat(torch.autograd.grad(loss, step.parameters, retain_graph=True)) for loss in losses]


def without_noise(clipping_norm: float) -> DPSGD:
    """As good as none, which no experiment may ask for."""
    return DPSGD.model_construct(clipping_norm=clipping_norm, noise_multiplier=1e-12)


def a_text_step(examples: int) -> LocalStep:
    """A step of BERT's encoder on texts of several lengths."""
    torch.manual_seed(0)
    model = Bert(BertSizes(50, 9, 8, 1, 2, 16), padding=0, outputs=CLASSES)
    tokens = torch.randint(1, 50, (examples, 7))
    tokens[torch.arange(7) >= torch.randint(2, 8, (examples, 1))] = 0
    return a_step(model, examples, inputs=tokens)


@pytest.mark.parametrize("model", ["lenet", "resnet8", "bert"])
def test_every_examples_gradient_is_clipped_before_the_mean(model: str) -> None:
    step = a_text_step(5) if model == "bert" else a_step(a_model(model), examples=5)
    single = per_sample(step)
    bound = float(torch.stack([g.norm() for g in single]).median())
    expected = sum(g * min(1.0, bound / float(g.norm())) for g in single) / 5
    tiny = without_noise(clipping_norm=bound)
    torch.testing.assert_close(
        flat(tiny.apply(a_task(step), gradient)), expected, rtol=1e-3, atol=1e-6
    )


def test_the_noise_has_the_deviation_that_epsilon_is_for() -> None:
    step = a_step(a_model(), examples=5)
    plain = flat(without_noise(clipping_norm=1.0).apply(a_task(step), gradient))
    noisy = flat(DPSGD(noise_multiplier=3.0, clipping_norm=1.0).apply(a_task(step), gradient))
    assert stats.kstest(((noisy - plain) / (3.0 / 5)).numpy(), "norm").pvalue > 1e-3


def test_epsilon_counts_passes_over_the_clients_examples() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    step = a_step(a_model("linear"), examples=4)
    defense = DPSGD(noise_multiplier=2.0)
    first = defense.metrics(context, [step, step])["epsilon"]
    second = defense.metrics(context, [step])["epsilon"]
    for epsilon, passes in ((first, 2), (second, 3)):
        exact = exact_epsilon(2.0, passes, 1e-5)
        assert epsilon == pytest.approx(exact, rel=1e-9)


def test_a_client_without_examples_spends_nothing() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    assert DPSGD().metrics(context, []) == {"epsilon": 0.0}


def test_the_model_has_no_hooks_left() -> None:
    step = a_step(a_model())
    DPSGD().apply(a_task(step), gradient)
    # Hooks that were left would keep each example's gradient of this pass.
    gradient(a_task(step))
    assert not any(hasattr(p, "grad_sample") for p in step.parameters)


def test_batchnorm_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm"):
        DPSGD().check_model(a_model("resnet8", norm="batch"))
