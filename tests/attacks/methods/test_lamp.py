"""LAMP: its language model, its simulation of embedded texts, and what it recovers."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.methods.texts.lamp import Lamp, another_order
from atoll.attacks.optim.language_prior import PAIR_WEIGHT, BigramPrior
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.embedded_texts import EmbeddedClient
from atoll.attacks.threat.observation import Observation, observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.victims import Attacked, Victim, attack_victims, observe_victims, references_of
from atoll.clients.tasks.next_token import NextToken
from atoll.errors import AttackError
from tests.support.attacks.other_kinds import (
    CLASSES,
    LENGTH,
    TOKENS,
    VOCABULARY,
    dataset_of,
    victim_of,
)

pytestmark = pytest.mark.slow

TEXT = {"name": "text-transformer", "width": 32, "heads": 2, "layers": 1}
QUICK = {
    "starts": 20,
    "turns": 8,
    "steps": 30,
    "reorderings": 20,
    "learning_rate": 0.1,
    "decay": 0.8,
}


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_the_language_model_is_that_of_counts_by_hand(
    public: list[list[int]], text: list[int]
) -> None:
    prior = BigramPrior.of(torch.tensor(public), vocabulary=5, padding=0)
    tokens = [token for row in public for token in row if token]
    pairs = [(a, b) for row in public for a, b in pairwise(row) if a and b]

    def single(token: int) -> float:
        return (tokens.count(token) + 1) / (len(tokens) + 5)

    def after(a: int, b: int) -> float:
        first = sum(one == a for one, _ in pairs)
        share = pairs.count((a, b)) / first if first else 0.0
        return PAIR_WEIGHT * share + (1 - PAIR_WEIGHT) * single(b)

    costs = [-math.log(single(text[0]))]
    costs += [-math.log(after(a, b)) for a, b in pairwise(text)]
    assert prior(torch.tensor([text])).item() == pytest.approx(np.mean(costs), rel=1e-5)


def watched(folder: Path, examples: int = 1) -> tuple[Victim, Observation]:
    victim = victim_of(dataset_of(folder, TOKENS, CLASSES), TEXT, examples=examples)
    return victim, observe(victim.capture, ThreatModel.of(Capability.TRAINING))


def test_embeddings_of_tokens_have_the_update_of_the_tokens(tmp_path: Path) -> None:
    victim, observation = watched(tmp_path)
    client = EmbeddedClient(observation)
    tokens, labels = victim.truth.inputs.long(), victim.truth.labels
    own = int((tokens != TOKENS.padding).sum())
    assert client.length == own
    simulated = ClientSimulation.of(observation)(tokens, labels)
    embedded = client.update(client.table[tokens[:, :own]], labels)
    for place, found in zip(client.matched, embedded, strict=True):
        torch.testing.assert_close(found, simulated[place])
    table = set(range(len(simulated))) - set(client.matched)
    assert [simulated[place].shape for place in table] == [client.table.shape]
    assert torch.equal(client.nearest(client.table[tokens[:, :own]]), tokens[:, :own])


def test_the_slope_by_embeddings_is_that_of_finite_differences(tmp_path: Path) -> None:
    victim, observation = watched(tmp_path)
    client = EmbeddedClient(observation)
    generator = torch.Generator().manual_seed(0)
    shape = (1, client.length, client.table.shape[1])
    given, along = (torch.randn(shape, generator=generator) for _ in range(2))

    def size(embeddings: torch.Tensor) -> torch.Tensor:
        update = client.update(embeddings, victim.truth.labels)
        return torch.stack([tensor.square().sum() for tensor in update]).sum()

    variable = given.clone().requires_grad_(True)
    [slope] = torch.autograd.grad(size(variable), [variable])
    step = 1e-2
    differences = (size(given + step * along) - size(given - step * along)) / (2 * step)
    assert float((slope * along).sum()) == pytest.approx(float(differences), rel=2e-2)


@given(st.integers(0, 3), st.integers(1, 9), st.randoms(use_true_random=False))
def test_an_order_has_every_place_once(kind: int, length: int, random: object) -> None:
    order = another_order(kind, length, lambda count: random.randrange(count))  # type: ignore[attr-defined]
    assert sorted(order) == list(range(length))


def attacked(folder: Path, **settings: object) -> Attacked:
    dataset = dataset_of(folder, TOKENS, CLASSES)
    victims = [victim_of(dataset, TEXT)]
    attack = Lamp.model_validate({**QUICK, **settings})
    references = references_of(dataset)
    observations = observe_victims(victims, attack, public=references.public)
    [result] = attack_victims(
        "lamp", attack, victims, observations, candidates=references.candidates
    )
    return result


def test_most_tokens_of_a_text_are_recovered_and_one_seed_has_one_result(tmp_path: Path) -> None:
    """Their order is not: the places' embeddings of an untrained model hardly differ."""
    found = attacked(tmp_path)
    assert found.rows[0]["rouge1"] > 0.6
    assert torch.equal(found.examples, attacked(tmp_path).examples)


@pytest.mark.long
def test_reordering_and_the_language_model_act(tmp_path: Path) -> None:
    whole = attacked(tmp_path)
    without = attacked(tmp_path, reorderings=0)
    other = attacked(tmp_path, language_weight=50.0)
    assert not torch.equal(whole.examples, without.examples) or whole.rows != without.rows
    assert not torch.equal(whole.examples, other.examples) or whole.rows != other.rows


def test_next_tokens_and_models_without_embeddings_are_refused(tmp_path: Path) -> None:
    following = dataset_of(tmp_path, TOKENS, NextToken(vocabulary=VOCABULARY, length=LENGTH))
    causal = victim_of(following, {"name": "char-transformer", "width": 32, "heads": 2})
    public = references_of(following).public
    with pytest.raises(AttackError, match="expected a classification"):
        observe_victims([causal], Lamp(), public=public)
