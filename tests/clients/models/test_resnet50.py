"""ResNet-50's architecture, and the translation of Keras's layout, against plain torch layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.images.resnet50 import FrozenBatchNorm2d, ResNet50, resnet50
from atoll.clients.models.model_building import build_model, warn_of_other_normalization
from atoll.clients.models.pretrained import from_keras, read_tfjs, read_weights
from atoll.clients.settings import ModelSettings
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.errors import DataUnavailableError, InvalidExperimentError

BLOCKS = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}


def test_parameters_are_those_of_the_paper() -> None:
    model = resnet50((3, 224, 224), 1000)
    # He et al., table 1, as counted in every implementation of it.
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_frozen_batch_norm_is_batch_norm_in_evaluation_and_stays_so() -> None:
    generator = torch.Generator().manual_seed(0)
    norm = FrozenBatchNorm2d(5, 1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.mean, norm.variance):
        tensor.copy_(torch.rand(5, generator=generator) + 0.5)
    x = torch.randn(4, 5, 3, 3, generator=generator)
    state = [norm.mean.clone(), norm.variance.clone()]
    expected = F.batch_norm(x, *state, norm.weight, norm.bias, False, 0.0, 1e-3)
    torch.testing.assert_close(norm.train()(x), expected)
    assert torch.equal(norm.mean, state[0])


def test_clients_with_it_can_train_together() -> None:
    model = ResNet50(3, 4, 1e-5, stride_first=True)
    assert obstacle_to_vectorizing(model, images_of((3, 16, 16))) is None


def keras_weights(classes: int) -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of Keras's ResNet-50."""
    generator = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def layer(conv: str, norm: str, size: int, inputs: int, outputs: int) -> None:
        scale = (2 / (size * size * inputs)) ** 0.5
        weights[f"{conv}/kernel"] = scale * generator.normal(size=(size, size, inputs, outputs))
        weights[f"{conv}/bias"] = generator.normal(size=outputs)
        for name in ("beta", "moving_mean"):
            weights[f"{norm}/{name}"] = 0.1 * generator.normal(size=outputs)
        for name in ("gamma", "moving_variance"):
            weights[f"{norm}/{name}"] = generator.uniform(0.5, 1.0, outputs)

    layer("conv1", "bn_conv1", 7, 3, 64)
    inputs = 64
    for stage, blocks in BLOCKS.items():
        width = 64 * 2 ** (stage - 2)
        for block in blocks:
            name = f"{stage}{block}_branch"
            layer(f"res{name}2a", f"bn{name}2a", 1, inputs, width)
            layer(f"res{name}2b", f"bn{name}2b", 3, width, width)
            layer(f"res{name}2c", f"bn{name}2c", 1, width, 4 * width)
            if block == "a":
                layer(f"res{name}1", f"bn{name}1", 1, inputs, 4 * width)
            inputs = 4 * width
    weights["fc1000/kernel"] = generator.normal(size=(inputs, classes)) / inputs
    weights["fc1000/bias"] = generator.normal(size=classes)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def keras_forward(weights: dict[str, np.ndarray], images: Tensor) -> Tensor:
    """Keras's ResNet-50, layer by layer as its description has it; images are blue, green, red."""
    tensors = {name: torch.from_numpy(values).double() for name, values in weights.items()}

    def layer(conv: str, norm: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        kernel = tensors[f"{conv}/kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, tensors[f"{conv}/bias"], stride, padding)
        statistics = [tensors[f"{norm}/moving_{name}"] for name in ("mean", "variance")]
        affine = [tensors[f"{norm}/{name}"] for name in ("gamma", "beta")]
        return F.batch_norm(x, *statistics, *affine, False, 0.0, 1e-3)

    x = torch.relu(layer("conv1", "bn_conv1", images.double(), 2, 3))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, blocks in BLOCKS.items():
        for block in blocks:
            name = f"{stage}{block}_branch"
            stride = 2 if block == "a" and stage > 2 else 1
            y = torch.relu(layer(f"res{name}2a", f"bn{name}2a", x, stride))
            y = torch.relu(layer(f"res{name}2b", f"bn{name}2b", y, 1, 1))
            y = layer(f"res{name}2c", f"bn{name}2c", y)
            short = layer(f"res{name}1", f"bn{name}1", x, stride) if block == "a" else x
            x = torch.relu(y + short)
    return x.mean(dim=(2, 3)) @ tensors["fc1000/kernel"] + tensors["fc1000/bias"]


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Path]:
    """An ImageNet cache that holds random weights in place of the real ones."""
    weights = keras_weights(6)
    root = tmp_path_factory.mktemp("cache")
    folder = root / "weights" / "resnet50-imagenet"
    folder.mkdir(parents=True)
    save_file(from_keras(weights), folder / "weights.safetensors")
    return weights, root


@pytest.mark.slow
def test_keras_weights_compute_what_keras_computes(translated, monkeypatch) -> None:
    weights, root = translated
    monkeypatch.setenv("ATOLL_CACHE", str(root))
    model = resnet50((3, 32, 32), 6, weights="imagenet").double().eval()
    assert model.normalization == "caffe"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model(images.double())
    torch.testing.assert_close(ours, keras_forward(weights, images.flip(1)), rtol=1e-4, atol=1e-5)


def test_another_number_of_classes_or_channels_keeps_the_rest(translated, monkeypatch) -> None:
    _, root = translated
    monkeypatch.setenv("ATOLL_CACHE", str(root))
    settings = ModelSettings(name="resnet50", weights="imagenet")
    one = build_model(settings, (1, 8, 8), 3, seed=0)
    same = build_model(settings, (3, 8, 8), 3, seed=0)
    torch.testing.assert_close(one.conv1.weight[:, 0], same.conv1.weight[:, 0])
    assert torch.equal(one.layer4[2].conv3.weight, same.layer4[2].conv3.weight)
    assert one.fc.weight.shape == (3, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_users_file_has_torchvisions_names(tmp_path: Path, suffix: str) -> None:
    donor = resnet50((3, 8, 8), 5)
    state = {
        key.replace("mean", "running_mean").replace("variance", "running_var"): value
        for key, value in donor.state_dict().items()
    }
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = resnet50((3, 8, 8), 5, weights=str(path))
    assert model.normalization == "imagenet"
    assert all(torch.equal(v, donor.state_dict()[k]) for k, v in model.state_dict().items())
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "less.safetensors")
    settings = ModelSettings(name="resnet50", weights=str(tmp_path / "less.safetensors"))
    with pytest.raises(InvalidExperimentError, match=r"not a ResNet-50's: layer1\.0\.conv1"):
        build_model(settings, (3, 8, 8), 5, seed=0)


def test_images_normalised_otherwise_than_the_weights_expect_are_a_warning(
    translated, monkeypatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(translated[1]))
    for index in range(10):
        place = tmp_path / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (index, 2 * index, 99)).save(place)
    model = resnet50((3, 8, 8), 2, weights="imagenet")
    for normalization, warned in (("caffe", False), ("dataset", True)):
        options = {"image_size": 8, "normalization": normalization}
        warn_of_other_normalization(model, load_dataset("folder", tmp_path, options))
        assert ("normalised as 'caffe'" in caplog.text) == warned


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    torch.save({"a": Path("x")}, tmp_path / "object.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for name in ("none.pt", "broken.safetensors", "object.pt", "list.pt"):
        with pytest.raises(DataUnavailableError, match=name.replace(".", r"\.")):
            read_weights(tmp_path / name)


def test_tensorflow_js_weights_are_read_across_shards(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)
    data = values.tobytes()
    (tmp_path / "a.bin").write_bytes(data[:13])
    (tmp_path / "b.bin").write_bytes(data[13:])
    entries = [{"name": "x", "shape": [2, 3]}, {"name": "y", "shape": [4]}]
    manifest = {"weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": entries}]}
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    read = read_tfjs(tmp_path / "model.json")
    np.testing.assert_array_equal(read["x"], values[:6].reshape(2, 3))
    np.testing.assert_array_equal(read["y"], values[6:])
    (tmp_path / "b.bin").unlink()
    with pytest.raises(DataUnavailableError, match=r"model\.json: its weights cannot be read"):
        read_tfjs(tmp_path / "model.json")
