"""Checks of combinations of an experiment's keys, each of which is valid by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.platform.config.sections import CaptureSettings, LayersSettings, StrategySettings

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

# Ray counts shares in ten-thousandths, and several GPUs as whole ones.
SMALLEST_SHARE = 0.01


def problems_of(experiment: Experiment) -> list[str]:
    """Return a line for each thing that cannot be, although each key is in order."""
    problems = []
    client, data, strategy = experiment.client, experiment.data, experiment.strategy
    if client.epochs is not None and client.steps is not None:
        problems.append(
            f"client.steps = {client.steps}: client.epochs = {client.epochs} is set too; "
            "expected one of the two"
        )
    if client.vectorize is True and client.mods:
        problems.append(
            "client.vectorize = True: client.mods see one client at a time; expected 'auto' or "
            "false"
        )
    at_most_all = ["min_train_nodes", "min_evaluate_nodes", "min_available_nodes", "cohort"]
    if strategy.name == "FedBuff":
        at_most_all.append("buffer_size")
    for key in at_most_all:
        value = strategy.arguments.get(key)
        if isinstance(value, int) and value > data.clients:
            problems.append(
                f"strategy.{key} = {value}: there are only data.clients = {data.clients}; "
                "expected at most as many"
            )
    gpus = experiment.ray.gpus_per_worker
    if gpus != "auto" and (0.0 < gpus < SMALLEST_SHARE or (gpus > 1.0 and gpus % 1.0)):
        problems.append(
            f"ray.gpus_per_worker = {gpus:g}: expected 0, a share from {SMALLEST_SHARE} to 1, or "
            "whole GPUs"
        )
    problems += _changes_nothing(experiment)
    if experiment.layers is not None:
        problems += _impossible_in_a_layer_run(experiment, experiment.layers)
    stopping = experiment.run.early_stopping
    if stopping is not None and stopping.patience is None and stopping.target is None:
        problems.append("run.early_stopping: expected patience or target to be set")
    if experiment.capture is not None:
        problems += _cannot_be_captured(experiment.capture, data.clients, experiment.run.rounds)
    if data.dataset == "folder" and data.path is None:
        problems.append(
            "data.path is not set; expected a folder of images for data.dataset = 'folder'"
        )
    return problems


def _changes_nothing(experiment: Experiment) -> list[str]:
    """Return what would leave the initial parameters as they are, to the last round."""
    problems = []
    fraction = experiment.strategy.arguments.get("fraction_train")
    if fraction is not None and not isinstance(fraction, bool) and fraction == 0:
        problems.append(
            f"strategy.fraction_train = {fraction}: no client would train, and no round change the "
            "model; expected more than 0"
        )
    warmup, rounds = experiment.client.schedule.warmup_rounds, experiment.run.rounds
    if warmup >= rounds:
        problems.append(
            f"client.schedule.warmup_rounds = {warmup}: with run.rounds = {rounds} the learning "
            "rate is never reached; expected less than run.rounds"
        )
    return problems


def _cannot_be_captured(capture: CaptureSettings, clients: int, rounds: int) -> list[str]:
    problems = []
    nodes = () if capture.nodes == "all" else capture.nodes
    for key, values, last, name in (
        ("nodes", nodes, clients, "data.clients"),
        ("rounds", capture.rounds, rounds, "run.rounds"),
    ):
        beyond = [value for value in values if value > last]
        if beyond:
            problems.append(
                f"capture.{key} = {list(values)}: there is no {beyond[0]} (with {name} = {last}); "
                f"expected numbers from 1 to {last}"
            )
    return problems


def _impossible_in_a_layer_run(experiment: Experiment, layers: LayersSettings) -> list[str]:
    """Return what cannot be in an experiment with ``[layers]``."""
    problems = []
    model, client = experiment.model, experiment.client
    if not is_noprop(model):
        problems.append(
            f"model.name = {model.name!r}: its layers cannot be trained apart; expected "
            "'noprop-dt', 'noprop-ct' or 'noprop-fm' with [layers]"
        )
    if experiment.strategy != StrategySettings():
        problems.append(
            f"strategy.name = {experiment.strategy.name!r}: with [layers] there is no federation; "
            "expected one of the two sections"
        )
    if experiment.data.clients != 1:
        problems.append(
            f"data.clients = {experiment.data.clients}: with [layers] all data are in one place; "
            "expected 1"
        )
    for key in ("proximal_mu", "mods", "memory_mb"):
        value = getattr(client, key)
        if value:
            shown = list(value) if isinstance(value, tuple) else value
            problems.append(
                f"client.{key} = {shown}: is of a federation; expected none with [layers]"
            )
    if experiment.capture is not None:
        problems.append(
            "capture: with [layers] no client sends anything; expected one of the two sections"
        )
    if is_noprop(model) and "ensemble" in layers.baselines and model.name.casefold() != "noprop-dt":
        problems.append(
            "layers.baselines has 'ensemble': it is of as many first blocks as NoProp-DT has "
            f"blocks; expected 'chain' and 'cnn' with model.name = {model.name!r}"
        )
    return problems
