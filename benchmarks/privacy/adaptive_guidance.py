"""Guided diffusion with and without adaptive guidance, and a rival.

The victims are clients with one training image each, and an untrained model each; or, with
``--run``, those that a run has captured. The prior has seen test images alone. Figures are paired
by image. Run it, in a minute:

    atoll train-prior digits --kind diffusion --out digits.diffusion --set steps=400 --set width=8
    python -m benchmarks.privacy.adaptive_guidance digits.diffusion

or, with ResNet-8 in a federation:

    atoll run experiments/guided-diffusion.toml
    python -m benchmarks.privacy.adaptive_guidance digits.diffusion --run runs/guided-diffusion

An evaluation is one of the matching cost with its gradient. Inverting Gradients has as many as
guided diffusion has levels, and ten times as many.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture_files import find_captures
from atoll.attacks.example_victims import example_victim
from atoll.attacks.victims import attack_victims, observe_victims, read_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.settings import ModelSettings


def arms(levels: int, prior: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the arms by name: an attack and its settings."""
    guided = {"prior_path": str(prior), "levels": levels}
    fewer = {"levels": 2 * levels // 3, "alignment": 1.0}
    return {
        "guided at every level": ("guided-diffusion", {**guided, "alignment": 1.0}),
        "adaptive guidance": ("guided-diffusion", {**guided, "pause": levels // 6}),
        "two thirds of the levels": ("guided-diffusion", {**guided, **fewer}),
        "Inverting Gradients": ("inverting-gradients", {"steps": levels, "tv": 1e-3}),
        "Inverting Gradients, 10x": ("inverting-gradients", {"steps": 10 * levels, "tv": 1e-3}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", type=Path)
    parser.add_argument("--run", type=Path, help="of experiments/guided-diffusion.toml, say")
    parser.add_argument("--model", default="lenet-relu", help="where there is no run")
    parser.add_argument("--victims", type=int, default=12, help="where there is no run")
    parser.add_argument("--first", type=int, default=0, help="seed of the first victim")
    parser.add_argument("--arms", nargs="*", help="some of the names only")
    parser.add_argument("--levels", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.run is None:
        model = ModelSettings(name=given.model)
        seeds = range(given.first, given.first + given.victims)
        victims = [example_victim(model, seed=seed) for seed in seeds]
    else:
        victims = read_victims(find_captures(given.run))
    dataset = load_dataset(victims[0].capture.federation.dataset)
    references = references_of(dataset)
    first: list[float] | None = None
    print("| attack | PSNR, dB | over the first row | identified | evaluations |")
    print("|---|---|---|---|---|")
    for name, (attack_name, settings) in arms(given.levels, given.prior).items():
        if given.arms is not None and name not in given.arms:
            continue
        attack = build_attack(attack_name, settings)
        observations = observe_victims(victims, attack, public=references.public, mode="eval")
        rows, evaluations = list[dict[str, Any]](), list[int]()
        for seed in range(given.seeds):
            found = attack_victims(
                name, attack, victims, observations, candidates=references.candidates, seed=seed
            )
            rows += [row for one in found for row in one.rows]
            is_guided = attack_name == "guided-diffusion"
            evaluations += [
                len(one.reconstruction.cost_path) if is_guided else settings["steps"]
                for one in found
            ]
        psnr = [row["psnr"] for row in rows]
        first = first or psnr
        over = [a - b for a, b in zip(psnr, first, strict=True)]
        # Images are the sample; the seeds of one image are not independent of each other.
        images = [fmean(over[place :: len(victims)]) for place in range(len(victims))]
        half = float(t.ppf(0.975, len(images) - 1)) * stdev(images) / len(images) ** 0.5
        print(
            f"| {name} | {fmean(psnr):.2f} | {fmean(over):+.2f} +- {half:.2f} | "
            f"{fmean(row['identified'] for row in rows):.2f} | {fmean(evaluations):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
