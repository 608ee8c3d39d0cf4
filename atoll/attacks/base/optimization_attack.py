"""Base class of attacks by optimisation: candidates whose simulated update matches the given one.

:class:`OptimizationAttack` is the composition: labels, starts, a matching cost with priors, a step
rule and schedule, restarts, and the choice among them. A method says what its variables are and
how they become images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import Attack, LabelSource, Progress, Reconstruction, ignore_progress
from atoll.attacks.base.group import Group, NoiseSource
from atoll.attacks.optim.matching import Cost
from atoll.attacks.optim.minimize import Minimum, NuisanceObjective, Objective
from atoll.attacks.optim.priors import PriorCost
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.labels import LabelMethod, head_gradient, infer_labels
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.threat.victim_model import VictimModel
from atoll.clients.ranges import Positive, Repetitions

# Turns a stack of variables into a stack of normalised images.
Decode = Callable[[list[Tensor]], Tensor]
# Candidates that are optimised at once: more do not fill the vector units better.
CANDIDATES_AT_ONCE = 32
# Values of all their gradients together: 256 MiB, of which a step holds several.
VALUES_AT_ONCE = 1 << 26


class OptimizationAttack(Attack):
    """Base class of attacks by optimisation, with their common settings.

    Attributes
    ----------
    restarts : int
        Candidates a victim.
    labels, label_method : str
        Source of the labels, and the method by which they are inferred.
    batch_order : str
        Whether it is known which images each local step used.
    noise : str
        How noise that clients draw in training (NoProp) is treated: "optimised" with
        the images, "drawn" once by the attacker, or "given" by an oracle, image by image in the
        order of ``labels = "given"``. Other clients draw none.
    defense : str
        Whether the client's defense is known.
    adam_epsilon : float
        Adam's epsilon in the simulation of a client that trains with Adam or AdamW, whose own is
        1e-8. A step of Adam is nearly the sign of the gradient, without a slope to descend; a
        larger epsilon rounds it off.

    Examples
    --------
    >>> from atoll.attacks import Adam, OptimizationAttack, best_restarts, cosine, minimize
    >>> from atoll.attacks import example_victim, matching_objective, observe
    >>> class Mine(OptimizationAttack):
    ...     '''Adam on the cosine distance of the updates.'''
    ...
    ...     steps: int = 100
    ...
    ...     def attack_group(self, group, progress):
    ...         objective = matching_objective(group, cosine, lambda values: values[0])
    ...         minimum = minimize(objective, [group.image_noise], Adam(0.1), self.steps)
    ...         return best_restarts(group, minimum, minimum.values[0])
    >>> attack = Mine(restarts=2)
    >>> [found] = attack.run_checked([observe(example_victim().capture, attack.threat)])
    >>> found.cost < 0.01, found.label_source
    (True, 'inferred')
    """

    restarts: Repetitions = 1
    labels: Literal["inferred", "given"] = "inferred"
    label_method: LabelMethod = "auto"
    batch_order: Literal["assumed", "given"] = "assumed"
    noise: NoiseSource = "optimised"
    defense: Literal["naive", "adaptive"] = "naive"
    adam_epsilon: Positive = 1e-3

    needs = frozenset({Capability.TRAINING})

    @property
    def threat(self) -> ThreatModel:
        """The threat model; settings add to what the attack needs."""
        more = {
            Capability.LABELS: self.labels == "given",
            Capability.BATCH_ORDER: self.batch_order == "given",
            Capability.NOISE: self.noise == "given",
            Capability.DEFENSE: self.defense == "adaptive",
        }
        return ThreatModel(self.needs).with_(c for c, granted in more.items() if granted)

    def check(self, observation: Observation) -> None:
        """Refuse a client that cannot be simulated, or whose labels cannot be inferred."""
        ClientSimulation.of(observation)
        if self.labels == "inferred":
            head_gradient(observation)

    def run(
        self,
        observations: Sequence[Observation],
        *,
        seed: int = 0,
        progress: Progress = ignore_progress,
    ) -> list[Reconstruction]:
        """Attack observations, in groups that are optimised together."""
        groups = self.groups(observations, seed)
        found: dict[int, Reconstruction] = {}
        for number, (places, group) in enumerate(groups):

            def report(done: int, total: int, number: int = number) -> None:
                progress(number * total + done, len(groups) * total)

            found.update(zip(places, self.attack_group(group, report), strict=True))
        return [found[place] for place in range(len(observations))]

    @abstractmethod
    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model and number of images.

        Returns
        -------
        list[Reconstruction]
            One an observation.
        """

    def groups(
        self, observations: Sequence[Observation], seed: int
    ) -> list[tuple[list[int], Group]]:
        """Group observations by model, number of images and training; cut long groups.

        Returns
        -------
        list[tuple[list[int], Group]]
            Each group, with its observations' places.
        """
        alike: list[list[int]] = []
        for place, observation in enumerate(observations):
            for places in alike:
                if _are_alike(observation, observations[places[0]]):
                    places.append(place)
                    break
            else:
                alike.append([place])
        cut = []
        for places in alike:
            values = sum(tensor.numel() for tensor in observations[places[0]].target)
            candidates = min(CANDIDATES_AT_ONCE, VALUES_AT_ONCE // values)
            victims = max(1, candidates // self.restarts)
            cut += [places[start : start + victims] for start in range(0, len(places), victims)]
        return [(places, self._group([observations[p] for p in places], seed)) for places in cut]

    def _group(self, observations: Sequence[Observation], seed: int) -> Group:
        labels = torch.stack([self._labels_of(observation) for observation in observations])
        return Group(
            tuple(observations),
            self.restarts,
            labels.repeat_interleave(self.restarts, 0),
            self.labels,
            seed,
            self.noise,
            self.adam_epsilon,
        )

    def _labels_of(self, observation: Observation) -> Tensor:
        if self.labels == "given":
            assert observation.labels is not None
            return observation.labels
        return infer_labels(observation, self.label_method)


def matching_objective(
    group: Group,
    cost: Cost,
    decode: Decode,
    priors: Sequence[tuple[float, PriorCost]] = (),
    *,
    matching_weight: float = 1.0,
    targets_of: Callable[[list[Tensor]], Tensor] | None = None,
    client_noise: Tensor | None = None,
) -> Objective:
    """Return the objective of a group: matching cost plus weighted priors.

    Parameters
    ----------
    group : Group
        The victims.
    cost : Cost
        Between simulated and observed updates.
    decode : Decode
        From variables to normalised images, (candidates, n, channels, height, width).
    priors : Sequence[tuple[float, PriorCost]]
        On the images, with their weights; those of weight 0 are left out.
    matching_weight : float
        Weight of the matching cost beside the priors.
    targets_of : callable, optional
        From variables to labels' probabilities, (candidates, n, classes); by default the group's
        labels.
    client_noise : Tensor, optional
        A guess of what clients drew, (candidates, unknowns); by default the group's. It is kept,
        or where the noise is optimised, it is where the objective's nuisance variable starts.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Capability, Group, ThreatModel, example_victim, observe
    >>> from atoll.attacks import matching_objective, squared_l2
    >>> victim = example_victim()
    >>> observation = observe(victim.capture, ThreatModel.of(Capability.TRAINING))
    >>> group = Group((observation,), 1, victim.truth.labels[None], "given", seed=0)
    >>> objective = matching_objective(group, squared_l2, lambda values: values[0])
    >>> truth = observation.space.normalize(victim.truth.images)[None]
    >>> total, matching = objective([truth])  # the true image has the true update
    >>> matching.item() < 1e-8
    True
    """
    simulation = group.simulation
    observed = group.targets
    used = [(weight, prior) for weight, prior in priors if weight]
    if client_noise is None:
        client_noise = group.client_noise

    def costs(values: list[Tensor], drawn: Tensor | None) -> tuple[Tensor, Tensor]:
        images = decode(values)
        labels = group.labels if targets_of is None else targets_of(values)
        matching = cost(simulation.stacked(images, labels, drawn), observed)
        total = matching_weight * matching
        for weight, prior in used:
            total = total + weight * prior(images)
        return total, matching

    if client_noise is not None and group.noise_source == "optimised":
        return NuisanceObjective(
            lambda values: costs(values[:-1], values[-1]), nuisance=(client_noise,)
        )
    return lambda values: costs(values, client_noise)


def best_restarts(
    group: Group,
    minimum: Minimum,
    images: Tensor,
    labels: Tensor | None = None,
    label_source: LabelSource | None = None,
) -> list[Reconstruction]:
    """Return each victim's restart of the least matching cost, with that restart's own images.

    Parameters
    ----------
    group : Group
        The victims.
    minimum : Minimum
        Result of :func:`minimize` for all candidates.
    images : Tensor
        Normalised, (candidates, n, channels, height, width).
    labels : Tensor, optional
        int64, (candidates, n); by default the group's.
    label_source : str, optional
        By default the group's.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Group, Minimum, ThreatModel, best_restarts
    >>> from atoll.attacks import example_victim, observe
    >>> observation = observe(example_victim().capture, ThreatModel())
    >>> group = Group((observation,), 2, torch.zeros(2, 1).long(), "given", seed=0)  # two restarts
    >>> costs, images = torch.tensor([0.3, 0.1]), group.image_noise
    >>> [found] = best_restarts(group, Minimum([images], costs, costs, costs[:, None], 1), images)
    >>> found.restart, round(found.cost, 4)
    (1, 0.1)
    """
    labels = group.labels if labels is None else labels
    costs = minimum.matching.view(-1, group.restarts)
    chosen = costs.nan_to_num(nan=torch.inf).argmin(1).tolist()
    results = []
    for victim, (observation, restart) in enumerate(zip(group.observations, chosen, strict=True)):
        place = victim * group.restarts + restart
        results.append(
            Reconstruction(
                examples=to_unit(observation, images[place]),
                labels=labels[place].cpu(),
                label_source=label_source or group.label_source,
                cost=float(minimum.matching[place]),
                cost_path=minimum.path[place].cpu(),
                restart=restart,
            )
        )
    return results


def to_unit(observation: Observation, images: Tensor) -> Tensor:
    """Return normalised images as images in [0, 1], on the CPU."""
    return observation.space.denormalize(images.detach()).clamp(0.0, 1.0).cpu()


def _are_alike(first: Observation, second: Observation) -> bool:
    if first.mimic is not second.mimic or first.batches or second.batches:
        return False
    if first.noise or second.noise:
        return False
    same = first.num_images == second.num_images and first.training == second.training
    return same and _same_model(first.model, second.model)


def _same_model(first: VictimModel, second: VictimModel) -> bool:
    if first.mode != second.mode or str(first.module) != str(second.module):
        return False
    state, other = first.module.state_dict(), second.module.state_dict()
    return all(torch.equal(state[key], other[key]) for key in state)
