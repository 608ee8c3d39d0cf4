"""Objectives that cannot be: one line before a run, with the key, value and what is expected."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_components, check_settings
from atoll.platform.runs.components import Components

OWN = "tests.support.clients.objectives"
SAM = [{"name": "sam"}]
SCAFFOLD = {"name": "SCAFFOLD"}


def check(**tables: Any) -> None:
    client = {"learning_rate": 0.1, **tables.pop("client", {})}
    given = {"data": {"dataset": "digits", "clients": 4}, "model": {"name": "linear"}, **tables}
    experiment = Experiment.from_dict({**given, "client": client})
    check_settings(experiment)
    check_components(Components.of(experiment))


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            {"strategy": SCAFFOLD, "client": {"optimizer": "adam"}},
            "strategy.name = 'SCAFFOLD': SCAFFOLD corrects plain gradient steps, and "
            "client.optimizer = 'adam' adapts them; expected 'sgd'",
        ),
        (
            {"strategy": SCAFFOLD, "client": {"momentum": 0.9}},
            "strategy.name = 'SCAFFOLD': SCAFFOLD corrects plain gradient steps, and "
            "client.momentum = 0.9 adds earlier ones; expected 0",
        ),
        (
            {"strategy": {"name": "FedNova"}, "client": {"optimizer": "adamw"}},
            "client.optimizer = 'adamw' adapts them; expected 'sgd'",
        ),
        (
            {"strategy": {"name": "SCAFFOLD", "option": 3}},
            "strategy.option = 3: expected 1 or 2",
        ),
        (
            {"strategy": {"name": "SCAFFOLD", "option": 1}, "client": {"vectorize": True}},
            "client.vectorize = True: option 1 takes a client's whole gradient; expected 'auto'",
        ),
        (
            {"strategy": SCAFFOLD, "client": {"local": "head"}, "model": {"name": "mlp"}},
            "client.local = 'head': strategy.name = 'SCAFFOLD' asks for a term of the whole model",
        ),
        (
            {"strategy": SCAFFOLD, "client": {"mods": ["clipping"]}},
            "strategy.name = 'SCAFFOLD': client.mods has 'clipping', which would change what is",
        ),
        (
            {"strategy": SCAFFOLD, "capture": {"nodes": [1], "rounds": [1]}},
            "clients send more than their models, which attacks on a [capture] know nothing of",
        ),
        (
            {
                "strategy": {
                    "name": "DifferentialPrivacyServerSideFixedClipping",
                    "noise_multiplier": 1.0,
                    "clipping_norm": 1.0,
                    "num_sampled_clients": 4,
                    "strategy": SCAFFOLD,
                }
            },
            "strategy.strategy.name = 'SCAFFOLD': its clients send more than their models",
        ),
        (
            {"client": {"objective": SAM}, "strategy": {"name": "GroupDRO"}},
            "client.objective has 'sam': strategy.name = 'GroupDRO' has terms of its own",
        ),
        (
            {"client": {"objective": SAM, "vectorize": True}},
            "client.vectorize = True: client.objective has 'sam': it has no form for several",
        ),
        (
            {"client": {"objective": SAM, "mods": [{"name": "mixup"}]}},
            "client.objective has 'sam': client.mods has 'mixup', which makes each step's",
        ),
        (
            {"client": {"objective": SAM}, "model": {"name": "noprop-dt"}},
            "client.objective has 'sam': model.name = 'noprop-dt' has an objective of its own",
        ),
        (
            {"client": {"objective": SAM}, "capture": {"nodes": [1], "rounds": [1]}},
            "client.objective has 'sam': attacks on [capture] know the task's loss on all examples",
        ),
        (
            {"client": {"selection": {"drop": 0.3}}, "strategy": {"name": "GroupDRO"}},
            "client.selection.score: strategy.name = 'GroupDRO' has terms of its own",
        ),
        (
            {"client": {"selection": {"drop": 0.3}, "vectorize": True}},
            "client.vectorize = True: client.selection scores the examples of one client at a",
        ),
        (
            {"client": {"selection": {"drop": 0.3, "over": "federation"}}},
            "client.selection.over = 'federation': strategy.name = 'FedAvg' does not ask for",
        ),
        (
            {"strategy": {"name": "DataDiet"}},
            "strategy.name = 'DataDiet': clients score no examples; expected a table [client.sel",
        ),
        (
            {"strategy": {"name": "DataDiet"}, "client": {"selection": {"drop": 0.3}}},
            "'DataDiet': client.selection.over = 'client': each client has a threshold of its own",
        ),
        (
            {"client": {"objective": [{"name": "gradient-boosting"}]}},
            "client.objective.name = 'gradient-boosting': the model does not end in two linear",
        ),
        (
            {
                "client": {"objective": [{"name": "gradient-boosting", "stages": 7}]},
                "model": {"name": "boosted-mlp"},
            },
            "'gradient-boosting': stages = 7: the last hidden layer has 200 neurons; expected a",
        ),
        (
            {
                "client": {"objective": [{"name": "gradient-boosting"}], "weight_decay": 0.1},
                "model": {"name": "boosted-mlp"},
            },
            "client.weight_decay = 0.1 would move the groups of other stages; expected 0",
        ),
        (
            {"client": {"objective": [{"name": "r-amt"}]}},
            "client.objective has 'r-amt': the model has no masks; expected a table [model.masks]",
        ),
        (
            {"client": {"mods": ["mask-bits"]}},
            "client.mods has 'mask-bits': the model has no masks to send; expected a table [model",
        ),
        (
            {
                "client": {"mods": [{"name": "mask-bits", "threshold": 0.1}]},
                "model": {"name": "mlp", "masks": {"scale": 1.0, "threshold": 0.5}},
            },
            "client.mods has 'mask-bits': threshold = 0.1, and the model's masks have 0.5; exp",
        ),
        (
            {"model": {"name": "mlp", "masks": {}, "compander": {}}},
            "model.masks and model.compander are set: each replaces what is trained of a weight",
        ),
        (
            {"model": {"name": "mlp", "masks": {"scale": 0.001}}},
            "model.masks.scale = 0.001: no weight would count at first; expected more than model",
        ),
        (
            {"model": {"name": "linear", "masks": {}}},
            "model.masks: no linear or convolutional layer beside the head",
        ),
        (
            {"model": {"name": "mlp", "compander": {"scale": 0.01}}},
            "model.compander.scale = 0.01: a weight of 0.1",
        ),
        (
            {"model": {"name": "noprop-dt", "masks": {}}},
            "model.masks is set: model.name = 'noprop-dt' is trained block by block; expected",
        ),
        (
            {
                "model": {"name": "mlp", "compander": {}},
                "capture": {"nodes": [1], "rounds": [1]},
            },
            "model.compander is set: attacks on [capture] know gradients of weights alone",
        ),
        (
            {"client": {"objective": [{"name": "fedlc"}], "loss": f"{OWN}:halved"}},
            "client.objective.name = 'fedlc': it changes the cross-entropy, and client.loss",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tables: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        check(**tables)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["SCAFFOLD", "FedDyn", "FedNova", "FedExP"])
def test_terms_and_strategies_that_go_together_are_accepted(name: str) -> None:
    check(strategy={"name": name}, client={"objective": [*SAM, {"name": "fedrs"}]})
