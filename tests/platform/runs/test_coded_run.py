"""A run whose clients code their uploads: the ledger has the bytes of the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll import run
from atoll.attacks.defenses.entropy_coding import exp_golomb
from atoll.clients import make_client_app
from atoll.flower import assume_identity
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare

CLIENTS, STEP = 3, 0.002


def test_bytes_up_are_those_of_the_codes_of_what_clients_send(
    cluster: None, tmp_path: Path
) -> None:
    settings = Experiment.from_dict(
        {
            "run": {"rounds": 1, "seed": 3},
            "data": {"dataset": "digits", "clients": CLIENTS, "examples_per_client": 40},
            "model": {"name": "mlp", "hidden": [8]},
            "client": {
                "objective": [{"name": "backslash", "weight": 10.0}],
                "mods": [{"name": "entropy-coding", "of": "model", "step": STEP}],
            },
            "ray": {"workers": 1},
        }
    )
    ended = run(settings, out=tmp_path / "run")
    expected = [_code_of(arrays) for arrays in _sent_by_clients(settings)]
    of_clients = pq.read_table(ended.directory / "clients.parquet").to_pylist()
    trained = [row for row in of_clients if row["phase"] == "train"]
    assert sorted(row["bytes_up"] for row in trained) == sorted(expected)
    [row] = pq.read_table(ended.directory / "rounds.parquet").to_pylist()[-1:]
    assert row["bytes_up"] == sum(expected)
    # Plain arrays are 8 times 64 and 10 weights, and a bias a neuron, of four bytes.
    assert max(expected) < 0.6 * 4 * (8 * 64 + 8 + 10 * 8 + 10)


def _sent_by_clients(settings: Experiment) -> list[ArrayRecord]:
    """Return what the clients send in the first round, from the ClientApp in this process."""
    assume_identity()
    federation = prepare(settings)
    app, sent = make_client_app(federation.spec), []
    for client in range(CLIENTS):
        node = {"partition-id": client, "num-partitions": CLIENTS}
        config = ConfigRecord({"server-round": 1})
        content = RecordDict({"arrays": federation.initial_arrays, "config": config})
        message = Message(content, dst_node_id=client + 1, message_type="train")
        reply = app(message, Context(1, client + 1, node, RecordDict(), {}))
        sent.append(reply.content.array_records["arrays"])
    return sent


def _code_of(arrays: ArrayRecord) -> int:
    """Return the bytes of the tensors' codes; values are multiples of the step already."""
    return sum(len(exp_golomb(np.rint(array.numpy() / STEP))) for array in arrays.values())
