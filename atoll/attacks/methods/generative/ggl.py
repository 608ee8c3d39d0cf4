"""GGL: generative gradient leakage (Li et al., 2022, arXiv 2203.15696).

The latent alone is searched, without derivatives, by CMA-ES (the library ``cma``): robust where an
update was defended, but what the generator cannot make is not found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.generator_attack import GeneratorAttack, decoder, draw, split, stack
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts, matching_objective
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import PATH_POINTS, Minimum
from atoll.clients.ranges import Deviation, Iterations, Weight
from atoll.extras import OptionalModule, require
from atoll.randomness import derive_seed

cma = OptionalModule("cma", "the attack ggl")
# A full covariance matrix of more dimensions costs more than the evaluations.
FULL_COVARIANCE = 512
Evaluate = Callable[[NDArray[np.float64]], tuple[Tensor, Tensor]]


class GGL(GeneratorAttack):
    """CMA-ES on the squared distance of updates by the latent.

    Attributes
    ----------
    rounds, population : int
        Of the evolution strategy; the paper's 500 rounds of 50.
    spread : float
        The standard deviation of the first population, around 0.
    squash : bool
        Whether latents are the hyperbolic tangent of what is searched, as for BigGAN.
    kl : float
        What the divergence of a latent's values from a standard normal distribution counts for.
    noise : str
        What clients draw in their training is drawn or given: it is not searched for.
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    """

    rounds: Iterations = 500
    population: Annotated[int, Field(ge=4, le=100_000)] = 50
    spread: Deviation = 1.0
    squash: bool = False
    kl: Weight = 0.1
    noise: Literal["drawn", "given"] = "drawn"
    cost: Literal["mean-l2", "l2", "cosine", "layerwise-cosine"] = "mean-l2"

    def check_available(self) -> None:
        """Refuse to go without CMA-ES."""
        require("cma", what="the attack ggl")
        super().check_available()

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        generator = self.generator_for(group.first)
        total, found = group.candidates * self.rounds, list[tuple[Tensor, Tensor, Tensor]]()
        drawn = group.client_noise
        for number, features in enumerate(split(draw(generator, group), group)):
            victim, restart = divmod(number, group.restarts)
            observation = group.observations[victim]
            population = replace(
                group,
                observations=(observation,),
                restarts=self.population,
                labels=group.labels[number].expand(self.population, -1),
            )
            name = (group.seed, "ggl", observation.server_round, observation.node_id, restart)

            def report(done: int, before: int = number * self.rounds) -> None:
                progress(before + done, total)

            own = None if drawn is None else drawn[number].expand(self.population, -1)
            seed = derive_seed(*name)
            found.append(self._search(generator, features, population, own, seed, report))
        images, matching, paths = (torch.stack(part) for part in zip(*found, strict=True))
        minimum = Minimum([], matching, matching, paths, self.rounds)
        return best_restarts(group, minimum, images)

    def _search(
        self,
        generator: StagedGenerator,
        features: Features,
        population: Group,
        client_noise: Tensor | None,
        seed: int,
        report: Callable[[int], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a candidate's best images, their matching cost, and its path."""
        everyone = _repeated(features, self.population)
        decode = decoder(generator, 0, everyone, population)
        shapes = [value.shape for value in stack(everyone, population)]
        objective = matching_objective(
            population, COSTS[self.cost], decode, client_noise=client_noise
        )
        size = sum(shape[1:].numel() for shape in shapes)
        numbers = np.random.default_rng(seed)
        strategy = cma.CMAEvolutionStrategy(
            size * [0.0],
            self.spread,
            {
                "popsize": self.population,
                "randn": lambda *shape: numbers.standard_normal(shape),
                "seed": np.nan,
                "CMA_diagonal": size > FULL_COVARIANCE,
                "verbose": -9,
                "verb_log": 0,
            },
        )
        best, best_cost = np.zeros(size), np.inf
        best_fit = torch.tensor(torch.inf, device=population.first.model.device)
        path, every = list[Tensor](), max(1, self.rounds // PATH_POINTS)
        for done in range(self.rounds):
            asked = strategy.ask()
            values = self.values_of(np.stack(asked), shapes, population.first.model.device)
            with torch.no_grad():
                _, fits = objective(values)
                costs = fits + self.kl * divergence(values)
            told = costs.double().nan_to_num(nan=1e300).cpu().numpy()
            strategy.tell(asked, told)
            least = int(told.argmin())
            if told[least] < best_cost:
                best, best_cost, best_fit = asked[least], told[least], fits[least]
            if done % every == 0:
                path.append(fits[least])
            report(done + 1)
        chosen = self.values_of(np.stack(self.population * [best]), shapes, best_fit.device)
        with torch.no_grad():
            return decode(chosen)[0], best_fit, torch.stack(path)

    def values_of(
        self, searched: NDArray[np.float64], shapes: list[torch.Size], device: torch.device | str
    ) -> list[Tensor]:
        """Return the values of these shapes that rows of the search stand for."""
        flat = torch.from_numpy(searched).float().to(device)
        flat = torch.tanh(flat) if self.squash else flat
        parts = torch.split(flat, [shape[1:].numel() for shape in shapes], 1)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _repeated(features: Features, times: int) -> Features:
    def repeated(rows: Tensor) -> Tensor:
        return rows.repeat(times, *[1] * (rows.dim() - 1))

    return Features(
        {name: repeated(rows) for name, rows in features.free.items()},
        {name: repeated(rows) for name, rows in features.fixed.items()},
    )


def divergence(values: list[Tensor]) -> Tensor:
    """Return KL(N(m, s^2) || N(0, 1)) with the mean and variance of each candidate's values."""
    flat = torch.cat([value.flatten(1) for value in values], 1)
    mean, variance = flat.mean(1), flat.var(1)
    return 0.5 * (variance + mean.square() - 1 - variance.log())
