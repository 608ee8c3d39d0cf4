"""GIFD on real updates of a ResNet-8, with a generator that was trained on other images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atoll.attacks.base.generator_attack import draw, stack
from atoll.attacks.methods.generative.gifd import GIFD
from atoll.attacks.methods.matching.inverting_gradients import InvertingGradients
from atoll.attacks.metrics.image_assignment import assign
from atoll.attacks.optim.matching import cosine
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.data.inputs.images import images_of
from atoll.errors import AttackError, InvalidExperimentError
from tests.support.attacks.digit_generator import (
    TINY_STYLEGAN2,
    digit_generator,
    observed,
    psnr_of,
    victim,
)

STEPS = 40
VICTIMS = [3, 7, 12, 25]


@pytest.fixture(scope="module")
def folder() -> Path:
    return digit_generator()


@pytest.fixture(scope="module")
def victims() -> list:
    return [victim([index], node) for node, index in enumerate(VICTIMS, start=1)]


def gifd(folder: Path, **settings: object) -> GIFD:
    # So small a generator cannot make much: later stages must be free to move.
    given = {"generator": "digits", "generator_path": folder, "steps": STEPS, "radius": 0.1}
    return GIFD.model_validate({**given, "restarts": 1, **settings})


def matching_cost(observation: Observation, images: Tensor, labels: Tensor) -> float:
    """The cost of images, computed anew."""
    simulation = ClientSimulation.of(observation)
    update = simulation.stacked(observation.space.normalize(images)[None], labels[None])
    return float(cosine(update, [tensor[None] for tensor in observation.target]).detach())


@pytest.fixture(scope="module")
def found(folder: Path, victims: list) -> list:
    attack = gifd(folder)
    return attack.run_checked(observed(attack, victims), seed=1)


@pytest.mark.slow
def test_it_does_better_than_inverting_gradients_at_as_many_steps(found, victims) -> None:
    other = InvertingGradients(steps=4 * STEPS)
    pixels = other.run_checked(observed(other, victims), seed=1)
    ours, theirs = (
        [psnr_of(one.images, truth) for one, (_, truth) in zip(results, victims, strict=True)]
        for results in (found, pixels)
    )
    assert sum(ours) / len(ours) > sum(theirs) / len(theirs) + 3
    for one, (_, truth) in zip(found, victims, strict=True):
        assert one.label_source == "inferred"
        assert torch.equal(one.labels, truth.labels)


@pytest.mark.slow
def test_the_answer_is_the_stage_of_least_cost(found) -> None:
    for one in found:
        assert [stage.name for stage in one.stages] == [f"stage {k}" for k in range(4)]
        costs = [stage.cost for stage in one.stages]
        assert one.cost == min(costs)
        assert torch.equal(one.images, one.stages[costs.index(one.cost)].images)
        # A stage starts where the one before has led, and keeps the best.
        assert costs[-1] < costs[0]


@pytest.mark.slow
def test_one_seed_gives_one_result(folder, victims) -> None:
    attack = gifd(folder, steps=4)
    first, again, other = (
        attack.run_checked(observed(attack, victims[:2]), seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, other[0].images)


@pytest.mark.slow
def test_the_images_of_the_best_restart_are_returned(folder, victims) -> None:
    attack = gifd(folder, restarts=3, steps=15, stages=2)
    [observation] = observed(attack, victims[:1])
    [best] = attack.run_checked([observation], seed=2)
    cost = matching_cost(observation, best.images, best.labels)
    assert cost == pytest.approx(best.cost, rel=1e-3)
    alone = gifd(folder, restarts=1, steps=15, stages=2)
    [first] = alone.run_checked([observation], seed=2)
    assert best.cost <= first.cost
    assert best.restart in range(3)


def test_the_ball_keeps_a_stage_near_its_start(folder, victims) -> None:
    moved = {}
    for name, settings in (
        ("held", {"radius": 1e-9}),
        ("absolute", {"radius": 1e-7, "radius_unit": "absolute"}),
        ("free", {"ball": False}),
    ):
        attack = gifd(folder, steps=10, stages=2, **settings)
        [one] = attack.run_checked(observed(attack, victims[:1]), seed=1)
        first, second = (stage.images for stage in one.stages)
        moved[name] = float((second - first).abs().max())
    assert moved["held"] < 1e-5
    assert moved["absolute"] < 1e-5
    assert moved["free"] > 1e-2


def test_values_are_projected_onto_their_spheres_and_balls(folder, victims) -> None:
    attack = gifd(folder, radius=0.05, restarts=2)
    observations = observed(attack, victims[:2])
    [(_, group)] = attack.groups(observations, 0)
    generator = attack.generator_for(observations[0])
    start = draw(generator, group)
    project = attack.projection(generator, 0, start)
    values = [3 * value + 1 for value in stack(start, group)]
    project(values)
    for value, before in zip(values, stack(start, group), strict=True):
        torch.testing.assert_close(value.norm(dim=-1), before.norm(dim=-1))
    later = generator.advance(0, start)
    project = attack.projection(generator, 1, later)
    values = [value + torch.randn_like(value) for value in stack(later, group)]
    project(values)
    [after], [before] = values, stack(later, group)
    distances = (after - before).flatten(2).abs().sum(2)
    torch.testing.assert_close(distances, torch.full_like(distances, 0.05 * before[0, 0].numel()))
    assert attack.model_copy(update={"ball": False}).projection(generator, 1, later) is None


@pytest.mark.slow
def test_batches_with_a_repeated_label_come_back(folder) -> None:
    # Two threes and a seven.
    capture, truth = victim([3, 12, 7])
    labels = truth.labels.sort().values
    assert len(labels.unique()) < len(labels)
    attack = gifd(folder, steps=50)
    [one] = attack.run_checked(observed(attack, [(capture, truth)]), seed=1)
    assert torch.equal(one.labels.sort().values, labels)
    order = assign(one.images, truth.images)
    mean = truth.images.mean(0, keepdim=True).expand_as(truth.images)
    assert psnr_of(one.images[order], truth) > psnr_of(mean, truth)


@pytest.mark.slow
def test_later_stages_find_what_the_latent_cannot_make(folder) -> None:
    # The victims are of another kind than the generator's images: negatives.
    capture, truth = victim([3])
    negative = replace(truth, inputs=255 - truth.pixels)
    attack = gifd(folder, steps=50, radius=0.5)
    [observation] = observed(attack, [(capture, truth)])
    images = observation.space.normalize(negative.images)
    target = ClientSimulation.of(observation)(images, negative.labels)
    [one] = attack.run_checked([replace(observation, target=target)], seed=1)
    assert one.cost < one.stages[0].cost
    assert psnr_of(one.images, negative) > psnr_of(one.stages[0].images, negative) + 1


@pytest.mark.slow
def test_an_attacker_who_knows_of_pruning_can_match_what_is_left(folder, victims) -> None:
    def pruned(update: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            tensor * (tensor.abs() >= tensor.abs().flatten().quantile(0.9)) for tensor in update
        )

    costs = {}
    for defense in ("naive", "adaptive"):
        attack = gifd(folder, defense=defense, steps=20)
        assert (Capability.DEFENSE in attack.threat) == (defense == "adaptive")
        [observation] = observed(attack, victims[:1], pruned)
        target = pruned(observation.target)

        def kept(update: tuple[Tensor, ...], of: tuple[Tensor, ...] = target) -> tuple[Tensor, ...]:
            return tuple(u * (t != 0) for u, t in zip(update, of, strict=True))

        mimic = kept if defense == "adaptive" else None
        [one] = attack.run_checked([replace(observation, target=target, mimic=mimic)], seed=1)
        costs[defense] = one.cost
    assert costs["adaptive"] < 0.5 * costs["naive"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"stages": 5}, "stages = 5: the generator has 4"),
        ({"steps": [10, 10]}, r"steps = \[10, 10\]: 2 numbers for 4 stages"),
        ({"radius": [1.0], "stages": 2}, r"radius = \[1.0\]: 1 numbers for 2 stages"),
    ],
)
def test_lists_that_do_not_fit_the_generator_are_refused(
    folder, victims, settings, problem
) -> None:
    attack = gifd(folder, **settings)
    with pytest.raises(AttackError, match=problem):
        attack.run_checked(observed(attack, victims[:1]))


def test_each_stage_has_its_own_steps(folder, victims) -> None:
    told: list[tuple[int, int]] = []
    attack = gifd(folder, stages=2, steps=[3, 5], learning_rate=[0.1, 0.05], radius=[1.0, 0.2])
    [one] = attack.run_checked(
        observed(attack, victims[:1]), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, 8) for done in range(1, 9)]
    assert len(one.cost_path) == 4 + 6


def test_a_generator_of_other_images_is_refused_before_compute(folder, victims) -> None:
    attack = gifd(folder)
    [observation] = observed(attack, victims[:1])
    other = replace(observation, inputs=images_of((1, 16, 16)))
    with pytest.raises(InvalidExperimentError, match="and the victims' are 1x16x16"):
        attack.check(other)
    gifd(folder, resize=True).check(other)
    with pytest.raises(InvalidExperimentError, match=r"labels are in 0 \.\. 99"):
        attack.generator_for(observation).check((1, 8, 8), 100)


def test_a_stage_of_several_tensors_keeps_each_where_it_may_be(victims) -> None:
    name = TINY_STYLEGAN2
    attack = GIFD(generator=name, steps=4, restarts=2, radius=0.1)
    observations = observed(attack, victims[:2])
    found = attack.run_checked(observations, seed=1)
    assert all(len(one.stages) == 2 and one.cost == one.cost for one in found)
    [(_, group)] = attack.groups(observations, 0)
    generator = attack.generator_for(observations[0])
    start = generator.advance(0, draw(generator, group))
    assert list(start.free) == ["features", "styles", "noise1", "noise2"]
    values = [value + torch.randn_like(value) for value in stack(start, group)]
    attack.model_copy(update={"ball": False}).projection(generator, 1, start)(values)
    features, styles, first, _ = values
    before = stack(start, group)
    torch.testing.assert_close(styles.norm(dim=-1), before[1].norm(dim=-1))
    torch.testing.assert_close(first.norm(dim=(-1, -2)), before[2].norm(dim=(-1, -2)))
    assert not torch.allclose(features.norm(dim=(-1, -2)), before[0].norm(dim=(-1, -2)))


def test_styles_and_noise_stay_in_their_balls_from_the_first_stage_on(victims) -> None:
    attack = GIFD(generator=TINY_STYLEGAN2, radius=0.02, sphere=False)
    [(_, group)] = attack.groups(observed(attack, victims[:2]), 0)
    generator = attack.generator_for(group.first)
    start = draw(generator, group)
    values = [value + torch.randn_like(value) for value in stack(start, group)]
    attack.projection(generator, 0, start)(values)
    for after, before in zip(values, stack(start, group), strict=True):
        moved = (after - before).flatten(2).abs().mean(2)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.02))


@pytest.mark.parametrize("option", [{"matched": 0.2}, {"regularization": 0.5}])
def test_options_of_fedleak_act(folder, victims, option) -> None:
    few = {"steps": 5, "restarts": 1, "stages": 2}
    [plain], [same], [other] = (
        attack.run_checked(observed(attack, victims[:1]))
        for attack in (
            gifd(folder, **few),
            gifd(folder, **few, matched=1.0, regularization=0.0),
            gifd(folder, **few, **option),
        )
    )
    assert plain.images.equal(same.images)
    assert not plain.images.equal(other.images)
