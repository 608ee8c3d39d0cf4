import pytest
import torch
from flwr.app import ArrayRecord

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings


@pytest.mark.parametrize(
    "settings", [ModelSettings(name="mlp"), ModelSettings(name="resnet8", norm="batch")]
)
def test_a_models_arrays_go_out_and_come_back(settings: ModelSettings) -> None:
    source = build_model(settings, (1, 8, 8), 10, seed=1)
    target = build_model(settings, (1, 8, 8), 10, seed=2)
    source(torch.randn(4, 1, 8, 8))  # BatchNorm's statistics and counters travel too.
    before = {key: tensor.data_ptr() for key, tensor in target.state_dict().items()}
    record = ModelArrays(source).read()
    assert record == ArrayRecord(source.state_dict())
    ModelArrays(target).load(record)
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key])
        assert tensor.data_ptr() == before[key]


def test_arrays_of_another_model_are_refused() -> None:
    wide = build_model(ModelSettings(name="mlp", hidden=[8]), (1, 8, 8), 10, seed=1)
    narrow = build_model(ModelSettings(name="mlp", hidden=[4]), (1, 8, 8), 10, seed=1)
    linear = build_model(ModelSettings(name="linear"), (1, 8, 8), 10, seed=1)
    with pytest.raises(ValueError, match=r"'1.weight' has shape \(4, 64\).*\(8, 64\)"):
        ModelArrays(wide).load(ModelArrays(narrow).read())
    with pytest.raises(ValueError, match=r"3\.bias"):
        ModelArrays(wide).load(ModelArrays(linear).read())
