"""What all alignment strategies share: FedAvg at weight 0, faults, caches, checkpoints, reports."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from atoll.clients.moments.head_statistics import HeadGradient
from atoll.clients.settings import ClientSettings
from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.strategies import build_strategy
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.methods.reweighting import kernel_quantile, project_to_simplex
from atoll.strategies.alignment.moments.domain_moments import Domains
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, hex_of, make_federation, values

pytestmark = pytest.mark.slow

STEPS = ClientSettings(learning_rate=0.2, batch_size=4, epochs=3, momentum=0.5)
SPLIT = LAYOUTS["domains split over unequal clients"]
MIXED = LAYOUTS["several domains on a client"]
ON_SERVER = ("ANDMask", "SANDMask", "MLDG", "Fish")
BY_UPDATES = ("FedGMA", "FedDGGA")
# FedSR needs a model of its own; see test_representation.py.
OTHERS = (*ON_SERVER, *BY_UPDATES, "Mixup", "FedSR", "GNS")
BY_PENALTY = [name for name in ALIGNMENT_STRATEGIES if name not in OTHERS]
EXACT_STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1.0,
}


@pytest.mark.parametrize("name", BY_PENALTY)
def test_with_weight_zero_it_is_fedavg_bit_for_bit_and_else_it_is_not(
    name: str, tmp_path: Path
) -> None:
    off = {"penalty_weight": 0.0, "domain_weights": "examples"}
    on: dict[str, Any] = {"penalty_weight": 1.0, "domain_weights": "examples", "anneal_rounds": 0}
    if name in ("SD", "FedL2R"):
        off, on = {**off, "weight": 0.0}, {**on, "weight": 0.5}
    federation = make_federation(tmp_path, SPLIT, client=STEPS)
    expected, metrics = federation.round(FedAvg(min_available_nodes=1))
    same, own = federation.round(build_strategy(name, off))
    assert hex_of(same) == hex_of(expected)
    assert own["loss"] == metrics["loss"]
    if name != "ERM":
        other, _ = federation.round(build_strategy(name, on))
        moved = [np.abs(values(other)[k] - v).max() for k, v in values(expected).items()]
        assert max(moved) > 1e-6


def test_domains_count_the_same_or_by_their_examples(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, SPLIT)
    by_examples, _ = federation.round(build_strategy("ERM", {"domain_weights": "examples"}))
    expected, _ = federation.round(FedAvg(min_available_nodes=1))
    assert hex_of(by_examples) == hex_of(expected)
    uniform, metrics = federation.round(build_strategy("ERM", {}))
    domains = c.make_domains(federation.model, federation.data)
    assert hex_of(uniform) != hex_of(expected)
    assert metrics["loss"] == pytest.approx(sum(float(d.loss.detach()) for d in domains) / 3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("HGP", {"alpha": -1.0}, r"strategy\.alpha = -1\.0: expected greater than or equal to 0"),
        ("HGP", {"target": "median"}, r"strategy\.target = 'median': expected 'detached', 'mean'"),
        ("HGP", {"alfa": 1.0}, r"strategy\.alfa = 1\.0: HGP has no such argument; did you mean 'a"),
        ("Fishr", {"decay": 1.0}, r"strategy\.decay = 1\.0: expected less than 1"),
        ("IRM", {"anneal_rounds": "ten"}, r"strategy\.anneal_rounds = 'ten': expected a valid int"),
        (
            "ERM",
            {"penalty_weight": float("nan")},
            r"strategy\.penalty_weight = nan: expected a fin",
        ),
        ("IRM", {"client_update": "gradient"}, r"server_optimizer = 'average': expected 'sgd' or"),
        ("IRM", {"server_optimizer": "adam"}, r"strategy\.server_learning_rate is not set"),
        (
            "CORAL",
            {"client_update": "quadratic"},
            r"client_update = 'quadratic': .* of CORAL is no",
        ),
        ("Mixup", {"l2": 0.1}, r"strategy\.l2 = 0\.1: Mixup mixes a client's examples"),
        ("Fish", {}, r"strategy\.server_learning_rate is not set"),
        ("Fish", {"client_update": "cotangent"}, r"client_update = 'cotangent': expected 'gradie"),
        ("FedGMA", {"server_optimizer": "adam"}, r"server_optimizer = 'adam': expected 'average'"),
        ("Hutchinson", {"probes": 0}, r"strategy\.probes = 0: expected greater than 0"),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message) as caught:
        build_strategy(name, arguments)
    assert "\n" not in str(caught.value)


def test_a_node_that_does_not_answer_is_left_out_as_if_it_were_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_federation(tmp_path / "whole", SPLIT)
    whole.grid.failing[4, "query.moments"] = 1
    arguments = {**EXACT_STEP, "decay": 0.5, "anneal_rounds": 0}
    strategy = build_strategy("Fishr", arguments)
    # The first query is for the numbers of examples; the second is for moments.
    strategy._counts = {4: {"art": 10}}  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="atoll"):
        after, _ = whole.round(strategy)
    assert "node 4 left out: out of order" in caplog.text
    nodes = [n for n in whole.grid.get_node_ids() if n != 4]
    whole.grid.get_node_ids = lambda: nodes  # type: ignore[method-assign]
    expected, _ = whole.round(build_strategy("Fishr", arguments))
    assert hex_of(after) == hex_of(expected)
    trained = [
        m.metadata.dst_node_id for m in whole.grid.sent if m.metadata.message_type == "train"
    ]
    assert trained == [*nodes, *nodes]


def test_without_any_answer_it_says_why(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    federation.grid.failing = {(node, "query.moments"): 1 for node in (1, 2, 3)}
    with pytest.raises(EngineError, match="no client answered the query for moments; node 1: out"):
        federation.round(build_strategy("VREx", {}))


@pytest.mark.parametrize("method", ["VREx", "HGP", "Hutchinson"])
def test_domains_without_a_client_keep_their_last_moments(method: str, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    arguments = {**EXACT_STEP, "stale_moments": True, "anneal_rounds": 0}
    if method == "Hutchinson":
        arguments["estimator"] = "shared-probes"
    strategy = build_strategy(
        method, {k: v for k, v in arguments.items() if k != "anneal_rounds" or method == "VREx"}
    )
    arrays, first = federation.round(strategy)
    assert (first["stale_domains"], first["oldest_moments"]) == (0.0, 0.0)
    federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
    model = federation.model
    then = {
        d: float(x.loss.detach())
        for d, x in zip(
            sorted(federation.data), c.make_domains(model, federation.data), strict=True
        )
    }
    after, second = federation.round(strategy, 2, arrays)
    assert (second["stale_domains"], second["oldest_moments"]) == (1.0, 1.0)
    if method != "VREx":
        return
    model.load_state_dict({k: torch.tensor(v) for k, v in values(arrays).items()})
    here = {name: c.Domain(model, *federation.data[name]) for name in ("art", "photo")}
    losses = [
        here["art"].loss,
        here["photo"].loss,
        torch.tensor(then["sketch"], dtype=torch.float64),
    ]
    mean = torch.stack(losses).mean()
    penalty = torch.stack([(loss - mean) ** 2 for loss in losses]).mean()
    assert second["penalty"] == pytest.approx(float(penalty.detach()))
    # The three domains' objective, 3/2 as long: the two that are here make up a whole loss.
    total = (losses[0] + losses[1]) / 3 + 10 * penalty
    expected = torch.autograd.grad(1.5 * total, list(model.parameters()))
    for (key, _), gradient in zip(model.named_parameters(), expected, strict=True):
        moved = values(arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, gradient.numpy(), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Fishr", {"decay": 0.9, "anneal_rounds": 1}),
        ("Hutchinson", {"estimator": "independent-probes", "probes": 4}),
        ("HGP", {"stale_moments": True}),
        ("GroupDRO", {}),
        ("MLDG", {}),
        ("FedDGGA", {}),
    ],
)
def test_a_resumed_strategy_continues_to_the_same_bits(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, SPLIT)
    if name != "FedDGGA":
        arguments = {**arguments, **EXACT_STEP, "server_optimizer": "adam"}
    random.seed(1)
    strategy = build_strategy(name, arguments)
    arrays = federation.arrays
    for number in (1, 2):
        arrays, _ = federation.round(strategy, number, arrays)
    encoder = StateEncoder()
    tree = json.loads(json.dumps(encoder.attributes(strategy, "strategy")))
    assert not encoder.skipped
    state = random.getstate()
    expected, _ = federation.round(strategy, 3, arrays)
    resumed = build_strategy(name, arguments)
    StateDecoder(encoder.arrays).restore_attributes(resumed, tree)
    random.setstate(state)
    after, _ = federation.round(resumed, 3, arrays)
    assert hex_of(after) == hex_of(expected)


def test_drift_is_the_distance_of_the_mean_step_from_the_gradient(tmp_path: Path) -> None:
    client = ClientSettings(learning_rate=0.5, batch_size=1000, steps=3)
    federation = make_federation(tmp_path, [{"photo": 9}, {"art": 13}], client=client)
    _, metrics = federation.round(build_strategy("ERM", {"domain_weights": "examples"}))
    expected = 0.0
    for name, count in (("photo", 9), ("art", 13)):
        model = type(federation.model)(9, 3)
        model.load_state_dict(federation.model.state_dict())
        steps = []
        for _ in range(3):
            loss = c.Domain(model, *federation.data[name]).loss
            steps.append(torch.autograd.grad(loss, list(model.parameters())))
            with torch.no_grad():
                for p, g in zip(model.parameters(), steps[-1], strict=True):
                    p -= 0.5 * g
        flat = [torch.cat([g.reshape(-1) for g in step]) for step in steps]
        distance = (torch.stack(flat).mean(0) - flat[0]).norm() / flat[0].norm()
        expected += count / 22 * float(distance)
    assert metrics["drift"] == pytest.approx(expected, rel=1e-9)


def test_several_steps_with_the_quadratic_form_follow_a_fixed_target(tmp_path: Path) -> None:
    """As FedIIR: each client descends its loss + w ||g(theta) - mean g at the start||^2."""
    client = ClientSettings(learning_rate=0.5, batch_size=1000, steps=3)
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"], client=client)
    strategy = build_strategy(
        "GradientAlignment", {"penalty_weight": 2.0, "client_update": "quadratic"}
    )
    after, _ = federation.round(strategy)
    start = c.make_domains(federation.model, federation.data)
    target = torch.stack([d.gradient() for d in start]).mean(0).detach()
    results = []
    for name in sorted(federation.data):
        model = type(federation.model)(9, 3)
        model.load_state_dict(federation.model.state_dict())
        for _ in range(3):
            domain = c.Domain(model, *federation.data[name])
            loss = domain.loss + 2.0 * (domain.gradient() - target).square().sum()
            with torch.no_grad():
                for p, g in zip(
                    model.parameters(),
                    torch.autograd.grad(loss, list(model.parameters())),
                    strict=True,
                ):
                    p -= 0.5 * g
        results.append({k: v.numpy() for k, v in model.state_dict().items()})
    for key, value in values(after).items():
        np.testing.assert_allclose(value, np.mean([r[key] for r in results], 0), atol=1e-10)


def test_a_rounds_examples_are_the_same_for_moments_and_training(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, MIXED)
    strategy = build_strategy("VREx", {**EXACT_STEP, "anneal_rounds": 0, "examples_per_round": 5})
    after, _ = federation.round(strategy)
    parts: dict[str, list[Any]] = {}
    for partition in range(3):
        examples = federation.clients.aligned.examples(
            partition, ConfigRecord({"server-round": 1}), 5
        )
        assert len(examples) == min(5, [13, 14, 2][partition])
        for place, name in enumerate(examples.names):
            own = examples.domains == place
            parts.setdefault(name, []).append((examples.images[own], examples.labels[own]))
    data = {
        name: (
            torch.cat([images for images, _ in found]),
            torch.cat([labels for _, labels in found]),
            torch.zeros(0),
        )
        for name, found in parts.items()
    }
    expected = c.objective_gradient(federation.model, data, c.vrex, 10.0, "uniform")
    for key, value in expected.items():
        moved = values(federation.arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, value.numpy(), atol=1e-10)


def test_bytes_are_counted_by_statistic(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    _, metrics = federation.round(build_strategy("HGP", {}))
    head, clients, size = 3 * 5, 3, 8
    assert metrics["bytes_up_head-gradient"] == head * clients * size
    # Two products forward; two more with the cotangents, to go back through their vectors.
    assert metrics["bytes_up_hessian-product"] == 2 * 2 * head * clients * size
    assert metrics["bytes_down_head-gradient"] == head * clients * size
    # The vectors of both queries, and vectors and cotangents for training.
    assert metrics["bytes_down_hessian-product"] == 4 * 2 * head * clients * size
    assert metrics["sums_suffice"] == 1.0
    _, metrics = federation.round(build_strategy("VREx", {"anneal_rounds": 0}))
    assert (metrics["bytes_up_loss"], metrics["bytes_down_loss"]) == (
        clients * size,
        clients * size,
    )


def test_contents_are_shared_by_clients_of_the_same_domains(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, SPLIT)
    federation.round(build_strategy("VREx", {}))
    trained = [m for m in federation.grid.sent if m.metadata.message_type == "train"]
    assert len({id(message.content) for message in trained}) == 3


class OwnPenalty(AlignmentStrategy):
    """A user's method, wrong in one way or another."""

    of: Callable[[Tensor], Any]

    def penalty(self, domains: Domains) -> Tensor:
        return type(self).of(domains.moment(HeadGradient()))


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda g: 0.5, "Own.penalty returned a float; expected a scalar tensor"),
        (lambda g: g.square().mean(1), r"Own.penalty returned a tensor of shape \(3,\)"),
        (lambda g: g.sum() * float("inf"), "Own.penalty is .* in round 1; expected a finite"),
    ],
)
def test_a_method_whose_penalty_is_no_number_is_told_so(
    of: Callable[[Tensor], Any], message: str, tmp_path: Path
) -> None:
    own = type("Own", (OwnPenalty,), {"of": staticmethod(of)})
    with pytest.raises(EngineError, match=message):
        make_federation(tmp_path, MIXED).round(own(penalty_weight=1.0))


