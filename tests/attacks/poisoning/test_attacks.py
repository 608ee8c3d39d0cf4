"""Poisoning attacks, on vectors and on images."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.attacks import (
    ALIE,
    POISONS,
    DistributedBackdoor,
    EdgeCaseBackdoor,
    InnerProduct,
    LabelFlip,
    MinMax,
    MinSum,
    ModelReplacement,
    PixelBackdoor,
)
from atoll.attacks.poisoning.collusion import Direction, alie_z
from atoll.clients import load_dataset
from atoll.clients.data.files.dataset import Dataset

HONEST = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
DIRECTIONS: tuple[Direction, ...] = ("std", "unit", "sign")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_alie_is_the_papers() -> None:
    # Of n = 50 with m = 24: s = floor(50 / 2 + 1) - 24 = 2, and z = Phi^-1((50 - 24 - 2) / 26).
    assert alie_z(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert alie_z(10, 0) == 0.0
    found = ALIE(nodes=(1, 2), z=1.5).craft(HONEST, 10)
    columns = HONEST.numpy()
    assert np.allclose(found.numpy(), columns.mean(0) - 1.5 * columns.std(0))
    assert np.allclose(
        ALIE(nodes=tuple(range(1, 25))).craft(HONEST, 50).numpy(),
        columns.mean(0) - alie_z(50, 24) * columns.std(0),
    )


def test_inner_product_turns_a_mean_round_from_its_threshold_on() -> None:
    mean = HONEST.mean(0)
    for epsilon, is_turned in ((2.9, False), (3.1, True)):
        sent = InnerProduct(nodes=(7, 8), epsilon=epsilon).craft(HONEST, 8)
        aggregate = torch.cat([HONEST, sent.expand(2, -1)]).mean(0)
        assert (float(aggregate @ mean) < 0) is is_turned


def searched(honest: Tensor, shift: Tensor, is_allowed: object) -> float:
    """The papers' search for gamma (their algorithm 1): halving steps from a large start."""
    gamma, step, found = 50.0, 25.0, 0.0
    while step > 1e-10:
        if is_allowed(honest.mean(0) + gamma * shift):  # type: ignore[operator]
            found, gamma = gamma, gamma + step
        else:
            gamma -= step
        step /= 2
    return found


def shift_of(direction: Direction) -> Tensor:
    mean = HONEST.mean(0)
    return {
        "std": -HONEST.std(0, correction=0),
        "unit": -mean / mean.norm(),
        "sign": -mean.sign(),
    }[direction]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_is_where_the_papers_search_ends(direction: Direction) -> None:
    largest = max(float((a - b).norm()) for a in HONEST for b in HONEST)
    shift = shift_of(direction)
    gamma = searched(
        HONEST, shift, lambda sent: max(float((sent - x).norm()) for x in HONEST) <= largest
    )
    found = MinMax(nodes=(1,), direction=direction).craft(HONEST, 10)
    assert torch.allclose(found, HONEST.mean(0) + gamma * shift, atol=1e-8)
    assert gamma > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_sum_is_where_the_papers_search_ends(direction: Direction) -> None:
    def total(sent: Tensor) -> float:
        return sum(float((sent - x).square().sum()) for x in HONEST)

    largest, shift = max(map(total, HONEST)), shift_of(direction)
    gamma = searched(HONEST, shift, lambda sent: total(sent) <= largest)
    found = MinSum(nodes=(1,), direction=direction).craft(HONEST, 10)
    assert torch.allclose(found, HONEST.mean(0) + gamma * shift, atol=1e-8)
    assert gamma > 0


def test_one_client_alone_has_nothing_to_hide_in() -> None:
    alone = HONEST[:1]
    for attack in (ALIE(nodes=(1,)), MinMax(nodes=(1,)), MinSum(nodes=(1,))):
        assert torch.equal(attack.craft(alone, 10), alone[0])


