"""What is refused, or warned of, before a federation starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.serverapp.strategy import FedAvg
from torch import nn

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.errors import InvalidExperimentError
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_checks import check_federation, domains_held
from tests.support.strategies.small_federation import LAYOUTS, Float64, make_federation

Parts = tuple[Dataset, Partition]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    make_federation(tmp_path, LAYOUTS["several domains on a client"])
    return Dataset(tmp_path / "data"), Partition(tmp_path / "parts")


def test_one_domain_has_nothing_to_be_aligned_with(tmp_path: Path) -> None:
    make_federation(tmp_path, [{"photo": 4}, {"photo": 5}])
    dataset, partition = Dataset(tmp_path / "data"), Partition(tmp_path / "parts")
    assert domains_held(dataset, partition) == ["photo"]
    with pytest.raises(
        InvalidExperimentError, match=r"'HGP': the clients hold 1 domain \('photo'\)"
    ):
        check_federation(build_strategy("HGP", {}), Float64(9, 3), dataset, partition)
    check_federation(build_strategy("ERM", {}), Float64(9, 3), dataset, partition)


def test_a_head_that_is_not_linear_is_refused_where_a_closed_form_is_asked_for(
    parts: Parts,
) -> None:
    model = Float64(9, 3)
    model.head = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    for name, settings in (("Fishr", {}), ("Hutchinson", {}), ("CMA", {"classes": 3})):
        with pytest.raises(InvalidExperimentError, match=f"'{name}': .* head is a Sequential"):
            check_federation(build_strategy(name, settings), model, *parts)
    check_federation(build_strategy("HGP", {}), model, *parts)
    check_federation(build_strategy("Hutchinson", {"estimator": "shared-probes"}), model, *parts)


def test_a_model_without_a_head_is_refused_where_moments_are_asked_for(parts: Parts) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten())
    with pytest.raises(InvalidExperimentError, match="the model has no head"):
        check_federation(build_strategy("VREx", {}), model, *parts)
    check_federation(build_strategy("ERM", {}), model, *parts)
    check_federation(FedAvg(), model, *parts)


def test_batch_norm_and_dropout_are_warned_of(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [nn.Flatten(), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 3)]
    with caplog.at_level(logging.WARNING, logger="atoll"):
        check_federation(build_strategy("VREx", {}), nn.Sequential(*layers), *parts)
    assert "BatchNorm layers in training mode" in caplog.text
    assert "different masks" in caplog.text
    stepping = {"client_update": "gradient", "server_optimizer": "sgd", "server_learning_rate": 0.1}
    with pytest.raises(InvalidExperimentError, match="statistics that it is evaluated with at"):
        check_federation(build_strategy("VREx", stepping), nn.Sequential(*layers), *parts)


def test_the_number_of_classes_is_the_datas(parts: Parts) -> None:
    check_federation(build_strategy("CMA", {"classes": 3}), Float64(9, 3), *parts)
    with pytest.raises(InvalidExperimentError, match=r"classes = 2: the data have 3 classes"):
        check_federation(build_strategy("CMA", {}), Float64(9, 3), *parts)
