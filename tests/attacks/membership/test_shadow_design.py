"""Draws of shadow federations: balance, sizes, classes, and whose examples they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from atoll.attacks.membership.shadow_design import ShadowDesign, Target

EXAMPLES, SHADOWS = 600, 16


@pytest.fixture(scope="module")
def design() -> ShadowDesign:
    generator = np.random.default_rng(0)
    clients = tuple(np.arange(start, start + 30) for start in range(0, 150, 30))
    targets = (
        Target(1, np.arange(35, 55), np.arange(200, 220)),
        Target(4, np.arange(120, 150), np.arange(210, 240)),
    )
    pool = np.arange(250, EXAMPLES)
    return ShadowDesign(7, generator.integers(0, 5, EXAMPLES), clients, pool, targets)


def test_every_candidate_is_in_half_of_the_federations(design: ShadowDesign) -> None:
    for target in design.targets:
        included = np.stack([design.included(shadow, target) for shadow in range(SHADOWS)])
        assert (included.sum(0) == SHADOWS // 2).all()
        assert (included.sum(1) == len(target.members)).all()
        for shadow in range(0, SHADOWS, 2):
            assert (included[shadow] ^ included[shadow + 1]).all()
        # Halves of different pairs are independent draws.
        assert len({row.tobytes() for row in included}) == SHADOWS
        # Whether a candidate is the victim's makes no difference.
        of_members = included[:, : len(target.members)].mean()
        assert 0.35 < of_members < 0.65


def test_a_target_has_its_half_and_no_other_candidate(design: ShadowDesign) -> None:
    everybody = np.concatenate([target.candidates for target in design.targets])
    for shadow in range(4):
        examples = design.examples(shadow)
        for client, own in enumerate(examples):
            expected: set[int] = set()
            for target in design.targets:
                if target.client == client:
                    expected = set(target.candidates[design.included(shadow, target)].tolist())
            assert set(own.tolist()) & set(everybody.tolist()) == expected
            rest = set(own.tolist()) - expected
            assert rest <= set(design.pool.tolist())


def test_sizes_and_classes_are_the_victims(design: ShadowDesign) -> None:
    for client, own in enumerate(design.examples(3)):
        victims = design.clients[client]
        assert len(own) == len(victims)
        if client not in (1, 4):
            classes = design.classes
            assert Counter(classes[own].tolist()) == Counter(classes[victims].tolist())
            assert len(set(own.tolist())) == len(own)


def test_classes_that_the_pool_lacks_are_made_up_for() -> None:
    classes = np.array([0, 0, 1, 1, 1, 2, 2])
    clients = (np.array([0, 1]), np.array([2, 3, 4]))
    own = ShadowDesign(0, classes, clients, np.array([5, 6]), ()).examples(0)
    assert [len(examples) for examples in own] == [2, 3]
    assert set(np.concatenate(own).tolist()) <= {5, 6}


def test_one_seed_draws_the_same(design: ShadowDesign) -> None:
    again = ShadowDesign(7, design.classes, design.clients, design.pool, design.targets)
    other = ShadowDesign(8, design.classes, design.clients, design.pool, design.targets)
    for own, same in zip(design.examples(5), again.examples(5), strict=True):
        assert np.array_equal(own, same)
    assert not np.array_equal(design.examples(5)[0], other.examples(5)[0])
    assert not np.array_equal(design.examples(5)[0], design.examples(4)[0])
