"""An arena's attacks on one client of each of its federations, in this process.

``python -m benchmarks.privacy.arena_in_process experiments/dager.toml --out FILE`` runs what is not
in FILE yet, and ``--table FILE`` prints its tables. A trial is a setting of ``[arena.grid]``, a
defense, an attack and a seed of the arena's file, on the update of the federation's first client in
round 1.
There is no Ray, no other client and no evaluation. The attacker does not know of the defense
(``knowledge = ["naive"]``).

A figure is the mean over the client's examples, and then over the seeds. Where an attack says that
it cannot answer (DAGER, of an update that is all noise), it counts as 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from atoll import Experiment
from atoll.attacks import (
    Capture,
    Content,
    FederationInfo,
    Truth,
    Victim,
    attack_victims,
    observe_victims,
    references_of,
)
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import MODEL_RECORD
from atoll.clients import make_client_app
from atoll.clients.apps.client_app import examples_of
from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.models.model_building import model_seed
from atoll.errors import AttackError
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process
from benchmarks.accuracy.recorded import add_trial_options, commit, run_missing

KEY = ("setting", "defense", "attack", "seed")
# Those of rows of a table, and of texts, that a table here has.
METRICS = (
    "cell_accuracy",
    "number_accuracy",
    "category_accuracy",
    "trusted_accuracy",
    "token_accuracy",
    "rouge1",
    "rouge2",
    "exact_match",
)
# Tables of an arena's file that are no part of an experiment.
OTHERS = ("arena", "capture")
Tables = dict[str, Any]
Trial = tuple[str, str, str, int]


def main() -> None:
    """Run trials, or print the tables."""
    parser = argparse.ArgumentParser(description="An arena's attacks in this process.")
    parser.add_argument("arena", type=Path, nargs="?", help="the arena's file")
    parser.add_argument("--only", nargs="+", default=[], help="keys and values: settings with all")
    parser.add_argument("--defenses", nargs="+", help="by default the file's")
    parser.add_argument("--attacks", nargs="+", help="by default the file's")
    add_trial_options(parser, None)
    given = parser.parse_args()
    if given.table is not None:
        print_tables(json.loads(given.table.read_text()))
        return
    if given.arena is None:
        parser.error("expected the arena's file")
    quiet_process()
    tables = tomllib.loads(given.arena.read_text())
    settings = settings_of(tables)
    chosen = [name for name in settings if set(given.only) <= set(name.split(", "))]
    arena = tables["arena"]
    keys = itertools.product(
        given.seeds or arena["seeds"],
        given.defenses or arena["defenses"],
        chosen,
        given.attacks or arena["attacks"],
    )
    trials = ((setting, defense, attack, seed) for seed, defense, setting, attack in keys)
    run_missing(trials, KEY, figures_by(tables, settings), given.out, given.seconds)


def settings_of(tables: Tables) -> dict[str, Tables]:
    """Return the settings of ``[arena.grid]`` by their names: keys and values."""
    grid = tables["arena"].get("grid", {})
    combinations = itertools.product(*grid.values())
    found = [dict(zip(grid, values, strict=True)) for values in combinations]
    return {", ".join(f"{key} = {value}" for key, value in one.items()): one for one in found}


def figures_by(tables: Tables, settings: dict[str, Tables]) -> Callable[..., Tables]:
    """Return what runs a trial of an arena's file."""

    # Attacks on one client come one after another.
    @lru_cache(maxsize=1)
    def client(setting: str, defense: str, seed: int) -> tuple[Victim, Dataset]:
        return victim_of(experiment_of(tables, settings[setting], defense, seed))

    def figures(setting: str, defense: str, attack: str, seed: int) -> Tables:
        victim, dataset = client(setting, defense, seed)
        arguments = dict(tables["arena"]["attacks"][attack])
        built = build_attack(arguments.pop("name", attack), arguments)
        references = references_of(dataset)
        seen = observe_victims([victim], built, public=references.public)
        began = time.process_time()
        try:
            [attacked] = attack_victims(
                attack, built, [victim], seen, candidates=references.candidates, seed=seed
            )
        except AttackError as error:
            return {"no answer": str(error), "commit": commit()}
        of_all = {
            name: statistics.fmean(float(row[name]) for row in attacked.rows)
            for name in METRICS
            if attacked.rows[0].get(name) is not None
        }
        seconds = time.process_time() - began
        return {**of_all, "cpu seconds": round(seconds, 1), "commit": commit()}

    return figures


