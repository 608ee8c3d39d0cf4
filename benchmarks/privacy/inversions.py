"""SPEAR's batches, and Inverting Gradients with FedLeak's options on deeper victims.

``python -m benchmarks.privacy.inversions --only spear`` prints what SPEAR recovers of batches of an
``mlp`` without and with noise in the update; ``--only adam`` what of a client that trains with
Adam; ``--only shifts`` how far the gradient of an image is from that of the same image moved, by
model; ``--only matching`` compares ways of matching on one model. Victims are real clients' updates
after one step on training images, on one thread. For ``matching`` the total variation of every
method is chosen by the same search on other images, and intervals are Student's, paired by image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import MODEL_RECORD
from atoll.attacks.example_victims import example_victim
from atoll.attacks.threat.victim_model import VictimModel
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.platform.results.student import t_factor

# Samples of SPEAR's search where noise keeps it from knowing that it is done.
NOISY_SAMPLES = 2000
# Total variations that the search tries.
VARIATIONS = (1e-3, 1e-2, 3e-2)
METHODS: Mapping[str, Mapping[str, Any]] = {
    "Inverting Gradients": {},
    "half of the entries matched": {"matched": 0.5},
    "tenth of the entries matched": {"matched": 0.1},
    "gradient regularization 0.5": {"regularization": 0.5},
}
# Victims of the search have seeds from here on.
OTHERS = 1000


def victims_of(
    dataset: Dataset,
    model: Mapping[str, Any],
    batch: int,
    seeds: Sequence[int],
    **client: Any,
) -> list[Victim]:
    """Return a client of its own model for each seed."""
    settings = ClientSettings.model_validate({"batch_size": batch, "learning_rate": 1.0, **client})
    return [
        example_victim(
            ModelSettings.model_validate(model),
            settings,
            examples=batch,
            seed=seed,
            dataset=dataset,
        )
        for seed in seeds
    ]


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


def matching(
    dataset: Dataset, model: Mapping[str, Any], methods: Sequence[str], given: argparse.Namespace
) -> None:
    """Print ways of matching at the total variation that is best for each on other images."""
    candidates = references_of(dataset).candidates
    others = victims_of(dataset, model, 1, range(OTHERS, OTHERS + given.others))
    victims = victims_of(dataset, model, 1, range(given.victims))
    print(f"{model}, {given.steps} steps, {given.victims} victims, searched on {given.others}")
    print("| method | tv | PSNR, dB | over the first | SSIM | identified | CPU s an image |")
    print("|---|---|---|---|---|---|---|")
    first: list[float] | None = None
    for method in methods:
        settings = {"steps": given.steps, **METHODS[method]}
        found = {}
        for tv in VARIATIONS:
            rows, _ = rows_of(others, "inverting-gradients", {**settings, "tv": tv}, candidates)
            found[tv] = fmean(row["psnr"] for row in rows)
        tv = max(found, key=lambda value: found[value])
        rows, seconds = rows_of(victims, "inverting-gradients", {**settings, "tv": tv}, candidates)
        psnr = [row["psnr"] for row in rows]
        first = first or psnr
        over = [a - b for a, b in zip(psnr, first, strict=True)]
        print(
            f"| {method} | {tv:g} | {fmean(psnr):.2f} | {fmean(over):+.2f} +- "
            f"{half_width(over):.2f} | {fmean(row['ssim'] for row in rows):.3f} | "
            f"{sum(bool(row['identified']) for row in rows)} of {len(rows)} | "
            f"{seconds / len(rows):.1f} |",
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


def half_width(differences: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean."""
    count = len(differences)
    return t_factor(0.95, count - 1) * stdev(differences) / count**0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("spear", "adam", "shifts", "matching"), required=True)
    parser.add_argument("--datasets", nargs="+", default=["fashion-mnist", "cifar10"])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 12, 16])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="shares, for spear")
    parser.add_argument("--seeds", type=int, default=5, help="clients of a row of spear and adam")
    parser.add_argument("--model", choices=("resnet8", "resnet18"), default="resnet18")
    parser.add_argument("--victims", type=int, default=20)
    parser.add_argument("--others", type=int, default=6, help="images of the search")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--methods", nargs="*", choices=tuple(METHODS), default=tuple(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only == "spear":
        spear(given.datasets, given.batches, given.noise, given.seeds)
    elif given.only == "adam":
        adam(load_dataset(given.datasets[0]), given.seeds, given.steps)
    elif given.only == "shifts":
        shifts(load_dataset(given.datasets[0]), given.seeds)
    else:
        model: dict[str, Any] = {"name": given.model, "norm": "frozen", "init": "he"}
        if given.model == "resnet18":
            model["width"] = 16
        matching(load_dataset(given.datasets[0]), model, given.methods, given)


if __name__ == "__main__":
    main()
