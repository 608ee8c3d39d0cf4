from __future__ import annotations

import pytest
import torch

from atoll.attacks.generators.conditional import ConditionalGenerator
from atoll.attacks.generators.resized import Resized
from atoll.errors import InvalidExperimentError
from tests.support.attacks.stage_checks import check_stages


@pytest.mark.parametrize(
    ("shape", "stages"), [((1, 28, 28), 5), ((3, 32, 32), 5), ((1, 8, 8), 4), ((2, 64, 32), 6)]
)
def test_every_stage_decodes_to_the_same_image(shape, stages) -> None:
    generator = ConditionalGenerator(shape, 4, latent=6, width=16).eval()
    generator.mean.normal_()
    generator.factor.normal_()
    features = generator.init(torch.tensor([3, 1]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = generator.sample(torch.tensor([3, 1]), torch.Generator().manual_seed(0))
    assert generator.stages == stages
    assert images.shape == (2, *shape)
    check_stages(generator, features, images)


def test_a_width_that_is_no_power_of_two_is_rounded_as_it_is_halved() -> None:
    generator = ConditionalGenerator((1, 28, 28), classes=3, latent=4, width=24)
    images = generator.eval().sample(torch.tensor([0, 2]), torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 28, 28)


def test_a_latent_stands_for_a_code_of_its_class() -> None:
    generator = ConditionalGenerator((1, 8, 8), 3, latent=5, width=8).eval()
    generator.mean.normal_()
    generator.factor.normal_()
    labels = torch.tensor([2, 0])
    features = generator.init(labels, torch.Generator().manual_seed(0))
    codes = torch.stack(
        [
            generator.mean[c] + generator.factor[c] @ e
            for c, e in zip(labels, features.free["latent"], strict=True)
        ]
    )
    with torch.no_grad():
        expected = generator.decode_codes(codes, labels)
        torch.testing.assert_close(generator.decode(0, features), expected)
        other = generator.decode_codes(codes, labels.flip(0))
    assert (other - expected).abs().max() > 1e-3


def test_images_do_not_depend_on_each_other() -> None:
    generator = ConditionalGenerator((1, 8, 8), 3, latent=5, width=8).eval()
    features = generator.init(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    latent = features.free["latent"].requires_grad_()
    [gradient] = torch.autograd.grad(generator.decode(0, features)[1].sum(), latent)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_resized_images_are_means_over_areas() -> None:
    generator = ConditionalGenerator((1, 8, 8), 3, latent=5, width=8).eval()
    resized = Resized(generator, 4, 4)
    features = generator.init(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = generator.decode(0, features)
        means = images.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    assert resized.image_shape == (1, 4, 4)
    check_stages(resized, features, means)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(InvalidExperimentError, match="images of 25x25 cannot be generated"):
        ConditionalGenerator((1, 25, 25), 2)


def test_a_generator_of_other_images_or_fewer_classes_is_refused() -> None:
    generator = ConditionalGenerator((1, 8, 8), 3, latent=5, width=8)
    generator.check((1, 8, 8), 3)
    with pytest.raises(InvalidExperimentError, match="makes images of 1x8x8, and the victims' are"):
        generator.check((3, 8, 8), 3)
    with pytest.raises(InvalidExperimentError, match=r"knows 3 classes, .* labels are in 0 \.\. 9"):
        generator.check((1, 8, 8), 10)
