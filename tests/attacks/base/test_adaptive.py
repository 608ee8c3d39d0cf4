from pathlib import Path

import pytest
import torch

from atoll.attacks.base.adaptive import mimic_of
from atoll.attacks.defenses import REFERENCES
from atoll.attacks.methods.matching.inverting_gradients import InvertingGradients
from atoll.attacks.metrics.pixels import psnr
from atoll.attacks.optim.matching import cosine
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.victims import Victim, observe_victims
from atoll.clients.settings import ModSettings
from tests.support.attacks.captured import a_spec, captured

ADAPTIVE = ThreatModel.of(Capability.TRAINING, Capability.DEFENSE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))


def mod(name: str, **arguments: object) -> ModSettings:
    return ModSettings(name=REFERENCES[name], **arguments)  # type: ignore[arg-type]


def cost_at_the_truth(knowledge: str, *mods: ModSettings) -> float:
    """What an attacker who has found the client's images exactly would still be charged."""
    capture, truth = captured(a_spec(*mods, model="lenet", examples=4))
    attack = InvertingGradients(defense=knowledge)  # type: ignore[arg-type]
    [observation] = observe_victims(
        [Victim(capture, truth)], attack, mimic_of=lambda c: mimic_of(c, attack.threat)
    )
    simulation = ClientSimulation.of(observation)
    images = truth.normalized(capture.federation)
    # Twice, so that the copies of defenses run under vmap.
    updates = simulation.stacked(torch.stack([images] * 2), torch.stack([truth.labels] * 2))
    target = [torch.stack([t] * 2) for t in observation.target]
    return float(cosine(updates, target)[0].detach())


@pytest.mark.parametrize(
    ("mods", "least"),
    [
        ((mod("top-k", pruned=0.9),), 0.02),
        ((mod("top-k", pruned=0.9, acts_on="step"),), 0.02),
        ((mod("sign"),), 0.1),
        ((mod("nearest-quantization", levels=4, acts_on="step"),), 0.05),
        ((mod("soteria", pruned=0.9),), 0.02),
        ((mod("sign", acts_on="step"), mod("top-k", pruned=0.5, acts_on="step")), 0.1),
    ],
)
def test_the_truth_explains_the_update_only_if_the_defense_is_known(
    mods: tuple[ModSettings, ...], least: float
) -> None:
    assert cost_at_the_truth("naive", *mods) > least
    assert abs(cost_at_the_truth("adaptive", *mods)) < 1e-3


def test_a_cosine_is_not_hindered_by_clipping_so_knowing_it_changes_nothing() -> None:
    clipped = mod("clipping", bound=1e-3)
    assert abs(cost_at_the_truth("naive", clipped)) < 1e-4
    assert abs(cost_at_the_truth("adaptive", clipped)) < 1e-4


def test_without_the_capability_nothing_is_believed() -> None:
    capture, _ = captured(a_spec(mod("top-k")))
    assert mimic_of(capture, ThreatModel.of(Capability.TRAINING)) is None
    assert mimic_of(capture, ADAPTIVE) is not None


@pytest.mark.slow
def test_the_adaptive_attacker_reconstructs_better_after_pruning() -> None:
    spec = a_spec(mod("top-k", pruned=0.9))
    victims = [Victim(*captured(spec, partition)) for partition in range(3)]
    means = {}
    for knowledge in ("naive", "adaptive"):
        attack = InvertingGradients(steps=150, tv=1e-4, defense=knowledge)
        observations = observe_victims(
            victims, attack, mimic_of=lambda c, a=attack: mimic_of(c, a.threat)
        )
        results = attack.run_checked(observations)
        scores = [
            float(psnr(r.images, v.truth.images)) for r, v in zip(results, victims, strict=True)
        ]
        means[knowledge] = sum(scores) / len(scores)
    assert means["adaptive"] > means["naive"] + 1.5
