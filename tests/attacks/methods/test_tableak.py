"""TabLeak: relaxed rows, pooled restarts, and rows that are reconstructed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atoll.attacks.methods.tables.tableak import TabLeak
from atoll.attacks.threat.table_space import TableSpace
from atoll.attacks.victims import attack_victims, observe_victims, references_of
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.regression import Regression
from atoll.errors import AttackError
from tests.support.attacks.other_kinds import CLASSES, TABLE, dataset_of, victim_of

MLP = {"name": "table-mlp", "hidden": [32, 32]}


@pytest.mark.parametrize("name", ["table-linear", "table-mlp", "ft-transformer"])
def test_a_relaxed_row_that_is_certain_is_the_row(name: str, tmp_path: Path) -> None:
    stored = dataset_of(tmp_path, TABLE, CLASSES).train.inputs
    space = TableSpace(TABLE)
    relaxed = space.of_stored(torch.from_numpy(stored.copy()))
    model = build_model(ModelSettings(name=name), TABLE, CLASSES, 0)
    torch.testing.assert_close(model(relaxed), model(TABLE.to_tensor(stored)))
    torch.testing.assert_close(space.hardened(relaxed), relaxed)
    np.testing.assert_allclose(space.stored(relaxed).numpy(), stored, rtol=1e-5)


def test_relaxed_rows_are_shares_of_values_that_occur() -> None:
    space = TableSpace(TABLE)
    values = torch.randn(50, space.width, generator=torch.Generator().manual_seed(0))
    rows = space.relaxed(values)
    _, _, (pain, sex) = space._parts(rows)
    for weights in (pain, sex):
        torch.testing.assert_close(weights.sum(1), torch.ones(50))
        assert bool((weights[:, 0] == 0).all())
    assert bool(((rows[:, 2] > 0) & (rows[:, 2] < 1)).all())
    stored = space.stored(space.hardened(rows))
    assert set(stored[:, 1].tolist()) <= {1.0, 2.0, 3.0}
    assert bool((stored[:, 2].isnan() == (rows[:, 2] > 0.5)).all())


def test_entropy_is_least_where_restarts_agree() -> None:
    space = TableSpace(TABLE)
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5]])
    entropy = space.entropy(rows, torch.tensor([[0.01, 1.0]]))[0]
    assert entropy[0] < entropy[2]
    assert entropy[2] == pytest.approx(0.5 + 0.5 * np.log(2 * np.pi))
    assert (float(entropy[1]), float(entropy[3])) == (0.0, pytest.approx(1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "client",
    [
        {},
        pytest.param({"batch_size": 1, "epochs": 1}, marks=pytest.mark.long),
        pytest.param({"epochs": 3}, marks=pytest.mark.long),
    ],
)
def test_rows_are_reconstructed_by_a_gradient_or_several_steps(
    client: dict[str, Any], tmp_path: Path
) -> None:
    dataset = dataset_of(tmp_path, TABLE, CLASSES)
    references = references_of(dataset)
    victims = [victim_of(dataset, MLP, examples=2, seed=seed, **client) for seed in (0, 1)]
    attack = TabLeak(restarts=6, steps=400, labels="given", batch_order="given")
    observations = observe_victims(victims, attack)
    results = attack_victims(
        "tableak", attack, victims, observations, candidates=references.candidates
    )
    rows = [row for result in results for row in result.rows]
    assert np.mean([row["cell_accuracy"] for row in rows]) >= 0.9
    assert all(result.entropy is not None for result in results)


def test_pooling_is_of_rows_in_one_order(tmp_path: Path) -> None:
    from atoll.attacks.methods.tables.tableak import _aligned

    stored = torch.from_numpy(dataset_of(tmp_path, TABLE, CLASSES).train.inputs[:4].copy())
    space = TableSpace(TABLE)
    rows = space.of_stored(stored)
    shuffled = torch.stack([rows, rows[[2, 0, 3, 1]], rows[[3, 2, 1, 0]]])
    aligned = _aligned(space, shuffled, best=0)
    torch.testing.assert_close(aligned, torch.stack([rows] * 3))


def test_labels_that_are_numbers_must_be_given(tmp_path: Path) -> None:
    victim = victim_of(dataset_of(tmp_path, TABLE, Regression()), MLP)
    with pytest.raises(AttackError, match="task is 'regression'; .* expected them to be given"):
        observe_victims([victim], TabLeak())
    attack = TabLeak(labels="given", restarts=2, steps=3)
    [observation] = observe_victims([victim], attack)
    [found] = attack.run_checked([observation])
    assert found.examples.shape == (1, 4)


def test_a_gaussian_prior_of_public_rows_changes_what_is_found(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TABLE, CLASSES)
    references = references_of(dataset)
    victim = victim_of(dataset, MLP, examples=2)
    found = []
    for settings in ({}, {"prior": "none"}, {"prior": "gaussian"}):
        attack = TabLeak(restarts=2, steps=5, labels="given", **settings)
        observations = observe_victims([victim], attack, public=references.public)
        [attacked] = attack_victims(
            "tableak", attack, [victim], observations, candidates=references.candidates
        )
        found.append(attacked)
    assert torch.equal(found[0].examples, found[1].examples)
    assert not torch.equal(found[0].examples, found[2].examples)
    assert "prior_value" not in found[1].rows[0]
    assert found[2].rows[0]["prior_value"] > 0
    assert "public data" in found[2].rows[0]["threat"]
    with pytest.raises(AttackError, match="prior = 'total-variation': is of images"):
        observe_victims([victim], TabLeak(prior="total-variation"))
