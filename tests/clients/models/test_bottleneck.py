import pytest
import torch
from torch.distributions import Normal, kl_divergence

from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import build_model
from atoll.clients.models.variational_bottleneck import VariationalBottleneck, find_bottleneck
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError


@pytest.mark.parametrize("base", ["linear", "mlp", "lenet", "resnet8"])
def test_the_bottleneck_stands_before_the_head_of_any_model(base: str) -> None:
    settings = ModelSettings(name="precode", base=base, width=5)  # type: ignore[call-arg]
    model = build_model(settings, (1, 8, 8), 10, seed=0)
    bottleneck = find_bottleneck(model)
    assert isinstance(find_head(model), torch.nn.Linear)
    assert bottleneck.decoder.out_features == find_head(model).in_features
    x = torch.randn(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_divergence_is_that_of_normal_distributions() -> None:
    bottleneck = VariationalBottleneck(6, 4)
    features = torch.randn(7, 6)
    bottleneck(features)
    mean, spread = bottleneck.encoder(features).chunk(2, dim=1)
    deviation = torch.nn.functional.softplus(spread)
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(bottleneck.divergence, expected)


def test_what_cannot_be_built_is_a_clear_error() -> None:
    wrong = ModelSettings(name="precode", base="lenett")  # type: ignore[call-arg]
    with pytest.raises(InvalidExperimentError, match="did you mean 'lenet'"):
        build_model(wrong, (1, 8, 8), 10, seed=0)
    narrow = ModelSettings(name="precode", width=0)  # type: ignore[call-arg]
    with pytest.raises(InvalidExperimentError, match="model.width = 0: expected greater than 0"):
        build_model(narrow, (1, 8, 8), 10, seed=0)
