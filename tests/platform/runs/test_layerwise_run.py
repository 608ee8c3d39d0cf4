"""A federation of NoProp clients on the engine: what its ledger says of each client."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import atoll
from atoll.clients.noprop.block_training.training_memory import ClientMemory
from atoll.clients.noprop.networks.design import Design
from atoll.platform.config.experiment import Experiment

BLOCKS, ROUNDS = 3, 2


def test_the_ledger_has_each_clients_layers_bytes_and_memory(tmp_path: Path, cluster: None) -> None:
    tables = {
        "run": {"name": "layers", "rounds": ROUNDS, "seed": 3},
        "data": {"dataset": "digits", "clients": 6, "train_examples": 120, "test_examples": 50},
        "model": {"name": "noprop-dt", "block": "small", "steps": BLOCKS, "mean_of": 1},
        "client": {"batch_size": 16},
        "strategy": {"name": "Layerwise"},
        "ray": {"workers": 2},
        "log": {"progress": False},
    }
    asked = Experiment.from_dict(tables)
    design = Design.of(asked.model, (1, 8, 8), 10)
    memory = ClientMemory(design, asked.client)
    # Clients hold 1 and 2 blocks in turn: their lists of layers are not of one length.
    budgets = [memory.needed(blocks) / 1e6 + 0.01 for blocks in (1, 2)]
    tables["client"]["memory_mb"] = budgets
    atoll.run(Experiment.from_dict(tables), out=tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "clients.parquet")
    rows = table.filter(pc.field("phase") == "train").to_pylist()
    assert len(rows) == 6 * ROUNDS
    block = sum(t.numel() * t.element_size() for t in design.make_block().state_dict().values())
    shared = design.make_shared_part().state_dict().values()
    fixed = sum(t.numel() * t.element_size() for t in shared)
    for row in rows:
        place = row["partition"] % 2
        assert len(row["layers"]) == place + 1
        assert row["peak_memory"] == memory.needed(place + 1) <= budgets[place] * 1e6
        assert row["bytes_up"] == row["bytes_down"]
        # Every array has a header, in NumPy's format.
        least = fixed + (place + 1) * block
        assert least < row["bytes_up"] < 1.1 * least
    for server_round in (1, 2):
        own = [row["layers"] for row in rows if row["round"] == server_round]
        assert Counter(layer for layers in own for layer in layers) == {0: 3, 1: 3, 2: 3}
