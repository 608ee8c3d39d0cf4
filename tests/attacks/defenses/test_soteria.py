from dataclasses import replace

import pytest
import torch
from torch import nn

from atoll.attacks.defenses.soteria import Soteria, feature_scores, head_weight
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from tests.support.attacks.one_step import a_model, a_step, a_task, gradient


def test_only_columns_of_the_heads_weight_go_those_of_the_least_scores() -> None:
    step = a_step(a_model())
    place = head_weight(step.model, step.parameters)
    plain = gradient(a_task(step))
    defended = Soteria(pruned=0.75).apply(a_task(step), gradient)
    for index, (before, after) in enumerate(zip(plain, defended, strict=True)):
        assert torch.equal(before, after) == (index != place)
    scores = feature_scores(step)
    left = (defended[place] == plain[place]).all(0)
    is_zero = (defended[place] == 0).all(0)
    assert int(is_zero.sum()) >= 63
    assert torch.equal(left | is_zero, torch.ones_like(left))
    chosen = torch.argsort(scores, descending=True, stable=True)[:21]
    assert left[chosen].all()


def test_scores_are_each_features_slope_by_its_size() -> None:
    """Against one backward pass a feature and example."""
    step = a_step(a_model("mlp", hidden=[7]), examples=3)
    features = step.model[:3]  # type: ignore[index]
    expected = torch.zeros(7)
    for image in step.images:
        x = image[None].clone().requires_grad_()
        for f in range(7):
            value = features(x)[0, f]
            [slope] = torch.autograd.grad(value, x)
            expected[f] += slope.norm() / (value.abs() + 1e-10)
    torch.testing.assert_close(feature_scores(step), expected.detach(), rtol=1e-4, atol=1e-6)


def test_colour_images_with_channels_last_have_the_scores_of_contiguous_ones() -> None:
    """Data sets are mapped with channels last, which vmap's GroupNorm does not know."""
    model = build_model(ModelSettings(name="resnet8"), (3, 32, 32), 10, 0)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    step = replace(a_step(a_model(), examples=3), model=model, images=images)
    mapped = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(
        feature_scores(replace(step, images=mapped)), feature_scores(step), rtol=1e-3, atol=1e-6
    )


def test_batchnorms_statistics_stay_as_they_are() -> None:
    step = a_step(a_model("resnet8", norm="batch"))
    before = {key: value.clone() for key, value in step.model.state_dict().items()}
    feature_scores(step)
    for key, value in step.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match="no head"):
        Soteria().check_model(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))
    headed = nn.Sequential()
    headed.add_module("head", nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    with pytest.raises(ValueError, match="head is a Sequential; expected a Linear"):
        Soteria().check_model(headed)
