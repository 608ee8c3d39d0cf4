"""A user's own statistics and penalties: exact as ours are, and their bugs named where they are."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.clients.moments.head_statistics import HessianProbes
from atoll.clients.moments.statistic_names import statistic_from_json, to_json
from atoll.errors import EngineError
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from tests.support.strategies import centralised as c
from tests.support.strategies import own_methods
from tests.support.strategies.own_methods import PoweredFeatures
from tests.support.strategies.small_federation import LAYOUTS, make_federation, values

OWN = own_methods.__name__
STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1.0,
}


def third_moments(domains: list[c.Domain], w: Tensor) -> Tensor:
    found = [torch.stack([((d.z + 0.5) ** power).mean(0) for power in (1, 3)]) for d in domains]
    mean = c.mean(w, found)
    return torch.stack([(m - mean).abs().pow(1.5).sum() for m in found]).sum()


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_statistic_of_ones_own_is_exact_too(layout: str, weighting: str, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS[layout])
    expected = c.objective_gradient(
        federation.model, federation.data, third_moments, 2.0, weighting
    )
    arguments = {**STEP, "penalty_weight": 2.0, "domain_weights": weighting}
    strategy = build_strategy(f"{OWN}:ThirdMoments", arguments)
    after, metrics = federation.round(strategy)
    for key, value in expected.items():
        moved = values(federation.arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, value.numpy(), atol=1e-10)
    assert metrics["bytes_up_PoweredFeatures"] > 0.0


def test_a_statistic_travels_by_its_classs_name_and_ours_by_their_own() -> None:
    own = PoweredFeatures((1, 2), -1.0)
    text = to_json(own)
    assert json.loads(text)["name"] == f"{OWN}:PoweredFeatures"
    assert statistic_from_json(text) == own
    assert json.loads(to_json(HessianProbes(1, 2)))["name"] == "hessian-probes"


class Renamed(HessianProbes):
    """One of ours with something changed, which must not be taken for ours."""


def test_a_class_derived_from_one_of_ours_is_itself() -> None:
    assert type(statistic_from_json(to_json(Renamed(1, 2)))) is Renamed


def test_a_class_that_clients_cannot_import_is_refused() -> None:
    class Local(HessianProbes):
        pass

    with pytest.raises(EngineError, match="clients cannot import it; expected a class at the top"):
        to_json(Local(1))
    for name in (
        f"{OWN}:ThirdMoments",
        f"{OWN}:np",
    ):
        with pytest.raises(Exception, match="is no Statistic|has no attribute"):
            statistic_from_json(json.dumps({"name": name}))


def line_of(text: str) -> int:
    lines = Path(own_methods.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("name", "message", "line"),
    [
        (
            "Typo",
            "Typo.penalty raised AttributeError: 'Tensor' object has no attribute 'sqare'",
            "gradients.sqare()",
        ),
        (
            "BrokenGradient",
            "the gradient of BrokenGradient.penalty raised ZeroDivisionError: no gradient here",
            "raise ZeroDivisionError",
        ),
    ],
)
def test_a_bug_in_a_penalty_is_one_line_that_names_the_users(
    name: str, message: str, line: str, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    strategy = build_strategy(f"{OWN}:{name}", {"penalty_weight": 1.0})
    with pytest.raises(EngineError) as caught:
        federation.round(strategy)
    told = str(caught.value)
    assert told.startswith(message)
    assert f"own_methods.py:{line_of(line)}: " in told
    assert "\n" not in told
    # What is chained is the user's own frames, none of the engine's.
    cause = caught.value.__cause__
    assert cause is not None
    frames = traceback.extract_tb(cause.__traceback__)
    assert {Path(frame.filename).name for frame in frames} == {"own_methods.py"}


def test_a_bug_in_a_statistic_names_the_users_line_from_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    strategy = build_strategy(f"{OWN}:AsksBroken", {"penalty_weight": 1.0})
    # This grid does not catch what a client raises; the engine and stock Flower do.
    with caplog.at_level(logging.WARNING, logger="atoll"), pytest.raises(EngineError) as caught:
        federation.round(strategy)
    line = line_of("cotangent * outputs.feature.sum()")
    assert "the statistic BrokenStatistic raised AttributeError" in str(caught.value)
    assert f"own_methods.py:{line}: " in str(caught.value)


def test_a_statistic_whose_fields_no_message_can_hold_is_refused(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    strategy = build_strategy(f"{OWN}:AsksUnsendable", {"penalty_weight": 1.0})
    with pytest.raises(EngineError, match="its fields cannot be sent"):
        federation.round(strategy)


def test_an_error_of_ours_is_not_laid_at_the_users_door(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    federation.grid.failing = {(node, "query.moments"): 2 for node in (1, 2, 3)}
    strategy: AlignmentStrategy = build_strategy(  # type: ignore[assignment]
        f"{OWN}:Typo", {"penalty_weight": 1.0}
    )
    strategy._counts = {1: {"photo": 9}, 2: {"art": 13}, 3: {"sketch": 7}}
    with pytest.raises(EngineError, match="no client answered the query for moments"):
        federation.round(strategy)
