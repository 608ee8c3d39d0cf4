"""Attacks on Fashion-MNIST: reconstruction quality, cost of a step, and savings by batching.

``python -m benchmarks.privacy.attacks`` prints four tables, all in this process on one thread (CPU
seconds), and a fifth with Ray (seconds by the clock: two cores must be free). Victims are real
clients' updates: :func:`atoll.clients.training.local_training.train` from one broadcast model, the
gradient read off the weights that come back. ``--only restored`` (or ``step``, ``layers``,
``batched``, ``workers``) prints one table; ``--attack idlg`` one of its rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from flwr.clientapp import ClientApp
from torch import Tensor

from atoll.attacks.arena.arena_job import Conditions, Job, prepare_process, run_job
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.base.generator_attack import GeneratorAttack, decoder, draw, stack
from atoll.attacks.base.optimization_attack import OptimizationAttack
from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
from atoll.attacks.captures.capture_files import write_capture
from atoll.attacks.threat.observation import Observation, used_examples
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.malicious.imprint_block import ImprintBlock, aim
from atoll.clients.models.model_building import build_model
from atoll.clients.noprop.block_training.example_source import GivenExamples
from atoll.clients.noprop.block_training.layer_training import (
    LayerTraining,
    client_unit_names,
    unit_seed,
)
from atoll.clients.noprop.layer_keys import layer_of
from atoll.clients.noprop.networks.design import Design
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.tasks.losses import mean_loss
from atoll.clients.training.local_training import batches, train
from atoll.flower.arrays import array_record, to_array
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.mapping import map_as_they_end
from atoll.platform.pool.pool_start import start_pool
from atoll.strategies.layerwise.layer_assignment import deal_layers

# The gradient is read off float32 weights: a large step loses least to rounding.
RATE = 1.0


def victims_of(
    dataset: Dataset, model: Mapping[str, Any], groups: Sequence[Sequence[int]], seed: int
) -> list[Victim]:
    """Return a client for each group of training examples, after one step on all of them."""
    settings = ModelSettings.model_validate(model)
    victims = []
    for number, group in enumerate(groups):
        module = build_model(settings, dataset.image_shape, len(dataset.classes), seed)
        for block in module.modules():
            if isinstance(block, ImprintBlock):
                known = np.array(dataset.test.images[::2])
                aim(block, to_tensor(known, dataset.mean, dataset.std))
        client = ClientSettings(batch_size=len(group), learning_rate=RATE)
        info = _info(dataset, settings, client)
        pixels = np.array(dataset.train.images[list(group)])
        labels = torch.from_numpy(np.array(dataset.train.labels[list(group)]))
        sent = {key: value.clone() for key, value in module.state_dict().items()}
        train(
            module,
            to_tensor(pixels, dataset.mean, dataset.std),
            labels,
            client,
            learning_rate=RATE,
            generator=torch.Generator().manual_seed(number),
        )
        order = tuple(batches(len(group), client, torch.Generator().manual_seed(number)))
        truth = Truth(torch.from_numpy(pixels), labels, order, number, torch.tensor(group))
        reply = Content({"arrays": module.state_dict()}, {"metrics": {"num-examples": len(group)}})
        capture = Capture(1, number + 1, "train", info, Content({"arrays": sent}), reply)
        victims.append(Victim(capture, used_examples(truth)))
    return victims


def restored(dataset: Dataset, wanted: Sequence[str]) -> None:
    """Print what each attack (or those that are wanted) restores."""
    ones = [[index] for index in range(10)]
    rows: list[tuple[str, dict[str, Any], list[Any], dict[str, Any]]] = [
        ("random-image", {"name": "lenet-sigmoid"}, ones, {}),
        ("class-mean", {"name": "lenet-sigmoid"}, ones, {}),
        ("linear-layer", {"name": "mlp"}, ones, {}),
        ("r-gap", {"name": "cnn-leaky"}, ones, {}),
        ("imprint", {"name": "imprint", "bins": 256}, [list(range(8))], {}),
        ("imprint", {"name": "imprint", "bins": 256}, [list(range(64))], {}),
        ("dlg", {"name": "lenet-sigmoid"}, ones, {"steps": 600}),
        ("idlg", {"name": "lenet-sigmoid"}, ones, {"steps": 600}),
        ("inverting-gradients", {"name": "lenet-relu"}, ones, {"steps": 1000, "tv": 1e-2}),
    ]
    print("\n| attack | model | images | PSNR median | mean | > 30 dB | > 40 dB | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    references = references_of(dataset)
    for name, model, groups, settings in rows:
        if wanted and name not in wanted:
            continue
        victims = victims_of(dataset, model, groups, seed=7)
        attack = build_attack(name, settings)
        observations = observe_victims(victims, attack, public=references.public)
        started = time.process_time()
        results = attack_victims(
            name, attack, victims, observations, candidates=references.candidates
        )
        seconds = time.process_time() - started
        scores = [row["psnr"] for result in results for row in result.rows]
        batch = f"{len(groups)} of {len(groups[0])}"
        above = [sum(score > limit for score in scores) for limit in (30, 40)]
        print(
            f"| {name} | {model['name']} | {batch} | {median(scores):.1f} | {fmean(scores):.1f} | "
            f"{above[0]} | {above[1]} | {seconds:.1f} |",
            flush=True,
        )


def step(dataset: Dataset, repeats: int, steps: int, generator: Mapping[str, Any]) -> None:
    """Print an inversion step's cost over the passes that it must do.

    These are the forward pass, the backward pass by the parameters, and the backward pass through
    both by the image; for GIFD the generator's two passes too. The steps are the attacks' own, with
    priors, projection and optimiser.
    """
    print("\n| attack | model | a step, ms | its passes, ms | ratio |\n|---|---|---|---|---|")
    models: list[dict[str, Any]] = [
        {"name": "lenet-relu"},
        {"name": "resnet8", "norm": "frozen"},
    ]
    for name, settings in (("inverting-gradients", {}), ("gifd", generator)):
        given = {"labels": "given", "restarts": 1, "steps": steps, **settings}
        attack = build_attack(name, given)
        assert isinstance(attack, OptimizationAttack)
        for model in models:
            [observation] = observe_victims(victims_of(dataset, model, [[0]], seed=7), attack)
            passes_of = _passes_of(attack, observation)
            whole, passes = [], []
            _seconds(lambda attack=attack, seen=observation: attack.run([seen]))
            for _ in range(repeats):
                run = _seconds(lambda attack=attack, seen=observation: attack.run([seen]))
                whole.append(run / (len(passes_of) * (steps + 1)))
                times = [_seconds_of_passes(observation, images, steps) for images in passes_of]
                passes.append(fmean(times))
            ratio = median(a / b for a, b in zip(whole, passes, strict=True))
            print(
                f"| {name} | {model['name']} | {1e3 * median(whole):.2f} | "
                f"{1e3 * median(passes):.2f} | {ratio:.2f} |",
                flush=True,
            )


# What is differentiated by, and a function from it to images.
Images = tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]


def _passes_of(attack: OptimizationAttack, observation: Observation) -> list[Images]:
    """Return how each stage of an attack makes its images."""
    [(_, group)] = attack.groups([observation], 0)
    if not isinstance(attack, GeneratorAttack):
        return [([group.image_noise], lambda values: values[0][0])]
    generator, found = attack.generator_for(observation), list[Images]()
    features = draw(generator, group)
    for stage in range(generator.stages):
        if stage:
            with torch.no_grad():
                features = generator.advance(stage - 1, features)
        decode = decoder(generator, stage, features, group)
        found.append((stack(features, group), lambda values, decode=decode: decode(values)[0]))
    return found


def _seconds_of_passes(observation: Observation, images_of: Images, steps: int) -> float:
    """Forward, backward by the parameters, and backward through both to the variables."""
    start, decode = images_of
    module = observation.model.module.requires_grad_(True)
    parameters = list(module.parameters())
    values = [value.detach().clone().requires_grad_() for value in start]
    assert observation.labels is not None
    started = time.process_time()
    for _ in range(steps):
        loss = mean_loss(module(decode(values)), observation.labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        torch.autograd.grad(gradients, values, observation.target)
    seconds = time.process_time() - started
    module.requires_grad_(False)
    return seconds / steps


def layers(dataset: Dataset, victims: int, steps: int) -> None:
    """Print what comes back from layers trained apart, and from the same blocks in a chain."""
    blocks = {"block": "small", "steps": 10, "norm": "group"}
    groups = [[index] for index in range(victims)]
    kinds = [
        (f"NoProp, {count} of 10 blocks", layer_victims_of(dataset, blocks, groups, count))
        for count in (1, 3, 10)
    ]
    for title, name in (("chain of 10 blocks", "chained-blocks"), ("cnn", "equal-cnn")):
        kinds.append((title, victims_of(dataset, {"name": name, **blocks}, groups, seed=7)))
    candidates = references_of(dataset).candidates
    print("\n| clients train | noise | threat | PSNR | cost | labels | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for title, known in kinds:
        draws = title.startswith("NoProp")
        for noise in ("optimised", "drawn", "given") if draws else ("optimised",):
            attack = build_attack("inverting-gradients", {"steps": steps, "noise": noise})
            observations = observe_victims(known, attack)
            done = attack_victims("ig", attack, known, observations, candidates=candidates)
            rows = [row for one in done for row in one.rows]
            psnr, cost, labels = (
                fmean(r[k] for r in rows) for k in ("psnr", "cost", "label_accuracy")
            )
            print(
                f"| {title} | {noise if draws else '-'} | {attack.threat.name} | {psnr:.1f} | "
                f"{cost:.3f} | {100 * labels:.0f} % | {rows[0]['cpu_seconds']:.0f} |",
                flush=True,
            )


def layer_victims_of(
    dataset: Dataset, model: Mapping[str, Any], groups: Sequence[Sequence[int]], count: int
) -> list[Victim]:
    """Return NoProp clients that train some blocks of one network, each client its own."""
    settings = ModelSettings.model_validate({"name": "noprop-dt", **model})
    design = Design.of(settings, dataset.image_shape, len(dataset.classes))
    network = build_model(settings, dataset.image_shape, len(dataset.classes), 7).state_dict()
    assigned = deal_layers(dict.fromkeys(range(len(groups)), count), [0] * design.blocks)
    victims = []
    for number, group in enumerate(groups):
        own = {None, *assigned[number]}
        sent = {key: value for key, value in network.items() if layer_of(key) in own}
        client = ClientSettings(batch_size=len(group), learning_rate=RATE)
        pixels = np.array(dataset.train.images[list(group)])
        labels = torch.from_numpy(np.array(dataset.train.labels[list(group)]))
        training = LayerTraining(
            design,
            GivenExamples(to_tensor(pixels, dataset.mean, dataset.std), labels),
            client,
            learning_rate=RATE,
            seed_of=partial(unit_seed, 7, 1, number),
        )
        done = training.run(array_record({key: to_array(v.numpy()) for key, v in sent.items()}))
        trained = {key: torch.from_numpy(array.numpy()) for key, array in done.arrays.items()}
        seeds = {
            name: unit_seed(7, 1, number, name) for name in client_unit_names(design, done.blocks)
        }
        truth = Truth(torch.from_numpy(pixels), labels, (), number, torch.tensor(group), seeds)
        reply = Content({"arrays": trained}, {"metrics": {"num-examples": len(group)}})
        info = _info(dataset, settings, client)
        capture = Capture(1, number + 1, "train", info, Content({"arrays": sent}), reply)
        victims.append(Victim(capture, truth))
    return victims


def _info(dataset: Dataset, model: ModelSettings, client: ClientSettings) -> FederationInfo:
    return FederationInfo(
        dataset.name,
        model,
        client,
        dataset.inputs,
        dataset.task,
        1,
    )


def batched(dataset: Dataset, repeats: int, steps: int) -> None:
    """Print 20 victims at once over 20 one after another."""
    print("\n| attack | model | 20 in turn, s | at once, s | ratio |\n|---|---|---|---|---|")
    rows: list[tuple[str, dict[str, Any]]] = [
        ("idlg", {"name": "lenet-sigmoid"}),
        ("inverting-gradients", {"name": "lenet-relu"}),
        ("inverting-gradients", {"name": "resnet8", "norm": "frozen"}),
    ]
    for name, model in rows:
        victims = victims_of(dataset, model, [[index] for index in range(20)], seed=7)
        attack = build_attack(name, {"steps": steps, "restarts": 1})
        observations = observe_victims(victims, attack)

        def in_turn(observations: list[Observation] = observations, attack: Any = attack) -> None:
            for observation in observations:
                attack.run([observation])

        def at_once(observations: list[Observation] = observations, attack: Any = attack) -> None:
            attack.run(observations)

        turns, once = [], []
        for _ in range(repeats):
            turns.append(_seconds(in_turn))
            once.append(_seconds(at_once))
        ratio = median(b / a for a, b in zip(turns, once, strict=True))
        seconds = f"{median(turns):.2f} | {median(once):.2f}"
        print(f"| {name} | {model['name']} | {seconds} | {ratio:.2f} |", flush=True)


def workers(dataset: Dataset, repeats: int, steps: int) -> None:
    """Print an arena's jobs on 20 victims, on two workers over one after another, by the clock."""
    victims = victims_of(
        dataset, {"name": "resnet8", "norm": "frozen"}, [[index] for index in range(20)], seed=7
    )
    print("\n| jobs | one after another, s | on 2 workers, s | ratio |\n|---|---|---|---|")
    cluster = Cluster(cpus=2)
    try:
        with TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number:03d}" for number in range(len(victims))]
            for victim, path in zip(victims, paths, strict=True):
                write_capture(victim.capture, victim.truth, path)
            settings = {"steps": steps}
            jobs = [Job("", (p,), "inverting-gradients", settings, "naive", 0) for p in paths]
            run = partial(run_job, Conditions(dataset.directory))
            allocator = WorkerAllocator(cluster, WorkerRequest(2, 1.0, 0.0))
            spread = partial(map_as_they_end, start_pool(_prepared_app, allocator))
            # Both workers are there, and have the data set, before the clock starts.
            _all_of(spread(run, jobs[:4]))
            run(jobs[0])
            turns, at_once = [], []
            for _ in range(repeats):
                turns.append(_clock(lambda: [run(job) for job in jobs]))
                at_once.append(_clock(lambda: _all_of(spread(run, jobs))))
    finally:
        cluster.close()
    ratio = median(b / a for a, b in zip(turns, at_once, strict=True))
    seconds = f"{median(turns):.2f} | {median(at_once):.2f}"
    print(f"| inverting-gradients, {steps} steps, resnet8 | {seconds} | {ratio:.2f} |", flush=True)


