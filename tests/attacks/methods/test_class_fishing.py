"""Class fishing on batches and sums of clients, and the client's check that notices it."""

from __future__ import annotations

import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.aggregate_capture import aggregate_captures, aggregate_truths
from atoll.attacks.methods.exact.class_fishing import fished_only
from atoll.attacks.threat.observation import observe, used_examples
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.attacks.victims import Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.real_updates import client_update

LABELS = load_dataset("digits").test.labels.tolist()
# A batch in which one class occurs once, and another never.
BATCH = list(range(8, 16))
ONCE = next(c for c in range(10) if [LABELS[i] for i in BATCH].count(c) == 1)
NEVER = next(c for c in range(10) if c not in [LABELS[i] for i in BATCH])
PLACE = next(p for p, i in enumerate(BATCH) if LABELS[i] == ONCE)
CLIENT = {"batch_size": 64, "learning_rate": 1e-2}


def fishing(target: int) -> dict[str, object]:
    return {"name": "fishing", "base": "lenet-relu", "target": target}


def test_what_is_left_of_the_update_is_that_of_the_classs_examples() -> None:
    capture, truth = client_update(fishing(ONCE), CLIENT, BATCH)
    observation = observe(capture, build_attack("class-fishing", {}).threat)
    fished = fished_only(observation)
    assert fished is not None
    assert fished.num_images == 1
    own = observation.space.normalize(truth.images[[PLACE]])
    wanted = ClientSimulation.of(fished)(own, torch.tensor([ONCE]))
    for found, expected in zip(fished.target, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_one_image_is_taken_out_of_the_sum_of_clients() -> None:
    groups = [BATCH[:3], BATCH[3:6], BATCH[6:]]
    both = [client_update(fishing(ONCE), CLIENT, group) for group in groups]
    truth = aggregate_truths([used_examples(truth) for _, truth in both])
    victim = Victim(aggregate_captures([capture for capture, _ in both]), truth)
    attack = build_attack("class-fishing", {"steps": 150, "tv": 1e-3})
    candidates = references_of(load_dataset("digits")).candidates
    observations = observe_victims([victim], attack)
    [found] = attack_victims("fishing", attack, [victim], observations, candidates=candidates)
    assert found.rows[PLACE]["psnr"] > 18
    assert found.rows[PLACE]["label_found"] == ONCE
    assert figures([found], "threat")[0].startswith("malicious server")
    assert found.reconstruction.found is not None
    assert found.reconstruction.found.tolist() == [True] + [False] * 7
    # Without the head, the image is one of eight in a batch.
    plain = attacked(
        "inverting-gradients", {"name": "lenet-relu"}, [BATCH], CLIENT, steps=150, tv=1e-3
    )
    assert found.rows[PLACE]["psnr"] > plain[0].rows[PLACE]["psnr"] + 3


def test_a_class_that_does_not_occur_is_not_found() -> None:
    [found] = attacked("class-fishing", fishing(NEVER), [BATCH], CLIENT, steps=2)
    assert found.reconstruction.found is not None
    assert not found.reconstruction.found.any()


def test_other_models_and_several_steps_are_refused() -> None:
    with pytest.raises(AttackError, match="does not fish for a class; .* model.name = 'fishing'"):
        attacked("class-fishing", {"name": "lenet-relu"}, [[0]])
    several = {**CLIENT, "epochs": 2}
    with pytest.raises(AttackError, match="takes 2 steps, and the head fishes in the first alone"):
        attacked("class-fishing", fishing(ONCE), [[0, 1]], several)
