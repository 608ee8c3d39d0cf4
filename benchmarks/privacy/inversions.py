"""SPEAR's batches, and ways of matching gradients on deeper victims.

``python -m benchmarks.privacy.inversions --only spear`` prints what SPEAR recovers of batches of an
``mlp`` without and with noise in the update; ``--only adam`` what of a client that trains with
Adam; ``--only shifts`` how far the gradient of an image is from that of the same image moved, by
model; ``--only matching`` compares ways of matching (``benchmarks.privacy.matching_methods``), adds
its trials to ``--out`` and can be continued; ``--table`` prints what there is. Victims are real
clients' updates after one step on training images, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import MODEL_RECORD
from atoll.attacks.threat.victim_model import VictimModel
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from benchmarks.paths import ROOT
from benchmarks.privacy.example_clients import victims_of
from benchmarks.privacy.matching_methods import METHODS, MODELS, matching_lines, run_matching

# Samples of SPEAR's search where noise keeps it from knowing that it is done.
NOISY_SAMPLES = 2000


def noisy(victim: Victim, share: float) -> Victim:
    """Return a victim whose update has noise of a share of each parameter's root mean square."""
    sent, reply = victim.capture.broadcast, dict(victim.capture.update)
    random = torch.Generator().manual_seed(0)
    for name, values in sent.items():
        deviation = share * (reply[name] - values).square().mean().sqrt()
        reply[name] = reply[name] + deviation * torch.randn(values.shape, generator=random)
    content = replace(victim.capture.reply, arrays={MODEL_RECORD: reply})
    return Victim(replace(victim.capture, reply=content), victim.truth)


def rows_of(
    victims: Sequence[Victim], name: str, settings: Mapping[str, Any], candidates: Tensor
) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of an attack on victims, and the processor time."""
    attack, started = build_attack(name, settings), time.process_time()
    observations = observe_victims(victims, attack)
    done = attack_victims(name, attack, victims, observations, candidates=candidates)
    return [row for one in done for row in one.rows], time.process_time() - started


def spear(
    datasets: Sequence[str], batches: Sequence[int], noise: Sequence[float], seeds: int
) -> None:
    """Print the least PSNR over all images of the batches, and how many are exact."""
    print("| data | batch | noise | clients | least PSNR, dB | median | > 100 dB | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in datasets:
        dataset = load_dataset(name)
        candidates = references_of(dataset).candidates
        for batch, share in product(batches, noise):
            victims = victims_of(dataset, {"name": "mlp"}, batch, range(seeds))
            if share:
                victims = [noisy(victim, share) for victim in victims]
            own = {"samples": NOISY_SAMPLES} if share else {}
            rows, seconds = rows_of(victims, "spear", own, candidates)
            psnr = sorted(row["psnr"] for row in rows)
            exact = sum(value > 100 for value in psnr)
            print(
                f"| {name} | {batch} | {share:g} | {seeds} | {psnr[0]:.1f} | "
                f"{psnr[len(psnr) // 2]:.1f} | {exact} of {len(psnr)} | {seconds / seeds:.1f} |",
                flush=True,
            )


def adam(dataset: Dataset, seeds: int, steps: int) -> None:
    """Print Inverting Gradients on clients with Adam, by the epsilon of the simulation."""
    candidates = references_of(dataset).candidates
    print("| optimiser | steps | epsilon | PSNR, dB | labels | CPU s an image |")
    print("|---|---|---|---|---|---|")
    for optimizer, epochs in (("adam", 1), ("adam", 3), ("adamw", 3)):
        victims = victims_of(
            dataset,
            {"name": "mlp"},
            1,
            range(seeds),
            optimizer=optimizer,
            epochs=epochs,
            learning_rate=1e-3,
        )
        for epsilon in (1e-8, 1e-4, 1e-3, 1e-2):
            settings = {"steps": steps, "tv": 1e-3, "adam_epsilon": epsilon}
            rows, seconds = rows_of(victims, "inverting-gradients", settings, candidates)
            print(
                f"| {optimizer} | {epochs} | {epsilon:g} | {fmean(r['psnr'] for r in rows):.1f} | "
                f"{fmean(r['label_accuracy'] for r in rows):.2f} | {seconds / seeds:.1f} |",
                flush=True,
            )


def shifts(dataset: Dataset, seeds: int) -> None:
    """Print 1 - cosine of the gradients of images and of the same images moved, by model."""
    print("| model | moved by 1 pixel | 2 | 4 | 8 | another image |")
    print("|---|---|---|---|---|---|")
    models: dict[str, dict[str, int]] = {
        "resnet8": {},
        "resnet18, quarter width": {"width": 16},
        "resnet18": {},
    }
    for title, own in models.items():
        model = {"name": title.partition(",")[0], "norm": "frozen", "init": "he", **own}
        costs: dict[str, list[float]] = {}
        for victim in victims_of(dataset, model, 2, range(seeds)):
            [observation] = observe_victims([victim], build_attack("random-image", {}))
            images = observation.space.normalize(victim.truth.images)
            [label] = victim.truth.labels[:1].tolist()
            own_gradient = _gradient(observation.model, images[:1], label)
            moved = {str(by): torch.roll(images[:1], (by, by), (2, 3)) for by in (1, 2, 4, 8)}
            for name, image in {**moved, "another": images[1:]}.items():
                gradient = _gradient(observation.model, image, label)
                similarity = torch.nn.functional.cosine_similarity(gradient, own_gradient, dim=0)
                costs.setdefault(name, []).append(1 - float(similarity))
        cells = " | ".join(f"{fmean(values):.4f}" for values in costs.values())
        print(f"| {title} | {cells} |", flush=True)


def _gradient(model: VictimModel, images: Tensor, label: int) -> Tensor:
    """Return the whole gradient of images with one label, in float64."""
    with model.differentiable() as leaves:
        loss = model.units[0].loss(None, images, torch.full((len(images),), label), {})
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)]).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("spear", "adam", "shifts", "matching"), required=True)
    parser.add_argument("--datasets", nargs="+", default=["fashion-mnist", "cifar10"])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="shares, for spear")
    parser.add_argument("--seeds", type=int, default=5, help="clients of a row of spear and adam")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--victims", type=int, default=20)
    parser.add_argument("--block", type=int, default=5, help="victims attacked together")
    parser.add_argument("--others", type=int, default=6, help="images of the search")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--restarts", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--generator", type=Path, help="a folder; trained if it is not there")
    parser.add_argument("--generator-steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "matching.json")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after these")
    parser.add_argument("--table", type=Path, help="a file of matching: prints its tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.generator is None:
        given.generator = ROOT / "runs" / f"generator-{given.datasets[0]}"
    if given.table is not None:
        print("\n".join(matching_lines(json.loads(given.table.read_text()))))
    elif given.only == "spear":
        spear(given.datasets, given.batches, given.noise, given.seeds)
    elif given.only == "adam":
        adam(load_dataset(given.datasets[0]), given.seeds, given.steps)
    elif given.only == "shifts":
        shifts(load_dataset(given.datasets[0]), given.seeds)
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        run_matching(given, given.out)
        print("\n".join(matching_lines(json.loads(given.out.read_text()))))


if __name__ == "__main__":
    main()
