"""An attack on real clients' updates, measured."""

from __future__ import annotations

from typing import Any

import torch

from atoll.attacks.base.attack import Attack
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.threat.observation import used_examples
from atoll.attacks.victims import Attacked, Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from tests.support.attacks.real_updates import client_update

# The client's gradient is read off its weights: a large step loses least to rounding.
ONE_STEP = {"batch_size": 64, "learning_rate": 1.0}


def attacked(
    name: str,
    model: dict[str, Any],
    groups: list[list[int]],
    client: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    state: dict[str, torch.Tensor] | None = None,
    **settings: Any,
) -> list[Attacked]:
    """Attack a client for each group of examples."""
    attack: Attack = build_attack(name, settings)
    victims = []
    for number, group in enumerate(groups):
        capture, truth = client_update(
            model, client or ONE_STEP, group, node_id=number + 1, state=state
        )
        victims.append(Victim(capture, used_examples(truth)))
    references = references_of(load_dataset("digits"))
    observations = observe_victims(victims, attack, public=references.public)
    return attack_victims(
        name, attack, victims, observations, candidates=references.candidates, seed=seed
    )


def figures(results: list[Attacked], name: str) -> list[Any]:
    """One metric of every image."""
    return [row[name] for result in results for row in result.rows]