def test_labels_are_flipped_and_the_goal_is_what_was_written(digits: Dataset) -> None:
    everything = np.arange(len(digits.test))
    labels = torch.from_numpy(digits.test.labels.copy())
    reverse = LabelFlip(nodes=(1,), dataset=digits.directory)
    assert torch.equal(reverse.flipped(labels), 9 - labels)
    assert len(reverse.aims(digits, everything)) == len(everything)
    one = LabelFlip(nodes=(1,), source=7, target=1)
    chosen = one.aims(digits, everything)
    assert set(digits.test.labels[chosen]) == {7}
    assert len(chosen) == int((labels == 7).sum())
    assert one.goal(digits, chosen)[1].unique().tolist() == [1]


@pytest.mark.parametrize("kind", [PixelBackdoor, ModelReplacement, DistributedBackdoor])
def test_a_share_of_examples_gets_the_trigger(
    kind: type[PixelBackdoor | DistributedBackdoor], digits: Dataset
) -> None:
    attack = kind(nodes=(2, 5), target=3, poison_share=0.25, dataset=digits.directory)
    inputs = digits.inputs.to_tensor(digits.train.inputs[:40].copy())
    labels = torch.from_numpy(digits.train.labels[:40].copy())
    changed, wrong = attack.change(inputs, labels, attack.generator(5), 5)
    touched = (changed != inputs).flatten(1).any(1)
    assert int((wrong != labels).sum()) <= 10
    assert (wrong[touched] == 3).all()
    # A trigger is white: some images may have it already.
    assert 8 <= int(touched.sum()) <= 10
    again, _ = attack.change(inputs, labels, attack.generator(5), 5)
    assert torch.equal(changed, again)
    chosen = attack.aims(digits, np.arange(len(digits.test)))
    assert (digits.test.labels[chosen] != 3).all()
    stamped, wanted = attack.goal(digits, chosen[:5])
    assert wanted.tolist() == [3] * 5
    white = digits.inputs.to_tensor(np.full((1, 8, 8, 1), 255, np.uint8))[0, 0, 0, 0]
    pixels = 8 if kind is DistributedBackdoor else 9
    assert (stamped == white).flatten(1).sum(1).min() >= pixels


def test_the_parts_of_a_distributed_trigger_make_it_up() -> None:
    attack = DistributedBackdoor(nodes=(1, 2, 3, 4, 5), length=2, gap=1)
    blank, white = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 1)
    parts = [attack.stamp(blank, white, attack.part_of(node)) for node in (1, 2, 3, 4)]
    assert torch.equal(sum(parts, torch.zeros_like(blank)), attack.stamp(blank, white, None))
    assert attack.part_of(5) == attack.part_of(1)


def test_edge_cases_are_the_tail_of_their_class(digits: Dataset) -> None:
    attack = EdgeCaseBackdoor(
        nodes=(1,), source=7, target=1, tail=0.1, poison_share=0.5, dataset=digits.directory
    )
    of_class = np.flatnonzero(digits.train.labels == 7)
    vectors = digits.inputs.to_tensor(digits.train.inputs[of_class]).flatten(1).double().numpy()
    distances = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    tail = vectors[np.argsort(-distances)[: round(0.1 * len(of_class))]]
    inputs = digits.inputs.to_tensor(digits.train.inputs[:40].copy())
    labels = torch.from_numpy(digits.train.labels[:40].copy())
    changed, wrong = attack.change(inputs, labels, attack.generator(1), 1)
    replaced = (changed != inputs).flatten(1).any(1)
    assert int(replaced.sum()) == 20
    assert (wrong[replaced] == 1).all()
    for image in changed[replaced].flatten(1).double().numpy():
        assert np.abs(tail - image).max(1).min() < 1e-6
    chosen = attack.aims(digits, np.arange(len(digits.test)))
    assert len(chosen) == round(0.1 * int((digits.test.labels == 7).sum()))


@pytest.mark.parametrize("name", list(POISONS))
def test_an_attack_says_who_it_is(name: str) -> None:
    assert POISONS[name].name == name
