"""Personal methods against plain re-implementations, for three rounds of three clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.clients.personal_federation import (
    CLIENTS,
    ROUNDS,
    Federation,
    PlainClient,
    Tensors,
    average,
    initial_model,
    state_of,
    with_state,
)

NORM = ("2.",)
HEAD = ("4.",)
BODY = ("1.", "2.")


def close(found: Tensors, expected: Tensors) -> None:
    assert found.keys() <= expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


def trained(client: dict[str, Any]) -> tuple[Federation, list[PlainClient]]:
    """Return a federation after its rounds, and its clients' examples."""
    federation = Federation(client)
    for _ in range(ROUNDS):
        federation.train()
    return federation, [PlainClient(federation.spec, i) for i in range(CLIENTS)]


def plain_rounds(
    federation: Federation,
    clients: list[PlainClient],
    train: Callable[[PlainClient, nn.Module, int], None],
    local: tuple[str, ...] = (),
) -> tuple[nn.Module, list[nn.Module]]:
    """Return the global model after FedAvg's rounds, and each client's last model in them."""
    start = initial_model(federation.spec)
    shared = state_of(start)
    own: list[Tensors] = [{k: v for k, v in shared.items() if k.startswith(local)} for _ in clients]
    own = own if local else [{} for _ in clients]
    models: list[nn.Module] = []
    for server_round in range(1, ROUNDS + 1):
        models = [with_state(start, {**shared, **kept}) for kept in own]
        for client, model in zip(clients, models, strict=True):
            train(client, model, server_round)
        states = [state_of(model) for model in models]
        if local:
            own = [{k: v for k, v in s.items() if k.startswith(local)} for s in states]
        shared = average(states, [len(client.labels) for client in clients])
    ended = with_state(start, shared)
    return ended, [with_state(ended, kept) for kept in own]


def fed_avg(client: PlainClient, model: nn.Module, server_round: int) -> None:
    client.descend(model, client.batches(server_round))


def check_personal_evaluation(
    federation: Federation, clients: list[PlainClient], own: list[nn.Module]
) -> None:
    for place, (client, model) in enumerate(zip(clients, own, strict=True)):
        told = federation.evaluate(place)
        assert told["personal-accuracy"] == pytest.approx(client.accuracy(model))


@pytest.mark.parametrize(
    ("name", "local"), [("norm", NORM), ("head", HEAD), ("body", BODY), ("4.*", HEAD)]
)
def test_local_parameters_as_in_fedbn_fedper_and_lg_fedavg(
    name: str, local: tuple[str, ...]
) -> None:
    federation, clients = trained({"local": name})
    shared, own = plain_rounds(federation, clients, fed_avg, local)
    assert not [key for key in federation.arrays if key.startswith(local)]
    close(federation.arrays, state_of(shared))
    check_personal_evaluation(federation, clients, own)


def test_fedrep_trains_the_head_and_then_the_body() -> None:
    settings = {"name": "fedrep", "head_epochs": 3, "body_epochs": 2}
    federation, clients = trained({"local": "head", "personal": settings, "epochs": None})

    def fed_rep(client: PlainClient, model: nn.Module, server_round: int) -> None:
        generator = client.generator(server_round, "personal training")
        for epochs, is_trained in ((3, True), (2, False)):
            batches = client.batches(server_round, generator=generator, epochs=epochs)
            client.descend(model, batches, only=lambda key, t=is_trained: key.startswith(HEAD) is t)

    shared, own = plain_rounds(federation, clients, fed_rep, HEAD)
    close(federation.arrays, state_of(shared))
    check_personal_evaluation(federation, clients, own)


def test_ditto_keeps_a_model_near_the_global_one_and_leaves_that_as_fedavgs() -> None:
    federation, clients = trained({"personal": {"name": "ditto", "penalty": 0.3}})
    without = Federation({})
    for _ in range(ROUNDS):
        without.train()
    assert all(torch.equal(v, without.arrays[k]) for k, v in federation.arrays.items())
    own: dict[int, Tensors] = {}

    def ditto(client: PlainClient, model: nn.Module, server_round: int) -> None:
        centre = state_of(model)
        personal = with_state(model, own.get(client.client, {}))

        def penalty(of: nn.Module) -> Tensor:
            return 0.15 * sum((p - centre[key]).square().sum() for key, p in of.named_parameters())

        batches = client.batches(server_round, "personal training")
        client.descend(personal, batches, penalty)
        own[client.client] = state_of(personal)
        fed_avg(client, model, server_round)

    shared, _ = plain_rounds(federation, clients, ditto)
    close(federation.arrays, state_of(shared))
    models = [with_state(shared, own[place]) for place in range(CLIENTS)]
    check_personal_evaluation(federation, clients, models)


