"""Finding a model's head, and refusing models that have none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.head import find_head, try_head
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import Classification

TASK = Classification(classes=tuple("0123456789"))


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).log_softmax(1)


@pytest.mark.parametrize("name", ["linear", "mlp", "lenet", "cnn-small", "resnet8"])
def test_the_shipped_models_have_linear_heads(name: str) -> None:
    model = build_model(ModelSettings(name=name), (1, 28, 28), 10, seed=0)
    split = try_head(model, images_of((1, 28, 28)), TASK)
    assert split.has_linear_head
    images = torch.rand(3, 1, 28, 28)
    model.eval()
    outputs = split(images, torch.zeros(3).long(), torch.arange(3))
    assert torch.equal(outputs.logits, model(images))
    assert torch.equal(split.head(outputs.features), outputs.logits)
    sizes = split.sizes(outputs)
    assert sizes.head == 10 * (sizes.features + 1)
    assert sizes.parameters == sum(p.numel() for p in model.parameters())


def test_a_child_called_head_is_the_head_whatever_it_is() -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "classifier": nn.Sequential(nn.ReLU())})
    assert find_head(model) is model["classifier"]


def test_a_model_without_a_head_and_one_that_continues_after_it_are_refused() -> None:
    with pytest.raises(ValueError, match="has no head"):
        try_head(nn.Sequential(nn.Conv2d(1, 1, 1)), images_of((1, 2, 2)), TASK)
    with pytest.raises(ValueError, match="is not the output of the model"):
        try_head(Squeezed(), images_of((1, 2, 2)), TASK)
    with pytest.raises(ValueError, match=r"expected \(n, d\)"):
        try_head(nn.Sequential(nn.Linear(2, 2)), images_of((1, 2, 2)), TASK)
