"""Scalings of images, and those that explain an update."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atoll.attacks.capture_validation.normalization_check import Scaling, explain

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_scaling_normalises() -> None:
    scaling = Scaling.of([0.25], [0.5])
    torch.testing.assert_close(scaling(IMAGES), (IMAGES - 0.25) / 0.5)
    assert str(scaling) == "mean 0.25 and std 0.5"
    assert str(Scaling.of([0.0], [1.0])) == "mean 0 and std 1"


@pytest.mark.parametrize("fits", [True, False])
def test_an_unusual_scaling_is_fitted(fits: bool) -> None:
    def update_of(scaling: Scaling) -> Tensor:
        return scaling(IMAGES).flatten().tanh()

    wanted = update_of(Scaling.of([0.31], [0.27]))

    def explains(update: Tensor) -> bool:
        return bool((update - wanted).norm() < 1e-4)

    found = explain(wanted, update_of, explains, [Scaling.of([0.5], [0.5])], fits=fits)
    assert (found is not None) == fits
    if found is not None:
        assert [float(found.mean), float(found.std)] == pytest.approx([0.31, 0.27], abs=1e-3)
