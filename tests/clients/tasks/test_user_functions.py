"""A loss and metrics of a user's own: used where they are named, and checked before a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atoll import Experiment
from atoll.clients import ClientSettings, evaluate, load_dataset, train
from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare

MODULE = """
import torch
import torch.nn.functional as F

def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")

def squared(logits, labels):
    return (logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])).square().sum(-1)

def top3(logits, labels):
    return (logits.topk(3).indices == labels[:, None]).any(-1).float()

def accuracy(logits, labels):
    return (logits.argmax(-1) == labels).float()

def mean(logits, labels):
    return F.cross_entropy(logits, labels)

def detached(logits, labels):
    return logits.detach().sum(-1)

def a_list(logits, labels):
    return [0.0] * len(labels)

def raising(logits, labels):
    return logits @ labels

NUMBER = 1
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    name = f"functions_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(MODULE)
    yield name
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def trained(loss: str | None) -> tuple[list[torch.Tensor], float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    images, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 4
    settings = ClientSettings(batch_size=4, epochs=2, loss=loss)
    generator = torch.Generator().manual_seed(0)
    result = train(model, images, labels, settings, learning_rate=0.1, generator=generator)
    return [parameter.detach().clone() for parameter in model.parameters()], result.loss


def test_the_same_loss_gives_the_same_training(mine: str) -> None:
    ours, theirs = trained(None), trained(f"{mine}:cross_entropy")
    for one, other in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(one, other)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-6)


def test_another_loss_is_descended(mine: str) -> None:
    """One step of SGD on all examples, beside the gradient written down."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    images, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 4
    expected = (F.softmax(model(images), -1) - F.one_hot(labels, 4)).square().sum(-1).mean()
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    wanted = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    settings = ClientSettings(batch_size=12, loss=f"{mine}:squared")
    generator = torch.Generator().manual_seed(0)
    result = train(model, images, labels, settings, learning_rate=0.1, generator=generator)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    for found, value in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(found.detach(), value)


def test_a_metric_is_the_mean_over_examples(mine: str) -> None:
    digits = load_dataset("digits")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    indices = np.arange(300)
    metrics = (f"{mine}:top3", f"{mine}:accuracy")
    done = evaluate(model, digits, digits.test, indices, metrics=metrics)
    assert done.own_metrics()["accuracy"] == pytest.approx(done["accuracy"])
    assert done["accuracy"] < done.own_metrics()["top3"] < 1
    halves = [
        evaluate(model, digits, digits.test, part, metrics=metrics)
        for part in np.array_split(indices, 2)
    ]
    assert (halves[0] + halves[1]).own_metrics() == pytest.approx(done.own_metrics())
    assert evaluate(model, digits, digits.test, indices[:0], metrics=metrics).own_metrics() == {
        "top3": 0.0,
        "accuracy": 0.0,
    }


def tables(**sections: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, dict[str, Any]] = {
        "run": {"rounds": 2},
        "data": {"dataset": "digits", "clients": 4},
        "model": {"name": "mlp", "hidden": [8]},
    }
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        ("mean", "returned a tensor of shape (); expected a tensor with a value for each example"),
        ("a_list", "returned a list; expected a tensor"),
        ("detached", "do not depend on the outputs by autograd"),
        ("NUMBER", "is a int, expected a callable"),
        ("missing", "has no attribute 'missing'"),
        ("raising", "raised RuntimeError"),
    ],
)
def test_what_is_wrong_is_one_line_before_the_run(function: str, answer: str, mine: str) -> None:
    experiment = Experiment.from_dict(tables(client={"loss": f"{mine}:{function}"}))
    with pytest.raises((InvalidExperimentError, EngineError)) as error:
        check_settings(experiment)
        prepare(experiment)
    assert answer in str(error.value)
    assert "client.loss" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sections", "answer"),
    [
        ({"client": {"vectorize": True}}, "client.vectorize = True: client.loss"),
        ({"client": {"mods": ["mixup"]}}, "client.mods has 'mixup'"),
        ({"capture": {"nodes": [1], "rounds": [1]}}, "no client.loss with [capture]"),
        ({"model": {"name": "noprop-dt"}}, "has a loss of its own"),
        ({"run": {"metrics": ["my:loss"]}}, "'loss' is the name of another metric"),
        ({"run": {"metrics": ["my:f1", "other:f1"]}}, "'f1' is the name of another metric"),
        ({"client": {"loss": "no reference"}}, "client.loss = 'no reference'"),
    ],
)
def test_what_it_cannot_go_with(sections: dict[str, Any], answer: str, mine: str) -> None:
    client = {"loss": f"{mine}:squared", **sections.get("client", {})}
    found = tables(**{**sections, "client": client})
    if sections.get("model"):
        found["model"] = sections["model"]
    with pytest.raises(InvalidExperimentError) as error:
        Experiment.from_dict(found)
    assert answer in str(error.value)


def test_alignment_has_a_loss_of_its_own(mine: str) -> None:
    data = {"dataset": "rotated-digits", "clients": 5, "held_out": ["75"]}
    experiment = Experiment.from_dict(
        tables(
            data={**data, "partition": {"name": "domain"}},
            client={"loss": f"{mine}:squared"},
            strategy={"name": "VREx"},
        )
    )
    with pytest.raises(InvalidExperimentError, match="aligns moments of the cross-entropy"):
        prepare(experiment)