def test_pfedme_moves_w_to_the_minimiser_of_its_envelope() -> None:
    settings = {"name": "pfedme", "penalty": 2.0, "inner_steps": 3, "inner_rate": 0.05}
    federation, clients = trained({"personal": settings})
    own: dict[int, Tensors] = {}

    def p_fed_me(client: PlainClient, model: nn.Module, server_round: int) -> None:
        model.train()
        names, parameters = zip(*model.named_parameters(), strict=True)
        w = [p.detach().clone() for p in parameters]
        for inputs, labels in client.batches(server_round, "personal training"):
            for _ in range(3):
                loss = F.cross_entropy(model(inputs), labels)
                loss = loss + 1.0 * sum(
                    (p - q).square().sum() for p, q in zip(parameters, w, strict=True)
                )
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    for p, g in zip(parameters, gradients, strict=True):
                        p -= 0.05 * g
            w = [q - 0.1 * 2.0 * (q - p.detach()) for q, p in zip(w, parameters, strict=True)]
        own[client.client] = state_of(model)
        model.load_state_dict({**model.state_dict(), **dict(zip(names, w, strict=True))})

    shared, _ = plain_rounds(federation, clients, p_fed_me)
    close(federation.arrays, state_of(shared))
    models = [with_state(shared, own[place]) for place in range(CLIENTS)]
    check_personal_evaluation(federation, clients, models)


@pytest.mark.parametrize("adaptive", [False, True])
def test_apfl_mixes_a_model_of_the_clients_own_with_the_global_one(adaptive: bool) -> None:
    settings = {"name": "apfl", "alpha": 0.4, "adaptive": adaptive}
    federation, clients = trained({"personal": settings})
    own: dict[int, nn.Module] = {}
    alphas = dict.fromkeys(range(CLIENTS), 0.4)

    def mixture(v: nn.Module, w: nn.Module, alpha: float) -> nn.Module:
        made = with_state(v, {})
        with torch.no_grad():
            for m, a, b in zip(made.parameters(), v.parameters(), w.parameters(), strict=True):
                m.copy_(alpha * a + (1 - alpha) * b)
        return made

    def apfl(client: PlainClient, model: nn.Module, server_round: int) -> None:
        v = own.setdefault(client.client, with_state(model, {}))
        batches = client.batches(server_round, "personal training")
        model.train()
        for place, (inputs, labels) in enumerate(batches):
            alpha = alphas[client.client]
            mixed = mixture(v, model, alpha).train()
            g_mixed = torch.autograd.grad(
                F.cross_entropy(mixed(inputs), labels), list(mixed.parameters())
            )
            buffers = dict(mixed.named_buffers())
            g_w = torch.autograd.grad(
                F.cross_entropy(model(inputs), labels), list(model.parameters())
            )
            with torch.no_grad():
                rows = list(zip(v.parameters(), model.parameters(), g_mixed, g_w, strict=True))
                slope = sum(float(((a - b) * g).sum()) for a, b, g, _ in rows)
                for a, b, g, h in rows:
                    a -= 0.1 * alpha * g
                    b -= 0.1 * h
            v.load_state_dict({**v.state_dict(), **buffers})
            if adaptive and place == 0:
                alphas[client.client] = min(1.0, max(0.0, alpha - 0.1 * slope))

    shared, _ = plain_rounds(federation, clients, apfl)
    close(federation.arrays, state_of(shared))
    assert (set(alphas.values()) == {0.4}) is not adaptive
    models = [mixture(own[place], shared, alphas[place]) for place in range(CLIENTS)]
    check_personal_evaluation(federation, clients, models)


@pytest.mark.parametrize("only", [(), HEAD])
def test_fine_tuning_trains_the_global_model_before_it_is_judged(only: tuple[str, ...]) -> None:
    settings: dict[str, Any] = {"name": "fine-tuning", "epochs": 3, "learning_rate": 0.1}
    if only:
        settings["trained"] = ["head"]
    federation, clients = trained({"personal": settings})
    shared, _ = plain_rounds(federation, clients, fed_avg)
    close(federation.arrays, state_of(shared))
    tuned = []
    for client in clients:
        model = with_state(shared, {})
        generator = client.generator(ROUNDS, "personal evaluation")
        batches = client.batches(ROUNDS, generator=generator, epochs=3)
        client.descend(model, batches, only=lambda key: not only or key.startswith(only))
        tuned.append(model)
    check_personal_evaluation(federation, clients, tuned)
    assert all(not context.state for context in federation.contexts)
