"""Captures with their truths, before they are attacked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from atoll.attacks.capture_validation.replay import diagnose
from atoll.attacks.captures.capture import Truth
from atoll.attacks.captures.capture_files import write_capture
from atoll.attacks.victims import read_victims
from atoll.errors import CaptureError
from tests.support.attacks.real_updates import client_update


def _changed(truth: Truth, what: str) -> Truth:
    changes: dict[str, dict[str, Any]] = {
        "size": {"inputs": torch.zeros(3, 9, 9, 3, dtype=torch.uint8)},
        "number": {"inputs": truth.pixels[:1]},
        "type": {"inputs": truth.pixels.float()},
        "batch": {"batches": (torch.tensor([0, 7]),)},
        "label": {"labels": truth.labels - 20},
    }
    return replace(truth, **changes[what])


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("size", r"pixels are torch.uint8 of shape \(3, 9, 9, 3\); expected .* \(3, 8, 8, 1\)"),
        ("number", r"of shape \(1, 8, 8, 1\); expected .*, for 3 labels"),
        ("type", r"pixels (is|are) torch.float32 of shape .*; expected torch.uint8"),
        ("batch", r"a batch of the truth has example 7; expected 0 to 2"),
        ("label", r"has the label -\d+; expected 0 to 9, of 10 classes"),
    ],
)
def test_a_truth_that_does_not_go_with_its_capture_is_refused(
    what: str, problem: str, tmp_path: Path
) -> None:
    capture, truth = client_update({"name": "linear"}, {"batch_size": 4}, [0, 1, 2])
    write_capture(capture, _changed(truth, what), tmp_path / "capture")
    with pytest.raises(CaptureError, match=problem):
        read_victims([tmp_path / "capture"])
    with pytest.raises(CaptureError, match=problem):
        diagnose(capture, _changed(truth, what))
