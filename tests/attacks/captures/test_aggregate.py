from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atoll.attacks.captures.aggregate_capture import aggregate_captures, aggregate_truths
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.errors import CaptureError
from tests.support.attacks.captured import a_spec, captured

KNOWS = ThreatModel.of(Capability.TRAINING)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))


def test_the_sum_is_what_one_client_with_everybodys_examples_would_send() -> None:
    both = [captured(a_spec(examples=3, model="lenet"), partition) for partition in range(3)]
    capture = aggregate_captures([c for c, _ in both])
    truth = aggregate_truths([t for _, t in both])
    observation = observe(capture, KNOWS)
    assert observation.num_images == 9
    expected = ClientSimulation.of(observation)(truth.normalized(capture.federation), truth.labels)
    for found, wanted in zip(observation.target, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_sums_of_several_rounds_or_steps_are_refused() -> None:
    capture, _ = captured(a_spec(examples=3))
    with pytest.raises(CaptureError, match="captures of rounds"):
        aggregate_captures([capture, replace(capture, server_round=2)])
    client = capture.federation.client.model_copy(update={"batch_size": 1})
    many = replace(capture, federation=replace(capture.federation, client=client))
    with pytest.raises(CaptureError, match="takes 3 steps"):
        aggregate_captures([many])
