import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.training.local_training import TrainingResult, batches, train

SHAPE = (1, 8, 8)


def model_of(name: str = "lenet", **arguments: Any) -> nn.Module:
    return build_model(ModelSettings(name=name, **arguments), SHAPE, 10, seed=1)


def examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, *SHAPE, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )


def reference(
    model: nn.Module, images: Tensor, labels: Tensor, settings: ClientSettings, seed: int
) -> TrainingResult:
    """The textbook loop: torch.optim, the proximal term in the loss, clip_grad_norm_."""
    if settings.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            model.parameters(),
            settings.learning_rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
        )
    start = [parameter.detach().clone() for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(seed)
    total, seen, steps = 0.0, 0, 0
    model.train()
    while True:
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(settings.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            distance = sum(
                (p - s).square().sum() for p, s in zip(model.parameters(), start, strict=True)
            )
            (loss + settings.proximal_mu / 2 * distance).backward()
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            optimizer.step()
            total, seen, steps = (
                total + float(loss.detach()) * len(chosen),
                seen + len(chosen),
                steps + 1,
            )
            if steps == settings.steps:
                return TrainingResult(total / seen, len(labels), steps)
        if settings.steps is None and steps == (settings.epochs or 1) * -(
            -len(labels) // settings.batch_size
        ):
            return TrainingResult(total / seen, len(labels), steps)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 3, "momentum": 0.9, "weight_decay": 0.01},
        {"steps": 7, "weight_decay": 0.1},
        {"steps": 1, "batch_size": 100},
        {"epochs": 2, "proximal_mu": 0.5},
        {"epochs": 2, "gradient_clip": 0.3},
        {"epochs": 2, "gradient_clip": 1e6},
        {"epochs": 3, "optimizer": "adam", "learning_rate": 0.003},
        {"steps": 9, "optimizer": "adam", "learning_rate": 0.003, "weight_decay": 0.05},
        {"epochs": 2, "momentum": 0.5, "proximal_mu": 0.1, "gradient_clip": 0.5},
    ],
)
@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_training_equals_the_textbook_loop(name: str, settings: dict[str, Any]) -> None:
    client = ClientSettings(**{"learning_rate": 0.1, "batch_size": 8, **settings})
    ours = model_of(name, **({"norm": "batch"} if name == "resnet8" else {}))
    theirs = copy.deepcopy(ours)
    images, labels = examples(21)
    expected = reference(theirs, images, labels, client, seed=4)
    result = train(
        ours,
        images,
        labels,
        client,
        learning_rate=client.learning_rate,
        generator=torch.Generator().manual_seed(4),
    )
    assert (result.examples, result.steps) == (expected.examples, expected.steps)
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-5)


def test_a_given_proximal_mu_replaces_that_of_the_settings() -> None:
    images, labels = examples(16)
    states = []
    for settings_mu, given_mu in ((0.7, None), (0.0, 0.7), (0.7, 0.0), (0.0, None)):
        model = model_of("mlp")
        train(
            model,
            images,
            labels,
            ClientSettings(proximal_mu=settings_mu, batch_size=4),
            learning_rate=0.1,
            generator=torch.Generator().manual_seed(0),
            proximal_mu=given_mu,
        )
        states.append(model.state_dict()["1.weight"])
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[2], states[3])
    assert not torch.equal(states[0], states[2])


@given(
    count=st.integers(0, 30),
    size=st.integers(1, 12),
    epochs=st.one_of(st.none(), st.integers(1, 3)),
    steps=st.one_of(st.none(), st.integers(1, 40)),
    seed=st.integers(0, 9),
)
def test_batches(count: int, size: int, epochs: int | None, steps: int | None, seed: int) -> None:
    settings = ClientSettings(batch_size=size, steps=steps, epochs=None if steps else epochs)
    chosen = list(batches(count, settings, torch.Generator().manual_seed(seed)))
    if count == 0:
        assert chosen == []
        return
    per_pass = -(-count // size)
    assert len(chosen) == (steps or (settings.epochs or 1) * per_pass)
    for start in range(0, len(chosen) - per_pass + 1, per_pass):
        whole_pass = torch.cat(chosen[start : start + per_pass])
        assert whole_pass.sort().values.tolist() == list(range(count))
    assert all(len(batch) == size for i, batch in enumerate(chosen) if (i + 1) % per_pass)


def test_a_client_without_examples_returns_the_global_model() -> None:
    model = model_of("mlp")
    before = copy.deepcopy(model.state_dict())
    for settings in (ClientSettings(), ClientSettings(steps=3)):
        result = train(
            model, *examples(0), settings, learning_rate=0.1, generator=torch.Generator()
        )
        assert result == TrainingResult(0.0, 0, 0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_frozen_and_unused_parameters_stay() -> None:
    model = model_of("mlp")
    model[1].weight.requires_grad_(False)
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: nn.Sequential(*list(model)[:4])(x)  # type: ignore[method-assign]
    before = copy.deepcopy(model.state_dict())
    train(model, *examples(8), ClientSettings(), learning_rate=0.1, generator=torch.Generator())
    changed = {k for k, value in model.state_dict().items() if not torch.equal(before[k], value)}
    assert changed == {"1.bias", "3.weight", "3.bias"}
