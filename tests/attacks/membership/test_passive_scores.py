"""Signals of messages, against plain autograd; scores, against loops; a client that overfits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from atoll.attacks import example_victim
from atoll.attacks.captures.capture import Capture
from atoll.attacks.membership.candidate_signals import Candidates, RoundSignals, signals_of
from atoll.attacks.membership.operating_points import auroc
from atoll.attacks.membership.passive_scores import SCORES, fed_mia
from atoll.clients.models.model_building import build_model


@pytest.fixture(scope="module")
def victims() -> list[tuple[Capture, Candidates]]:
    """Return four clients of one round: their messages, and their examples."""
    made = [example_victim(examples=8, seed=seed) for seed in range(4)]
    first, found = made[0].capture, []
    for victim in made:
        assert victim.truth is not None
        examples = Candidates(victim.truth.normalized(first.federation), victim.truth.labels)
        update = trained(loaded(first, dict(first.broadcast)), examples)
        reply = dataclasses.replace(first.reply, arrays={"arrays": update})
        found.append((dataclasses.replace(first, reply=reply), examples))
    return found


def trained(module: torch.nn.Module, examples: Candidates) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(module(examples.inputs), examples.labels).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def loaded(capture: Capture, state: dict[str, Tensor]) -> torch.nn.Module:
    info = capture.federation
    module = build_model(info.model, info.inputs, info.task, info.model_seed)
    module.load_state_dict(state)
    return module.eval()


def test_signals_are_those_of_plain_autograd(victims: list[tuple[Capture, Candidates]]) -> None:
    captures = [capture for capture, _ in victims]
    candidates = victims[0][1]
    found = signals_of(captures, candidates)
    before = loaded(captures[0], dict(captures[0].broadcast))
    after = loaded(captures[0], dict(captures[0].update))
    parameters = list(before.parameters())
    names = [name for name, _ in before.named_parameters()]
    for place in range(len(candidates)):
        x, y = candidates.inputs[place : place + 1], candidates.labels[place : place + 1]
        loss = F.cross_entropy(before(x), y)
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        assert found.losses_before[place] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert found.losses_after[place] == pytest.approx(
            float(F.cross_entropy(after(x), y).detach()), rel=1e-4, abs=1e-6
        )
        assert found.norms[place] == pytest.approx(float(slope.norm()), rel=1e-4)
        for column, capture in enumerate(captures):
            update = torch.cat(
                [(capture.update[n] - capture.broadcast[n]).flatten() for n in names]
            )
            cosine = F.cosine_similarity(-slope, update, dim=0)
            assert found.cosines[place, column] == pytest.approx(float(cosine), abs=1e-5)


def test_fed_mia_multiplies_the_rounds_distribution_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(5)
    rounds = [
        RoundSignals(zeros, zeros, zeros, torch.rand(5, 6, generator=generator)) for _ in range(3)
    ]
    found = fed_mia(rounds)
    for place in range(5):
        product = 1.0
        for each in rounds:
            own, others = float(each.cosines[place, 0]), each.cosines[place, 1:].double().numpy()
            product *= norm.cdf(own, others.mean(), others.std(ddof=1))
        assert float(found[place]) == pytest.approx(math.log(product), rel=1e-6)
    with pytest.raises(ValueError, match="fewer than two other clients"):
        fed_mia([RoundSignals(zeros, zeros, zeros, torch.zeros(5, 2))])


@pytest.mark.parametrize("name", ["loss drop", "cosine", "FedMIA"])
def test_a_clients_own_examples_score_higher_than_other_clients(
    name: str, victims: list[tuple[Capture, Candidates]]
) -> None:
    captures = [capture for capture, _ in victims]
    members, others = ([], [])  # type: list[float], list[float]
    for place, (capture, own) in enumerate(victims):
        elsewhere = [c for other, c in enumerate(captures) if other != place]
        rounds = [signals_of([capture, *elsewhere], own)]
        members += SCORES[name](rounds).tolist()
        for _, foreign in (v for other, v in enumerate(victims) if other != place):
            others += SCORES[name]([signals_of([capture, *elsewhere], foreign)]).tolist()
    assert auroc(members, others).low > 0.55


def test_an_update_without_the_client_says_nothing(
    victims: list[tuple[Capture, Candidates]],
) -> None:
    capture, own = victims[0]
    reply = dataclasses.replace(
        capture.reply, arrays={"arrays": {k: v.clone() for k, v in capture.broadcast.items()}}
    )
    still = dataclasses.replace(capture, reply=reply)
    found = signals_of([still], own)
    assert SCORES["cosine"]([found]).abs().max() == 0.0
    assert SCORES["loss drop"]([found]).abs().max() == 0.0
