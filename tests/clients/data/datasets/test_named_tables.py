"""Tables by name: their contents as they are published, FLamby's protocol against its code."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.datasets.heart_disease import HOSPITALS, stratified_split
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression


def test_heart_disease_has_four_hospitals() -> None:
    data = load_dataset("heart-disease")
    assert data.domains == tuple(HOSPITALS.values())
    assert data.train.domains is not None
    assert data.test.domains is not None
    sizes = np.bincount(data.train.domains) + np.bincount(data.test.domains)
    # Of UCI's four files; and its counts of the sick.
    assert sizes.tolist() == [303, 294, 123, 200]
    sick = [
        sum(int(s.labels[s.domains == place].sum()) for s in (data.train, data.test))
        for place in range(4)
    ]
    assert sick == [139, 106, 115, 149]
    assert isinstance(data.inputs, TableInputs)
    assert [column.name for column in data.inputs.columns][-1] == "thal"
    # A cholesterol of 0 is a missing one: nobody's in Switzerland was measured.
    chol = [column.name for column in data.inputs.columns].index("chol")
    swiss = data.train.inputs[data.train.domains == 2, chol]
    assert bool(np.isnan(swiss).all())


def test_flambys_protocol_has_its_sizes_and_normalisation() -> None:
    data = load_dataset("heart-disease", options={"protocol": "flamby"})
    assert data.train.groups is not None
    assert data.test.groups is not None
    # FLamby's README: 199/104, 172/89, 30/16, 85/45, and 13 columns.
    assert np.bincount(data.train.groups).tolist() == [199, 172, 30, 85]
    assert np.bincount(data.test.groups).tolist() == [104, 89, 16, 45]
    assert data.inputs.shape == (13,)
    for hospital in range(4):
        own = data.train.inputs[data.train.groups == hospital]
        assert own.mean(0) == pytest.approx(np.zeros(13), abs=1e-6)
        assert np.isin(own.std(0, ddof=1).round(6), (0.0, 1.0)).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [9, 46, 130, 303])
def test_a_stratified_split_is_scikit_learns(seed: int, size: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, size)
    ours = stratified_split(labels, 0.66, seed)
    theirs = train_test_split(
        np.arange(size),
        test_size=1.0 - 0.66,
        train_size=0.66,
        random_state=seed,
        shuffle=True,
        stratify=labels,
    )
    assert [sorted(side.tolist()) for side in ours] == [sorted(side.tolist()) for side in theirs]


def test_adult_has_its_own_test_set() -> None:
    data = load_dataset("adult")
    assert (len(data.train), len(data.test)) == (32_561, 16_281)
    assert data.task == Classification(classes=("<=50K", ">50K"))
    # adult.names: 24.78 % of those without unknowns; of all 24.08 % and 23.62 %.
    assert data.train.labels.mean() == pytest.approx(0.2408, abs=1e-4)
    assert data.test.labels.mean() == pytest.approx(0.2362, abs=1e-4)
    by_job = load_dataset("adult", options={"group": "occupation"})
    assert len(by_job.domains) == 15
    assert "missing" in by_job.domains


def test_bikeshare_is_a_count_by_months() -> None:
    data = load_dataset("bikeshare")
    assert len(data.train) + len(data.test) == 8_645
    assert data.task == Regression(loss="poisson")
    assert len(data.domains) == 12
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert labels.mean() == pytest.approx(143.79, abs=0.01)
    assert isinstance(data.inputs, TableInputs)
    names = [column.name for column in data.inputs.columns]
    assert not {"casual", "registered", "bikers", "mnth"} & set(names)
