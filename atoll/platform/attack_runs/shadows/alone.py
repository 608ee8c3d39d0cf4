"""One shadow federation, client by client: for every model, mod and strategy with rounds."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from flwr.app import Message

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.training_messages import config_of, round_of
from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.data.files.dataset import Dataset
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid
from atoll.platform.attack_runs.shadows.shadow_plan import Losses, Questions, ShadowPlan
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.randomness import derive_seed, seed_everything
from atoll.strategies.privacy.central_dp import CentralDP


def run_alone(plan: ShadowPlan, shadow: int, folder: Path) -> Losses:
    """Run a shadow federation, and return what the models say that are asked.

    Parameters
    ----------
    plan : ShadowPlan
        The plan.
    shadow : int
        The federation's number, from 0.
    folder : Path
        An empty folder for its partition.

    Raises
    ------
    EngineError
        If a client fails.
    ValueError
        If a model's losses are not finite.
    """
    spec = plan.spec_of(shadow, folder / str(shadow))
    dataset = Dataset(spec.dataset)
    questions, model = Questions(plan, dataset), spec.build_model(dataset)
    state = travelling_state(model)
    found: Losses = {}

    def look_at(message: Message, reply: Message) -> None:
        key = round_of(config_of(message)), message.metadata.dst_node_id - 1
        if key not in plan.asked:
            return
        [arrays] = reply.content.array_records.values()
        for name, tensor in state.items():
            tensor.copy_(tensor_of(arrays[name]))
        found[key] = questions.losses(model, key[1])

    strategy = copy.deepcopy(plan.strategy)
    for each in nested_strategies(strategy):
        if isinstance(each, CentralDP):
            each.noise_seed = spec.seed
    grid = LocalGrid(make_client_app(spec), len(plan.design.clients), spec.seed, look_at)
    seed_everything(plan.server_seed)
    # Flower draws cohorts by Python's generator, and noise by NumPy's, which no attacker knows.
    np.random.seed(derive_seed(spec.seed, "server noise") & 0xFFFFFFFF)
    options = RoundOptions(checkpoint_every=None, reduce=plan.reduce)
    run_rounds(strategy, grid, plan.initial, plan.rounds, options=options)
    return found
