"""The model with a Gaussian representation, against torch.distributions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from atoll.clients.models.images.gaussian_model import GaussianHead, GaussianModel
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError


class TwoLayers(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, classes))


def two_layers(image_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    return TwoLayers(image_shape[0], hidden, classes)


def gaussian(classes: int = 3, **arguments: object) -> GaussianModel:
    settings = ModelSettings(name="gaussian", **{"body": "mlp", "hidden": [16], **arguments})
    model = build_model(settings, (1, 4, 4), classes, seed=1)
    assert isinstance(model, GaussianModel)
    return model


def test_the_bodys_head_becomes_a_layer_to_mean_and_scale() -> None:
    model = gaussian(features=5)
    layers = [module for module in model.body.modules() if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(16, 16), (16, 10)]
    assert model.head.linear.in_features == 5
    assert gaussian().head.linear.in_features == 16
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["head.reference_mean"] == shapes["head.reference_scale"] == (3, 5)
    assert shapes["head.factor"] == ()
    assert "head.noise" not in shapes


def test_a_training_draw_has_the_distributions_mean_and_variance() -> None:
    model, images = gaussian().train(), torch.rand(1, 1, 4, 4)
    inputs = model.body(images).expand(40_000, -1)
    mean, scale = model.head.distribution(inputs[:1])
    drawn = model.head.draw(inputs)
    error = 5 / 200
    assert bool(((drawn.mean(0) - mean).abs() < error * scale).all())
    assert bool(((drawn.std(0) / scale - 1).abs() < error).all())
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_evaluation_is_the_mean_probability_and_does_not_depend_on_the_batch(
    outputs: int,
) -> None:
    torch.manual_seed(0)
    head = GaussianHead(4, outputs, 3, samples=7).double().eval()
    inputs = torch.randn(9, 8).double()
    mean, scale = inputs[:, :4], F.softplus(inputs[:, 4:])
    draws = [head.linear(mean + scale * noise) for noise in head.noise]
    logits = head(inputs)
    if outputs == 1:
        expected = torch.stack([torch.sigmoid(draw) for draw in draws]).mean(0)
        torch.testing.assert_close(torch.sigmoid(logits), expected)
    else:
        expected = torch.stack([torch.softmax(draw, 1) for draw in draws]).mean(0)
        torch.testing.assert_close(logits.exp(), expected)
    torch.testing.assert_close(head(inputs[3:5]), logits[3:5])


def test_the_divergence_is_that_of_two_gaussians() -> None:
    torch.manual_seed(0)
    head = GaussianHead(4, 3, 3).double()
    with torch.no_grad():
        for parameter in (head.reference_mean, head.reference_scale, head.factor):
            parameter.add_(torch.randn_like(parameter))
        head.factor.neg_()
    inputs, labels = torch.randn(6, 8).double(), torch.tensor([0, 1, 2, 2, 1, 0])
    mean, scale = head.distribution(inputs)
    wanted = Normal(head.reference_mean[labels], F.softplus(head.reference_scale[labels]))
    scaled = Normal(head.factor * mean, (head.factor * scale).abs())
    expected = kl_divergence(scaled, wanted).sum(1)
    torch.testing.assert_close(head.divergences(inputs, labels), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"body": "mpl"}, "model.body = 'mpl': no such model"),
        ({"features": 0}, "features = 0: expected greater than 0"),
        ({"samples": 0}, "samples = 0: expected greater than 0"),
        (
            {"body": f"{__name__}:two_layers", "hidden": 3},
            "its head is a Sequential; expected one Linear layer",
        ),
        ({"hiden": [3]}, "model.hiden = .*did you mean 'hidden'"),
    ],
)
def test_wrong_arguments_are_clear_errors(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        gaussian(**arguments)
