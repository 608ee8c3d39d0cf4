"""Every strategy of Flower by name, and what is said of wrong ones."""

from __future__ import annotations

import logging
from logging.handlers import BufferingHandler

import pytest
from flwr.serverapp.strategy import FedAvg, FedMedian, Strategy

from atoll.errors import InvalidExperimentError
from atoll.strategies import FLOWER_STRATEGIES, STRATEGIES, build_strategy
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from atoll.strategies.asynchronous import ASYNCHRONOUS_STRATEGIES
from atoll.strategies.heterogeneity import HETEROGENEITY_STRATEGIES
from atoll.strategies.layerwise import LAYERWISE_STRATEGIES
from atoll.strategies.malicious import MALICIOUS_STRATEGIES
from atoll.strategies.robust import ROBUST_STRATEGIES

WRAPPED = {"noise_multiplier": 0.5, "num_sampled_clients": 10, "strategy": {"name": "FedMedian"}}
NEEDED = {
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.1},
    "DifferentialPrivacyClientSideAdaptiveClipping": WRAPPED,
    "DifferentialPrivacyServerSideAdaptiveClipping": WRAPPED,
    "DifferentialPrivacyClientSideFixedClipping": {**WRAPPED, "clipping_norm": 1.0},
    "DifferentialPrivacyServerSideFixedClipping": {**WRAPPED, "clipping_norm": 1.0},
}


def test_there_are_eighteen_of_flower_and_ours() -> None:
    assert len(FLOWER_STRATEGIES) == 18
    ours = {*ALIGNMENT_STRATEGIES, *ASYNCHRONOUS_STRATEGIES, *HETEROGENEITY_STRATEGIES}
    ours |= {*LAYERWISE_STRATEGIES, *ROBUST_STRATEGIES, *MALICIOUS_STRATEGIES}
    ours |= {"SecAggPlus"}
    assert set(STRATEGIES) == {*FLOWER_STRATEGIES, *ours}


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_is_built_by_its_name(name: str) -> None:
    stepping = {"server_learning_rate": 0.1}
    needed = stepping if name in ("ANDMask", "SANDMask", "MLDG", "Fish") else {}
    strategy = build_strategy(name, NEEDED.get(name, needed))
    assert type(strategy).__name__ == name
    assert isinstance(strategy, Strategy)
    if name.startswith("Differential"):
        assert isinstance(strategy.strategy, FedMedian)


def test_arguments_arrive_and_a_users_class_is_imported() -> None:
    strategy = build_strategy("fedavg", {"fraction_train": 0.25})
    assert isinstance(strategy, FedAvg)
    assert strategy.fraction_train == 0.25
    assert isinstance(build_strategy("flwr.serverapp.strategy:FedAvg", {}), FedAvg)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FedAvgg", {}, r"strategy.name = 'FedAvgg': .*did you mean 'FedAvg'"),
        ("FedAvg", {"fraction": 1}, r"strategy.fraction = 1: FedAvg has no such argument; did you"),
        ("FedTrimmedAvg", {"betta": 1}, r"strategy.betta = 1: .*did you mean 'beta'"),
        (
            "DifferentialPrivacyServerSideFixedClipping",
            {**WRAPPED, "clipping_norm": -1.0},
            r"clipping",
        ),
        (
            "DifferentialPrivacyServerSideFixedClipping",
            {**WRAPPED, "clipping_norm": 1.0, "strategy": {"name": "FedAvg", "x": 1}},
            r"strategy.strategy.x = 1",
        ),
        (
            "FedAvg",
            {"fraction_train": 1.5},
            r"strategy.fraction_train = 1.5: expected less than or equal to 1$",
        ),
        (
            "Layerwise",
            {"strategy": {"name": "FedProx", "proximal_mu": -1}},
            r"strategy.strategy.proximal_mu = -1: expected greater than or equal to 0$",
        ),
        ("FedTrimmedAvg", {"beta": 0.5}, r"strategy.beta = 0.5: expected less than 0.5$"),
        ("FedAdam", {"eta": 1e-300}, r"strategy.eta = 1e-300: expected greater than or equal to"),
        ("builtins:dict", {}, r"makes a dict, expected a Flower Strategy"),
    ],
)
def test_wrong_ones_are_clear_errors(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        build_strategy(name, arguments)


def test_that_no_client_evaluates_is_asked_for_and_no_warning() -> None:
    flower, told = logging.getLogger("flwr"), BufferingHandler(10)
    level = flower.level
    flower.addHandler(told)
    # A command of another test may have made it quiet.
    flower.setLevel(logging.WARNING)
    try:
        build_strategy("FedAvg", {"fraction_evaluate": 0.0})
        assert told.buffer == []
        FedAvg(fraction_evaluate=0.0)
        assert [str(record.msg).partition(" ")[0] for record in told.buffer] == [
            "fraction_evaluate"
        ]
    finally:
        flower.removeHandler(told)
        flower.setLevel(level)
