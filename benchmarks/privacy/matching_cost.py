"""Matching cost of gradient inversion for images whose distance from the truth is known.

An attack descends 1 - cosine of the updates. This prints it for the victims' true images with
noise, moved or mirrored, and for the images of a generator that come nearest to them (found with
the truth in hand: by the latent, then by each stage's features in GIFD's ball). An attack whose
cost ends where a moved truth's is cannot tell the two apart. Last is where GIFD's stages go from
that nearest latent: away from the truth, if the cost misleads. Run it, in some minutes:

    atoll run experiments/gifd-fashion.toml
    python -m benchmarks.privacy.matching_cost runs/gifd-fashion --generator fashion-mnist
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import matching_objective
from atoll.attacks.captures.capture_files import find_captures
from atoll.attacks.generators.generator_loading import load_generator
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.methods.matching.inverting_gradients import InvertingGradients
from atoll.attacks.optim.matching import cosine
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.priors import total_variation
from atoll.attacks.optim.projections import project_l1_ball, project_sphere, row_norms
from atoll.attacks.optim.step_rules import Adam
from atoll.attacks.optim.step_size_schedules import ramp
from atoll.attacks.victims import observe_victims, read_victims

# Returns each image's cost that is descended, and the cost alone.
Costs = tuple[Tensor, Tensor]
Show = Callable[[str, Tensor], None]
NOISE_DB = (40, 30, 20)
MOVES = (1, 2, 3, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of clients with one image each")
    parser.add_argument("--generator", help="a data set's name, or a folder")
    parser.add_argument("--steps", type=int, default=100, help="in each of its stages")
    parser.add_argument("--radius", type=float, default=0.1, help="of the l1 ball")
    parser.add_argument("--tv", type=float, default=1e-3, help="as GIFD would have it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    victims = read_victims(find_captures(given.run))
    attack = InvertingGradients()
    observations = observe_victims(victims, attack, mode="train")
    ((_, group),) = attack.groups(observations, 0)
    truth = torch.cat([victim.truth.images for victim in victims])
    print("| images | PSNR, dB | 1 - cosine |\n|---|---|---|")

    def show(name: str, images: Tensor) -> None:
        psnr = -10 * (images - truth).square().flatten(1).mean(1).log10()
        print(f"| {name} | {psnr.mean():.2f} | {matching(group, images):.4f} |", flush=True)

    random = torch.Generator().manual_seed(0)
    for decibels in NOISE_DB:
        noise = torch.randn(truth.shape, generator=random)
        show("truth and noise", truth + 10 ** (-decibels / 20) * noise)
    for pixels in MOVES:
        moved = F.pad(truth, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]
        show(f"truth moved by {pixels}", moved)
    show("truth mirrored", truth.flip(3))
    if given.generator:
        nearest(given, group, truth, show)


def matching(group: Group, images: Tensor) -> float:
    """Return the mean matching cost of images in [0, 1], one a victim."""
    objective = matching_objective(group, cosine, lambda values: values[0], [])
    _, costs = objective([group.first.space.normalize(images)[:, None]])
    return float(costs.detach().mean())


def nearest(given: argparse.Namespace, group: Group, truth: Tensor, show: Show) -> None:
    """Show the generator's images nearest to the truth, and where GIFD would go from there."""
    generator = load_generator(given.generator, None)

    def error(images: Tensor) -> Costs:
        errors = (images - truth).square().flatten(1).mean(1)
        return errors, errors

    attacked = matching_objective(
        group, cosine, lambda values: values[0], [(given.tv, total_variation)]
    )

    def cost(images: Tensor) -> Costs:
        return attacked([group.first.space.normalize(images)[:, None]])

    def go_on(stage: int, features: Features, objective: Callable[[Tensor], Costs]) -> Features:
        if stage:
            with torch.no_grad():
                features = generator.advance(stage - 1, features)
        return at_stage(generator, stage, features, objective, given)

    latent = go_on(0, generator.init(group.labels[:, 0], torch.Generator().manual_seed(0)), error)
    for name, objective in (("nearest", error), ("nearest by the latent, attacked", cost)):
        features = latent
        for stage in range(generator.stages):
            features = go_on(stage, features, objective) if stage else latent
            with torch.no_grad():
                show(f"{name}, stage {stage}", generator.decode(stage, features))


def at_stage(
    generator: StagedGenerator,
    stage: int,
    features: Features,
    objective: Callable[[Tensor], Costs],
    given: argparse.Namespace,
) -> Features:
    """Return a stage's features where an objective of the images is least, from given ones on."""
    ((name, start),) = features.free.items()

    def of_values(values: list[Tensor]) -> Costs:
        return objective(generator.decode(stage, Features({name: values[0]}, features.fixed)))

    def project(values: list[Tensor]) -> None:
        if stage:
            inside = project_l1_ball(values[0], start, given.radius * start[0].numel())
        else:
            inside = project_sphere(values[0], row_norms(start))
        values[0].copy_(inside)

    found = minimize(of_values, [start], Adam(0.1), given.steps, schedule=ramp, project=project)
    return Features({name: found.values[0]}, features.fixed)


if __name__ == "__main__":
    main()