def test_a_penalty_that_changes_nothing_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = type("Own", (OwnPenalty,), {"of": staticmethod(lambda g: g.detach().square().sum())})
    with caplog.at_level(logging.WARNING, logger="atoll"):
        make_federation(tmp_path, MIXED).round(own(penalty_weight=1.0))
    assert "the penalty of Own does not depend on the domains' moments" in caplog.text


@pytest.mark.parametrize("name", ["VREx", *ON_SERVER])
def test_every_method_reports_diagnostics(name: str, tmp_path: Path) -> None:
    settings = {**EXACT_STEP, "server_learning_rate": 0.01, "diagnostics_every": 1}
    _, metrics = make_federation(tmp_path, MIXED).round(build_strategy(name, settings))
    for figure in ("gradient_distance", "hessian_distance", "transfer"):
        assert {f"{figure}_{domain}" for domain in ("art", "photo", "sketch")} <= set(metrics)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_the_projection_is_the_nearest_point_of_the_simplex(numbers: list[float]) -> None:
    point = torch.tensor(numbers, dtype=torch.float64)
    found = project_to_simplex(point)
    assert float(found.sum()) == pytest.approx(1.0)
    assert bool((found >= 0).all())
    # The nearest point's residual has no component towards any vertex.
    slack = (torch.eye(len(point)).double() - found) @ (point - found)
    assert bool((slack <= 1e-9).all())


@given(st.lists(st.floats(0.1, 4), min_size=2, max_size=6), st.floats(0.05, 0.95))
def test_the_kernel_quantile_is_where_the_density_has_that_much_below(
    numbers: list[float], wanted: float
) -> None:
    values_ = torch.tensor(numbers, dtype=torch.float64)
    width = float((1.06 * values_.std() * len(values_) ** -0.2).clamp_min(1e-9))
    found = kernel_quantile(values_, wanted)
    below = torch.distributions.Normal(values_, width).cdf(found).mean()
    assert float(below) == pytest.approx(wanted, abs=1e-6)
