"""Attacks that know the aggregation, against brute force and Flower's own Krum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedTrimmedAvg, Krum, Strategy
from torch import Tensor

from atoll import flower
from atoll.attacks import POISONS, FangKrum, FangTrimmedMean
from atoll.attacks.poisoning.fang import krum_selects, krum_step, largest_krum_step
from atoll.flower.arrays import array_record, to_array

CLIENTS, ATTACKERS = 10, 3
NODES = tuple(range(1, ATTACKERS + 1))


def honest(seed: int, count: int = CLIENTS - ATTACKERS, size: int = 12) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 0.3 + torch.randn(count, size, generator=random, dtype=torch.float64)


def record(values: Tensor) -> ArrayRecord:
    return array_record({"w": to_array(values.numpy().astype(np.float32))})


def aggregated(strategy: Strategy, updates: Tensor) -> Tensor:
    """What Flower's strategy makes of updates of a model of zeros."""
    flower.assume_identity()
    replies = []
    for node, update in enumerate(updates, start=1):
        content = RecordDict({"arrays": record(torch.zeros_like(update))})
        asked = Message(content, dst_node_id=node, message_type="train")
        metrics = MetricRecord({"num-examples": 1})
        reply = RecordDict({"arrays": record(update), "metrics": metrics})
        replies.append(Message(reply, reply_to=asked))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    return torch.from_numpy(np.array(arrays["w"].numpy()))


@pytest.mark.parametrize("seed", range(5))
def test_krum_is_flowers(seed: int) -> None:
    updates = honest(seed, CLIENTS)
    chosen = krum_selects(updates, ATTACKERS)
    found = aggregated(Krum(num_malicious_nodes=ATTACKERS, fraction_evaluate=0.0), updates)
    assert torch.equal(found, updates[chosen].float())


@pytest.mark.parametrize("seed", range(5))
def test_flowers_krum_selects_the_attackers_update_and_not_a_farther_one(seed: int) -> None:
    own = honest(seed)
    attack = FangKrum(nodes=NODES, knowledge="omniscient")
    crafted = attack.craft(own, CLIENTS)
    everyone = torch.cat([crafted.expand(ATTACKERS, -1), own])
    strategy = Krum(num_malicious_nodes=ATTACKERS, fraction_evaluate=0.0)
    assert torch.equal(aggregated(strategy, everyone), crafted.float())
    # The model moves against the honest direction in every coordinate.
    direction = own.mean(0).sign()
    assert bool((crafted * direction < 0).all())
    # Of all steps on a grid, the largest that Krum selects is less than two of the one found.
    step = krum_step(own, direction, ATTACKERS)
    assert torch.allclose(crafted, -step * direction)
    bound = largest_krum_step(own, ATTACKERS)
    selected = [
        tried
        for tried in np.linspace(bound / 400, bound, 400)
        if krum_selects(torch.cat([(-tried * direction).expand(ATTACKERS, -1), own]), ATTACKERS)
        < ATTACKERS
    ]
    assert step <= max(selected) * (1 + 1e-9)
    assert step == bound or max(selected) < 2 * step * (1 + 1e-9)


def test_no_step_beyond_the_bound_is_selected() -> None:
    for seed in range(20):
        own = honest(seed)
        direction, bound = own.mean(0).sign(), largest_krum_step(own, ATTACKERS)
        for factor in (1.001, 1.5, 4.0, 100.0):
            crafted = (-factor * bound * direction).expand(ATTACKERS, -1)
            assert krum_selects(torch.cat([crafted, own]), ATTACKERS) >= ATTACKERS


@pytest.mark.parametrize("seed", range(5))
def test_no_attacker_moves_the_trimmed_mean_farther(seed: int) -> None:
    own = honest(seed)
    direction = own.mean(0).sign()
    crafted = FangTrimmedMean(nodes=NODES, knowledge="omniscient").craft(own, CLIENTS)
    strategy = FedTrimmedAvg(beta=ATTACKERS / CLIENTS, fraction_evaluate=0.0)

    def reached(sent: Tensor) -> Tensor:
        return aggregated(strategy, torch.cat([sent, own])) * direction

    found = reached(crafted.expand(ATTACKERS, -1))
    random = torch.Generator().manual_seed(seed)
    for scale in (0.3, 1.0, 3.0, 1000.0):
        for _ in range(10):
            other = scale * torch.randn(ATTACKERS, own.shape[1], generator=random).double()
            assert bool((found <= reached(other) + 1e-5).all())
    # And it is within twice the honest extreme, which a rule against outliers may let pass.
    extreme = torch.where(direction > 0, own.min(0).values, own.max(0).values)
    assert bool(((crafted - extreme) * direction <= 0).all())
    assert bool(((crafted - extreme).abs() <= extreme.abs() + 1e-12).all())


def test_colluders_use_their_own_updates_alone() -> None:
    own = honest(1, ATTACKERS)
    mean, deviation = own.mean(0), own.std(0, correction=0)
    crafted = FangTrimmedMean(nodes=NODES).craft(own, CLIENTS)
    shifts = (mean - crafted) / deviation * mean.sign()
    assert bool(((shifts >= 3) & (shifts <= 4)).all())
    assert torch.equal(crafted, FangTrimmedMean(nodes=NODES).craft(own, CLIENTS))
    assert not torch.equal(crafted, FangTrimmedMean(nodes=NODES, seed=1).craft(own, CLIENTS))
    by_krum = FangKrum(nodes=NODES).craft(own, CLIENTS)
    assert bool((by_krum * mean.sign() < 0).all())


def test_updates_that_are_equal_leave_nothing_to_hide_in() -> None:
    own = torch.zeros(7, 4, dtype=torch.float64)
    assert torch.equal(FangKrum(nodes=NODES, knowledge="omniscient").craft(own, 10), own[0])
    assert {"fang-krum", "fang-trimmed-mean"} <= set(POISONS)
