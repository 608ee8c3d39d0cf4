"""APRIL on a vision transformer: exact where it applies, refused where it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures

PLAIN = {"name": "vit", "patch": 2, "width": 32, "first": "attention"}


def test_an_image_is_read_off_the_position_embedding() -> None:
    found = attacked("april", PLAIN, [[0], [1], [2]])
    assert min(figures(found, "psnr")) > 60
    assert set(figures(found, "label_accuracy")) == {1.0}
    assert figures(found, "threat")[0] == "eavesdropper"


def test_it_needs_the_gradient_of_the_position_embedding() -> None:
    """Noise on the update takes the exact solution away: the attack reads it."""
    noisy = {"batch_size": 64, "learning_rate": 1.0, "weight_decay": 0.5}
    exact = attacked("april", PLAIN, [[0]])
    other = attacked("april", PLAIN, [[0]], noisy)
    assert not torch.equal(exact[0].images, other[0].images)
    assert min(figures(other, "psnr")) < min(figures(exact, "psnr")) - 20


@pytest.mark.parametrize(
    ("model", "indices", "problem"),
    [
        ({"name": "mlp"}, [0], "the model is a Sequential; APRIL expected model.name = 'vit'"),
        ({**PLAIN, "first": "residual"}, [0], "expected model.first = 'attention'"),
        (PLAIN, [0, 1], "has 2 images; APRIL expected one"),
        ({**PLAIN, "width": 8}, [0], "model.width = 8: APRIL expected at least the 16 patches"),
    ],
)
def test_what_it_cannot_solve_is_refused(
    model: dict[str, Any], indices: list[int], problem: str
) -> None:
    with pytest.raises(AttackError, match=problem):
        attacked("april", model, [indices])
