import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn

from atoll.clients.models import MODELS
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError, UnknownNameError


def size(name: str, shape: tuple[int, int, int], **arguments: object) -> int:
    model = build_model(ModelSettings(name=name, **arguments), shape, 10, seed=0)
    return sum(parameter.numel() for parameter in model.parameters())


def of_images() -> list[str]:
    """The models that take images; those of the NoProp kind are among them."""
    made = {name: inspect.signature(MODELS.find(name, "model.name")) for name in sorted(MODELS)}
    return [
        name
        for name, signature in made.items()
        if {"image_shape", "classes"} & set(signature.parameters)
    ]


@pytest.mark.parametrize("name", of_images())
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_model_learns_images_of_every_size(name, shape) -> None:
    has_blocks = name.startswith("noprop") or name in ("chained-blocks", "equal-cnn")
    few_steps = {"steps": 3} if has_blocks else {}
    model = build_model(ModelSettings(name=name, **few_steps), shape, 10, seed=0)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    # A noise schedule learns from the objective in training, and is a constant in inference.
    learned = {
        key: p for key, p in model.named_parameters() if p.requires_grad and "schedule" not in key
    }
    without = [key for key, parameter in learned.items() if parameter.grad is None]
    # What a Gaussian representation is compared with is trained by FedSR's term alone.
    compared = ["head.reference_mean", "head.reference_scale", "head.factor"]
    assert without == (compared if name == "gaussian" else [])


def test_parameter_counts() -> None:
    assert size("linear", (1, 28, 28)) == 7_850
    assert size("mlp", (1, 28, 28)) == 159_010
    assert size("mlp", (1, 28, 28), hidden=[]) == 7_850
    assert size("lenet", (1, 28, 28)) == 61_706
    assert 17_000 < size("cnn-small", (1, 28, 28)) < 19_000
    # pfl-research, benchmarks/model/pytorch/cnn.py: simple_cnn((32, 32, 3), 10).
    assert size("cnn-pfl", (3, 32, 32)) == 1_626_442
    assert 11_000_000 < size("resnet18", (3, 32, 32)) < 11_300_000
    assert size("cnn-domainbed", (1, 28, 28)) == 371_850
    # DLG's LeNet has 768 features on 32x32 images: 12 channels of 8x8.
    assert size("lenet-sigmoid", (3, 32, 32)) == 3 * 300 + 12 + 2 * (12 * 300 + 12) + 7_690
    assert size("lenet-relu", (1, 28, 28)) == size("lenet-sigmoid", (1, 28, 28)) == 13_426


def test_the_sigmoid_lenet_is_uniform_and_the_frozen_resnet_keeps_no_statistics() -> None:
    model = build_model(ModelSettings(name="lenet-sigmoid", spread=0.2), (1, 28, 28), 10, seed=0)
    for parameter in model.parameters():
        assert 0.1 < float(parameter.detach().abs().max()) <= 0.2
    frozen = build_model(ModelSettings(name="resnet8", norm="frozen"), (1, 28, 28), 10, seed=0)
    before = {name: buffer.clone() for name, buffer in frozen.named_buffers()}
    images = torch.randn(4, 1, 28, 28)
    assert torch.equal(frozen.train()(images), frozen.eval()(images))
    assert all(torch.equal(buffer, before[name]) for name, buffer in frozen.named_buffers())


def test_the_benchmark_cnn_starts_as_pfls() -> None:
    model = build_model(ModelSettings(name="cnn-pfl"), (3, 32, 32), 10, seed=0)
    kinds = " ".join(type(layer).__name__ for layer in model)
    assert kinds == "Conv2d ReLU Conv2d ReLU MaxPool2d Dropout Flatten Linear ReLU Dropout Linear"
    assert (model[5].p, model[9].p) == (0.25, 0.5)
    weight = model[7].weight
    bound = (6 / sum(weight.shape)) ** 0.5
    assert bound * 0.99 < float(weight.detach().abs().max()) <= bound


