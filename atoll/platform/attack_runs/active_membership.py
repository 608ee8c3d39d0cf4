"""One more message to captured clients, of a server that chooses the model that it sends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from atoll import flower
from atoll.attacks.captures.capture import MODEL_RECORD, Capture, faults_of
from atoll.attacks.membership.active_server import ascended, replied_losses
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.arrays.tensors import tensor_of
from atoll.errors import AttackError
from atoll.flower.arrays import array_record, to_array
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid
from atoll.platform.attack_runs.shadows.shadow_attacks import Suspect
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.runs.federation import prepare
from atoll.randomness import derive_seed

ACTIVE = "active server"
ASCENT = 1.0


def active_scores(
    run_directory: Path, suspects: Sequence[Suspect], ascent: float, seed: int
) -> list[dict[str, NDArray[np.float64]]]:
    """Return the active server's score of each suspect's candidates: the negative loss.

    Each client is sent the model of its last captured round, moved uphill, as the message of the
    round after the run's last; the client's own code answers, with its mods and its examples.

    Parameters
    ----------
    run_directory : Path
        The run's.
    suspects : Sequence[Suspect]
        The clients.
    ascent : float
        How far the model is moved, by its norm.
    seed : int
        Of the clients' random states.

    Raises
    ------
    AtollError
        If a client keeps parameters of its own, or does not answer.
    """
    experiment = load_run_config(run_directory)
    if experiment.layers is not None or experiment.client.local or experiment.client.personal:
        raise AttackError(
            "--attack active: clients keep a state, which only the run had; expected clients "
            "without [layers], client.local and client.personal"
        )
    federation = prepare(experiment)
    answered_by = make_client_app(federation.spec)
    grid = LocalGrid(answered_by, len(federation.partition), derive_seed(seed, ACTIVE))
    found = []
    for suspect in suspects:
        capture = suspect.captures[-1]
        with faults_of(capture):
            sent = ascended(capture, suspect.candidates, ascent)
            message = _message(capture, sent, experiment.run.rounds + 1)
            [reply] = grid.send_and_receive([message])
            [arrays] = reply.content.array_records.values()
            replied = {name: tensor_of(arrays[name]) for name in sent}
            losses = replied_losses(capture, suspect.candidates, replied)
        found.append({ACTIVE: -losses.numpy()})
    return found


def _message(capture: Capture, arrays: dict[str, torch.Tensor], server_round: int) -> Message:
    flower.assume_identity()
    config = {**capture.sent.values.get("config", {}), "server-round": server_round}
    record = array_record({name: to_array(value.numpy()) for name, value in arrays.items()})
    content = RecordDict({MODEL_RECORD: record, "config": ConfigRecord(config)})
    return Message(content, dst_node_id=capture.node_id, message_type="train")
