"""What must hold of every staged generator."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.attacks.generators.staged_generator import Features, StagedGenerator


@torch.no_grad()
def check_stages(generator: StagedGenerator, features: Features, image: Tensor) -> None:
    """Check that decoding from each stage gives the image that the whole generator gives."""
    scale = float(image.abs().max())
    for stage in range(generator.stages):
        if stage:
            features = generator.advance(stage - 1, features)
        assert features.free
        decoded = generator.decode(stage, features)
        torch.testing.assert_close(decoded, image, rtol=1e-4, atol=1e-4 * scale)