def experiment_of(tables: Tables, setting: Tables, defense: str, seed: int) -> Experiment:
    """Return the experiment of an arena's federation."""
    made = {name: dict(table) for name, table in tables.items() if name not in OTHERS}
    for key, value in setting.items():
        section, _, name = key.partition(".")
        made.setdefault(section, {})[name] = value
    for section, changes in tables["arena"]["defenses"][defense].items():
        made.setdefault(section, {}).update(changes)
    made["run"]["seed"] = seed
    return Experiment.from_dict(made)


def victim_of(experiment: Experiment) -> tuple[Victim, Dataset]:
    """Return what the server sees of the first client in round 1, and the data set."""
    federation = prepare(experiment)
    spec, dataset = federation.spec, Dataset(federation.spec.dataset)
    values = {"server-round": 1, "learning-rate": spec.client.learning_rate}
    content = RecordDict({"arrays": federation.initial_arrays, "config": ConfigRecord(values)})
    message = Message(content, dst_node_id=1, message_type="train")
    node = {"partition-id": 0, "num-partitions": len(federation.partition)}
    reply = make_client_app(spec)(message, Context(1, 1, node, RecordDict(), {})).content
    examples = examples_of(spec).round_examples(message, 0)
    truth = Truth(
        inputs=torch.from_numpy(np.array(examples.inputs)),
        labels=torch.from_numpy(np.array(examples.labels)),
        batches=examples.batches,
        seed=examples.seed,
        indices=torch.from_numpy(np.array(examples.indices)),
        part_seeds=dict(examples.part_seeds),
    )
    capture = Capture(
        server_round=1,
        node_id=1,
        message_type="train",
        federation=FederationInfo(
            dataset=dataset.name,
            model=spec.model,
            client=spec.client,
            inputs=dataset.inputs,
            task=dataset.task,
            num_rounds=spec.num_rounds,
            model_seed=model_seed(spec.seed),
        ),
        sent=Content({MODEL_RECORD: tensors_of(federation.initial_arrays)}, {"config": values}),
        reply=Content(
            {MODEL_RECORD: tensors_of(reply.array_records["arrays"])},
            {"metrics": dict(reply.metric_records["metrics"])},
        ),
    )
    return Victim(capture, truth), dataset


def print_tables(found: list[Tables]) -> None:
    """Print a table a setting: a row a defense and attack, means over the seeds."""
    print(f"commit {', '.join(sorted({trial['commit'] for trial in found}))}")
    for setting in dict.fromkeys(trial["setting"] for trial in found):
        rows = [trial for trial in found if trial["setting"] == setting]
        names = [name for name in METRICS if any(name in trial for trial in rows)]
        print(f"\n{setting}\n\n| defense | attack | {' | '.join(names)} | seeds |")
        print("|---|---|" + "---|" * (len(names) + 1))
        for defense, attack in dict.fromkeys((t["defense"], t["attack"]) for t in rows):
            same = [t for t in rows if (t["defense"], t["attack"]) == (defense, attack)]
            print(f"| {defense} | {attack} | {' | '.join(_cells(same, names))} | {len(same)} |")


def _cells(same: list[Tables], names: list[str]) -> Iterator[str]:
    for name in names:
        lacking = all(name not in trial and "no answer" not in trial for trial in same)
        yield "-" if lacking else f"{statistics.fmean(t.get(name, 0.0) for t in same):.3f}"


if __name__ == "__main__":
    main()
