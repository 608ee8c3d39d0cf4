"""Masks and companders of a model's weights: what is trained, what travels, and their gradients."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.travelling import frozen_sha256
from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.head import SplitModel
from atoll.clients.models.model_building import build_model
from atoll.clients.models.weights.masks import masks_of
from atoll.clients.settings import CompanderSettings, MaskSettings, ModelSettings
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing

SHAPE = (1, 8, 8)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 2, 0])
MODELS = ["mlp", "cnn-small"]


def built(name: str, **keys: object) -> nn.Module:
    settings = ModelSettings(name=name, **keys)  # type: ignore[arg-type]
    return build_model(settings, SHAPE, 4, seed=3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("keys", [{"masks": MaskSettings()}, {"compander": CompanderSettings()}])
def test_a_model_is_at_first_what_it_was(name: str, keys: dict[str, object]) -> None:
    plain, changed = built(name), built(name, **keys)
    torch.testing.assert_close(changed(IMAGES), plain(IMAGES), rtol=1e-5, atol=1e-6)
    again = copy.deepcopy(changed)
    assert torch.equal(again(IMAGES), changed(IMAGES))


def test_scores_and_the_head_travel_and_weights_do_not() -> None:
    model, plain = built("mlp", masks=MaskSettings()), built("mlp")
    record = ModelArrays(model).read()
    linear = [n for n, m in plain.named_modules() if isinstance(m, nn.Linear)]
    expected = [f"{name}.parametrizations.weight.original" for name in linear[:-1]]
    assert list(record) == [*expected, f"{linear[-1]}.weight", f"{linear[-1]}.bias"]
    assert frozen_sha256(model) == frozen_sha256(built("mlp", masks=MaskSettings()))
    other = build_model(ModelSettings(name="mlp", masks=MaskSettings()), SHAPE, 4, seed=4)
    assert frozen_sha256(model) != frozen_sha256(other)


def test_weights_under_the_threshold_are_zero_and_their_gradient_passes() -> None:
    model, plain = built("mlp", masks=MaskSettings()), built("mlp")
    generator = torch.Generator().manual_seed(1)
    ((scores, _),) = masks_of(model)
    kept = torch.rand(scores.shape, generator=generator) < 0.6
    with torch.no_grad():
        scores.copy_(torch.where(kept, 0.006, 0.004))
    layer = next(m for m in plain.modules() if isinstance(m, nn.Linear))
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(kept)
    torch.testing.assert_close(model(IMAGES), plain(IMAGES))
    F.cross_entropy(model(IMAGES), LABELS).backward()
    F.cross_entropy(plain(IMAGES), LABELS).backward()
    assert scores.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(scores.grad, layer.weight.grad * weight)


def test_a_compander_is_its_function_and_has_its_derivatives() -> None:
    model = built("mlp", compander=CompanderSettings(scale=1.5, width=0.7))
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    inner = layer.parametrizations.weight.original  # type: ignore[union-attr]
    assert isinstance(inner, Tensor)
    with torch.no_grad():
        inner.copy_(torch.linspace(-3, 3, inner.numel()).view_as(inner))
    expected = 1.5 * np.arctan(inner.detach().numpy().astype(np.float64) / 0.7)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() < 1.5 * math.pi / 2
    (slope,) = torch.autograd.grad(layer.weight.sum(), inner)
    torch.testing.assert_close(slope, 1.5 / 0.7 / (1 + (inner.detach() / 0.7) ** 2))


def test_the_mean_of_companders_is_an_increasing_function() -> None:
    """Clients that learn any shape average to a shape: logarithms are kept."""
    model = built("mlp", compander=CompanderSettings())
    arrays = ModelArrays(model).read()
    sizes = [key for key in arrays if key.endswith("log_sizes")]
    assert len(sizes) == 2
    fixed = built("mlp", compander=CompanderSettings(learned=False))
    assert not [key for key in ModelArrays(fixed).read() if key.endswith("log_sizes")]
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    shape = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    with torch.no_grad():
        shape.log_sizes.copy_(torch.tensor([-30.0, 2.0]))
    values = shape(torch.linspace(-5, 5, 100))
    assert bool((values.diff() > 0).all())


@pytest.mark.parametrize("keys", [{"masks": MaskSettings()}, {"compander": CompanderSettings()}])
def test_clients_train_vectorised(keys: dict[str, object]) -> None:
    assert obstacle_to_vectorizing(built("mlp", **keys), images_of(SHAPE)) is None


def test_a_companded_head_has_no_closed_form() -> None:
    assert SplitModel(built("mlp", masks=MaskSettings())).has_linear_head
    assert not SplitModel(built("mlp", compander=CompanderSettings())).has_linear_head
