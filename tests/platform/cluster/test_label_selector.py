"""Workers on the nodes that have the labels which ``ray.label_selector`` names."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from tests.support.clusters.probing import found_by
from tests.support.paths import CLUSTERS


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return found_by([sys.executable, CLUSTERS / "labels_probe.py"])


@pytest.mark.ray
@pytest.mark.long
def test_nodes_are_admitted_where_ray_places_actors(found: dict[str, Any]) -> None:
    assert found["atoll"] == found["ray"]
    assert found["ray"] == {
        "value": ["b"],
        "not": ["a"],
        "in": ["b"],
        "not in": ["b"],
        "missing": ["a", "b"],
        "both": ["a"],
        "neither": [],
    }


@pytest.mark.long
@pytest.mark.ray
def test_workers_are_on_nodes_with_the_labels_alone(found: dict[str, Any]) -> None:
    assert found["run"] == {"workers": 3, "zones": ["b"]}


@pytest.mark.ray
@pytest.mark.long
def test_labels_that_no_node_has_are_refused_without_a_wait(found: dict[str, Any]) -> None:
    # The error of a cluster that has no autoscaler: nothing has been waited for.
    assert found["refused"] == (
        "InvalidExperimentError: ray.label_selector = {'zone': 'c', 'rack': '1'}: no node of this "
        "Ray cluster has these labels (zone: a, b; rack: on no node)"
    )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"zone": "in(a"}, r"expected 'value', '!value', 'in\(a, b\)' or .* for zone, got 'in\(a'"),
        ({"zo ne": "a"}, r"expected a label such as 'zone' or 'ray.io/market-type', got 'zo ne'"),
        ({"zone": 3}, r"expected a valid string"),
        ("zone", r"expected a section"),
    ],
)
def test_a_selector_that_ray_cannot_read_is_refused(selector: Any, message: str) -> None:
    tables = {
        "run": {"name": "x"},
        "data": {"dataset": "digits", "clients": 4},
        "model": {"name": "linear"},
        "ray": {"label_selector": selector},
    }
    with pytest.raises(InvalidExperimentError, match=rf"^ray\.label_selector = .*: {message}$"):
        Experiment.from_dict(tables)
