"""A run directory with captures of every client, made in this process without Ray."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import Message

from atoll.attacks.captures.capture import Capture, FederationInfo, Truth
from atoll.attacks.captures.capture_files import capture_name, write_capture
from atoll.clients.apps.client_app import examples_of, make_client_app
from atoll.clients.apps.training_messages import config_of, round_of
from atoll.clients.models.model_building import model_seed
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid
from atoll.platform.config.experiment import Experiment
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.runs.federation import prepare
from atoll.randomness import derive_seed, seed_everything
from tests.support.attacks.captured import content_of


def captured_run(experiment: Experiment, directory: Path) -> Path:
    """Run an experiment, and write its configuration and a capture of each reply."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(experiment.to_toml())
    federation = prepare(experiment)
    spec, dataset = federation.spec, federation.dataset
    clients = examples_of(spec)
    info = FederationInfo(
        dataset=dataset.name,
        model=spec.model,
        client=spec.client,
        inputs=dataset.inputs,
        task=dataset.task,
        num_rounds=spec.num_rounds,
        model_seed=model_seed(spec.seed),
    )

    def write(message: Message, reply: Message) -> None:
        node, server_round = message.metadata.dst_node_id, round_of(config_of(message))
        examples = clients.round_examples(message, node - 1)
        capture = Capture(
            server_round,
            node,
            "train",
            info,
            content_of(message.content),
            content_of(reply.content),
        )
        truth = Truth(
            inputs=torch.from_numpy(examples.inputs.copy()),
            labels=torch.from_numpy(examples.labels.copy()),
            batches=examples.batches,
            seed=examples.seed,
            indices=torch.from_numpy(examples.indices.copy()),
        )
        name = capture_name(server_round, node, "train")
        write_capture(capture, truth, directory / "captures" / name)

    seed = experiment.run.seed
    grid = LocalGrid(make_client_app(spec), len(federation.partition), seed, write)
    seed_everything(derive_seed(seed, "server"))
    options = RoundOptions(checkpoint_every=None)
    rounds = experiment.run.rounds
    run_rounds(federation.strategy, grid, federation.initial_arrays, rounds, options=options)
    return directory
