"""GIFD against other attacks on the captures of a run, at as many optimisation steps.

The run is one of experiments/gifd-fashion.toml (or -faces); the arms share victims, labels and
budget, so figures are paired by image. Run it, in some minutes for twenty victims and 1,000 steps:

    atoll run experiments/gifd-fashion.toml
    python -m benchmarks.privacy.gifd runs/gifd-fashion --generator fashion-mnist --steps 1000

Several runs (of other run.seed, say) may be given; their images are put together. For clients that
prune, ``--arms GIFD "GIFD, adaptive"``: the second is told of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from atoll.attacks.generators.generator_loading import load_generator
from atoll.platform.attack_runs.attack_run import run_attack

# Of GIAS's steps, the share of the latent's.
LATENT_SHARE = 0.3
# A round of GGL evaluates a population without descending: it costs as much as some steps.
POPULATION, STEPS_A_ROUND = 50, 10
# GIFD that knows the clients' defense; of no use in a run without one, so it is not a default.
ADAPTIVE = "GIFD, adaptive"


def arms(given: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any]]]:
    pixels = {"steps": given.steps, "restarts": given.restarts}
    generator = {
        "generator": given.generator,
        "resize": given.resize,
        "restarts": given.restarts,
    }
    if given.generator_path is not None:
        generator["generator_path"] = given.generator_path
    stages = load_generator(given.generator, given.generator_path).stages
    of_latent = round(LATENT_SHARE * given.steps)
    gifd = {
        **generator,
        "steps": given.steps // stages,
        "tv": given.tv,
        "radius": given.radius,
    }
    return {
        "Inverting Gradients": ("inverting-gradients", pixels),
        "Inverting Gradients, GIFD's tv": ("inverting-gradients", {**pixels, "tv": given.tv}),
        "class mean": ("class-mean", {}),
        "generator sample": ("generator-sample", generator),
        "latent only": ("gifd", {**generator, "stages": 1, "steps": given.steps, "tv": given.tv}),
        "GGL": (
            "ggl",
            {**generator, "rounds": given.steps // STEPS_A_ROUND, "population": POPULATION},
        ),
        "GIAS": (
            "gias",
            {
                **generator,
                "latent_steps": of_latent,
                "weight_steps": given.steps - of_latent,
                "tv": given.tv,
            },
        ),
        "GIFD": ("gifd", gifd),
        "GIFD, no l1 ball": ("gifd", {**gifd, "ball": False}),
        ADAPTIVE: ("gifd", {**gifd, "defense": "adaptive"}),
    }


def interval(differences: list[float]) -> float:
    """Half the width of the 95 % interval of the mean, by the normal approximation."""
    return 1.96 * stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--generator", required=True)
    parser.add_argument("--generator-path", type=Path)
    parser.add_argument("--resize", action="store_true")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=4, help="of every arm")
    parser.add_argument("--radius", type=float, default=0.1, help="of GIFD's l1 ball")
    parser.add_argument("--tv", type=float, default=1e-3, help="of GIFD, GIAS and an arm")
    parser.add_argument("--arms", nargs="*", help="some of the names only")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scores: dict[str, list[float]] = {}
    print("| attack | PSNR, dB | over the first row | best stage's | labels | CPU s an image |")
    print("|---|---|---|---|---|---|")
    for name, (attack, settings) in arms(given).items():
        if name == ADAPTIVE if given.arms is None else name not in given.arms:
            continue
        rows, seconds = [], 0.0
        for run in given.runs:
            result = run_attack(run, attack, settings=settings, seed=given.seed, lpips=False)
            rows += result.rows
            seconds += result.rows[0]["cpu_seconds"]
        psnr = scores[name] = [row["psnr"] for row in rows]
        first = next(iter(scores.values()))
        over = [a - b for a, b in zip(psnr, first, strict=True)]
        oracle = [row["oracle_psnr"] for row in rows if row["oracle_psnr"] is not None]
        print(
            f"| {name} | {fmean(psnr):.2f} | {fmean(over):+.2f} +- {interval(over):.2f} | "
            f"{f'{fmean(oracle):.2f}' if oracle else '-'} | "
            f"{fmean(row['label_accuracy'] for row in rows):.2f} | {seconds / len(rows):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
