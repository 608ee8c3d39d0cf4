"""What attacks restore on Fashion-MNIST, what a step costs, and what batching victims saves.

``python -m benchmarks.attacks`` prints three tables, all in this process on one thread (CPU
seconds). Victims are real clients' updates: :func:`atoll.clients.training.train` from one broadcast
model, the gradient read off the weights that come back. ``--only restored`` (or ``step``,
``batched``) prints one table; ``--attack idlg`` one of its rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from atoll.attacks.captures import Capture, Content, FederationInfo, Truth
from atoll.attacks.matching import COSTS
from atoll.attacks.minimize import minimize
from atoll.attacks.observation import Observation, used_examples
from atoll.attacks.optimization import OptimizationAttack, matching_objective
from atoll.attacks.step_rules import SignedAdam
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog import load_dataset
from atoll.clients.data.store import ImageDataset
from atoll.clients.data.tensors import to_tensor
from atoll.clients.losses import mean_loss
from atoll.clients.models.build import build_model
from atoll.clients.models.imprint import ImprintBlock, aim
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.training import batches, train
from atoll.platform.attack_run import build_attack

# The gradient is read off float32 weights: a large step loses least to rounding.
RATE = 1.0


def victims_of(
    dataset: ImageDataset, model: Mapping[str, Any], groups: Sequence[Sequence[int]], seed: int
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
        info = FederationInfo(
            dataset.name,
            settings,
            client,
            dataset.image_shape,
            dataset.classes,
            dataset.mean,
            dataset.std,
            1,
        )
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


def restored(dataset: ImageDataset, wanted: Sequence[str]) -> None:
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
        results = attack_victims(name, attack, victims, observations, gallery=references.gallery)
        seconds = time.process_time() - started
        scores = [row["psnr"] for result in results for row in result.rows]
        batch = f"{len(groups)} of {len(groups[0])}"
        above = [sum(score > limit for score in scores) for limit in (30, 40)]
        print(
            f"| {name} | {model['name']} | {batch} | {median(scores):.1f} | {fmean(scores):.1f} | "
            f"{above[0]} | {above[1]} | {seconds:.1f} |",
            flush=True,
        )


def step(dataset: ImageDataset, repeats: int) -> None:
    """Print an inversion step's cost over the forward and the two backward passes in it."""
    attack = build_attack("inverting-gradients", {"labels": "given"})
    assert isinstance(attack, OptimizationAttack)
    print("\n| model | a step, ms | its three passes, ms | ratio |\n|---|---|---|---|")
    models: list[dict[str, Any]] = [
        {"name": "lenet-relu"},
        {"name": "resnet8", "norm": "frozen"},
    ]
    for model in models:
        victims = victims_of(dataset, model, [[0]], seed=7)
        [observation] = observe_victims(victims, attack)
        whole, passes = [], []
        _seconds_a_step(attack, observation)
        for _ in range(repeats):
            whole.append(_seconds_a_step(attack, observation))
            passes.append(_seconds_of_passes(observation))
        ratio = median(a / b for a, b in zip(whole, passes, strict=True))
        print(
            f"| {model['name']} | {1e3 * median(whole):.2f} | {1e3 * median(passes):.2f} | "
            f"{ratio:.2f} |",
            flush=True,
        )


def _seconds_a_step(attack: OptimizationAttack, observation: Observation, steps: int = 60) -> float:
    [(_, group)] = attack.groups([observation], 0)
    objective = matching_objective(group, COSTS["cosine"], lambda values: values[0])
    started = time.process_time()
    minimize(objective, [group.image_noise], SignedAdam(0.1), steps)
    return (time.process_time() - started) / (steps + 1)


def _seconds_of_passes(observation: Observation, steps: int = 60) -> float:
    """Forward, backward by the parameters, and backward through both by the image."""
    module = observation.model.module.requires_grad_(True)
    parameters = list(module.parameters())
    images = torch.randn(1, *observation.space.shape, requires_grad=True)
    assert observation.labels is not None
    started = time.process_time()
    for _ in range(steps):
        loss = mean_loss(module(images), observation.labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        torch.autograd.grad(gradients, images, observation.target)
    module.requires_grad_(False)
    return (time.process_time() - started) / steps


def batched(dataset: ImageDataset, repeats: int, steps: int) -> None:
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


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("restored", "step", "batched"))
    parser.add_argument("--attack", action="append", default=[], help="for the table 'restored'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--dataset", default="fashion-mnist")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(chosen.dataset)
    if chosen.only in (None, "restored"):
        restored(dataset, chosen.attack)
    if chosen.only in (None, "step"):
        step(dataset, chosen.repeats)
    if chosen.only in (None, "batched"):
        batched(dataset, chosen.repeats, chosen.steps)


if __name__ == "__main__":
    main()