def test_the_irm_network_has_one_logit_for_two_classes() -> None:
    model = build_model(ModelSettings(name="mlp-irm"), (2, 14, 14), 2, seed=0)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    shapes = [tuple(layer.weight.shape) for layer in linear]
    assert shapes == [(390, 392), (390, 390), (1, 390)]
    for layer in linear:
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert bound * 0.98 < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    more = build_model(ModelSettings(name="mlp-irm", hidden=8), (2, 14, 14), 3, seed=0)
    assert more(torch.zeros(1, 2, 14, 14)).shape == (1, 3)


@pytest.mark.parametrize(("norm", "kind"), [("group", nn.GroupNorm), ("batch", nn.BatchNorm2d)])
def test_resnets_norm(norm: str, kind: type[nn.Module]) -> None:
    model = build_model(ModelSettings(name="resnet8", norm=norm), (1, 8, 8), 10, seed=0)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(norms) == 9
    assert all(isinstance(module, kind) for module in norms)


def test_the_seed_alone_decides_the_parameters() -> None:
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = build_model(ModelSettings(name="lenet"), (1, 28, 28), 10, seed=3).state_dict()
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(6)
    again = build_model(ModelSettings(name="lenet"), (1, 28, 28), 10, seed=3).state_dict()
    other = build_model(ModelSettings(name="lenet"), (1, 28, 28), 10, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mlp", "hiden": [3]}, r"^model.hiden = \[3\]: mlp has no .* 'hidden'\?$"),
        ({"name": "linear", "norm": "batch"}, "^model.norm = 'batch'.* takes no arguments$"),
        ({"name": "resnet8", "norm": "layer"}, "norm = 'layer': expected .* or 'frozen'"),
        ({"name": "mlp", "hidden": "many"}, "^model.hidden = 'many': expected "),
        ({"name": "mlp", "hidden": [10**9]}, "^model.hidden = .*less than or equal to 100000"),
        ({"name": "precode", "base": "mlp", "hiden": [3]}, "^model.hiden = .*'hidden'"),
        ({"name": "precode", "base": "mlp", "hidden": [0]}, "^model.hidden = .*greater than 0"),
        ({"name": "equal-cnn", "steps": 10**6}, "^model.steps = 1000000: expected less than"),
        ({"name": "cnn-pfl", "dropout": [0.1]}, r"^model.dropout = \[0.1\]"),
    ],
)
def test_wrong_arguments_are_one_clear_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message) as error:
        build_model(ModelSettings(**settings), (1, 28, 28), 10, seed=0)
    assert "\n" not in str(error.value)


def test_a_wrong_name_gives_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        build_model(ModelSettings(name="resnet-18"), (1, 28, 28), 10, seed=0)


def test_a_users_own_model(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n"
        "def good(image_shape, classes, width=4):\n"
        "    c, h, w = image_shape\n"
        "    layers = nn.Linear(c * h * w, width), nn.Linear(width, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
        "def bad(image_shape, classes):\n"
        "    return nn.Flatten()\n"
        "def worse(image_shape, classes):\n"
        "    return {}['missing']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = build_model(ModelSettings(name="own_models:good", width=7), (1, 8, 8), 10, seed=0)
    assert model[1].out_features == 7
    for name, message in (("bad", r"\(2, 64\), expected \(2, 10\)"), ("worse", "missing")):
        with pytest.raises(InvalidExperimentError, match=message):
            build_model(ModelSettings(name=f"own_models:{name}"), (1, 8, 8), 10, seed=0)


def test_he_initialisation_keeps_the_scale_of_signals_where_no_norm_does() -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    spread = {}
    for init in ("default", "he"):
        settings = ModelSettings(name="resnet8", norm="frozen", init=init)
        model = build_model(settings, (1, 28, 28), 10, seed=0)
        with torch.no_grad():
            spread[init] = float(model[:-3](images).std() / model[:3](images).std())
    assert 0.5 < spread["he"] < 2
    assert spread["default"] < 0.3
    with pytest.raises(InvalidExperimentError, match="init = 'she': expected 'default' or 'he'"):
        build_model(ModelSettings(name="resnet8", init="she"), (1, 28, 28), 10, seed=0)