def _prepared_app() -> ClientApp:
    prepare_process()
    return ClientApp()


def _all_of(results: Iterator[tuple[int, Any]]) -> None:
    """Wait for all results; raise the first that is an exception."""
    for _, result in results:
        if isinstance(result, BaseException):
            raise result


def _clock(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("restored", "step", "layers", "batched", "workers"))
    parser.add_argument("--attack", action="append", default=[], help="for the table 'restored'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--victims", type=int, default=3, help="for 'layers'")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--generator", default="fashion-mnist", help="GIFD's, for 'step'")
    parser.add_argument("--generator-path", type=Path, help="its folder")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(chosen.dataset)
    if chosen.only in (None, "restored"):
        restored(dataset, chosen.attack)
    if chosen.only in (None, "step"):
        generator = {"generator": chosen.generator, "generator_path": chosen.generator_path}
        step(dataset, chosen.repeats, chosen.steps, generator)
    if chosen.only in (None, "layers"):
        layers(dataset, chosen.victims, 10 * chosen.steps)
    if chosen.only in (None, "batched"):
        batched(dataset, chosen.repeats, chosen.steps)
    if chosen.only in (None, "workers"):
        workers(dataset, chosen.repeats, 10 * chosen.steps)


if __name__ == "__main__":
    main()
