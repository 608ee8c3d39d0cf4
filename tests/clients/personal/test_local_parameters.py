"""Which tensors stay with a client, and what a client without any of its own does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atoll.clients.apps.local_clients import clients_of
from atoll.clients.arrays.local_tensors import LocalTensors
from atoll.clients.personal.local_names import local_names
from atoll.errors import InvalidExperimentError
from tests.support.clients.personal_federation import CLIENTS, ROUNDS, Federation, initial_model


def network() -> nn.Module:
    return nn.ModuleDict(
        {
            "table": nn.Embedding(5, 4),
            "norms": nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)]),
            "body": nn.Linear(4, 4),
            "head": nn.Linear(4, 2),
        }
    )


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (["embedding"], {"table.weight"}),
        (["head"], {"head.weight", "head.bias"}),
        (
            ["norm"],
            {f"norms.{n}.{kind}" for n in range(3) for kind in ("weight", "bias")}
            | {f"norms.1.{kind}" for kind in ("running_mean", "running_var")}
            | {"norms.1.num_batches_tracked"},
        ),
        (
            ["*.bias", "embedding"],
            {"table.weight", "body.bias", "head.bias"} | {f"norms.{n}.bias" for n in range(3)},
        ),
    ],
)
def test_groups_and_patterns_name_tensors(local: list[str], expected: set[str]) -> None:
    assert local_names(network(), local) == expected


def test_frozen_parameters_are_nobodys_own() -> None:
    model = network()
    model["table"].requires_grad_(False)
    with pytest.raises(InvalidExperimentError, match="no trained embedding table"):
        local_names(model, ["embedding"])
    assert "table.weight" not in local_names(model, ["body"])


def test_a_client_that_has_not_trained_has_the_initial_values() -> None:
    federation = Federation({"local": "head"})
    initial = initial_model(federation.spec)
    federation.train(clients=(0, 1))
    clients = clients_of(federation.spec)
    own = clients.personal._local
    own.load({})
    for name, value in own.read().items():
        assert torch.equal(value, initial.state_dict()[name])
    # Two clients have something of their own now, and the third has what all began with.
    assert [bool(context.state) for context in federation.contexts] == [True, True, False]
    told = federation.evaluate(2)
    assert told["personal-accuracy"] == told["accuracy"]
    assert federation.evaluate(0)["personal-loss"] != federation.evaluate(0)["loss"]


def test_local_values_of_another_shape_are_refused() -> None:
    local = LocalTensors(nn.Linear(2, 2), ["bias"])
    with pytest.raises(ValueError, match="has shape"):
        local.load({"bias": torch.zeros(3)})


def test_without_anything_of_their_own_clients_train_as_ever_and_together() -> None:
    plain, tuned = Federation({}), Federation({"personal": {"name": "fine-tuning"}})
    for _ in range(ROUNDS):
        plain.train()
        tuned.train()
    assert all(torch.equal(value, tuned.arrays[key]) for key, value in plain.arrays.items())
    assert clients_of(tuned.spec).personal.obstacle is None
    assert "personal-accuracy" not in plain.evaluate(0)
    for client in ({"local": "head"}, {"personal": {"name": "ditto"}}):
        assert clients_of(Federation(client).spec).personal.obstacle is not None


def test_own_models_are_evaluated_as_often_as_asked() -> None:
    federation = Federation({"local": "norm", "personal_every": 2})
    found = []
    for _ in range(ROUNDS):
        federation.train()
        found.append(["personal-loss" in federation.evaluate(i) for i in range(CLIENTS)])
    assert found == [[False] * CLIENTS, [True] * CLIENTS, [True] * CLIENTS]


def test_a_users_own_method_is_named_by_its_class() -> None:
    name = "tests.support.clients.personal_federation:Multiplied"
    same = Federation({"personal": {"name": name}}).evaluate(0)
    assert same["personal-loss"] == same["loss"]
    zero = Federation({"personal": {"name": name, "factor": 0.0}}).evaluate(0)
    assert zero["personal-loss"] == pytest.approx(math.log(10))
