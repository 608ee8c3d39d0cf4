"""StyleGAN2 checkpoints: translation of their common layouts to one.

Two layouts are known: that of NVIDIA's PyTorch code (``synthesis.b8.conv0.weight``), and that of
the port that the released GIFD uses (``convs.0.conv.weight``; under ``g_ema`` in its files).
Weights were trained with equalised learning rates: stored at unit variance, and multiplied by a
factor where they are used. The factors are multiplied in here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from atoll.clients.models.pretrained import read_checkpoint
from atoll.errors import DataUnavailableError

MAPPING_RATE = 0.01


@dataclass(frozen=True)
class Architecture:
    """Architecture of a network, read from a checkpoint's shapes (see :class:`StyleGAN2`)."""

    widths: tuple[int, ...]
    style: int
    channels: int
    mapping_layers: int


def read_stylegan2(path: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights under our names, factors multiplied in.

    Parameters
    ----------
    path : Path
        safetensors, or what ``torch.save`` wrote of tensors: the ``state_dict()`` of NVIDIA's
        ``G_ema``, or a file of the port (``stylegan2-ffhq-config-f.pt``). NVIDIA's own ``.pkl``
        holds Python code and is not opened.

    Raises
    ------
    DataUnavailableError
        If it cannot be read, or is neither.
    """
    if path.suffix == ".pkl":
        raise DataUnavailableError(
            f"{path}: is a pickle with code in it, which is not run; expected the tensors alone: "
            "torch.save(G_ema.state_dict(), 'generator.pt') where NVIDIA's code is installed"
        )
    found = read_checkpoint(path)
    nested = found.get("g_ema", found)
    tensors = nested if isinstance(nested, dict) else {}
    given = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if any(name.startswith("mapping.embed") for name in given):
        raise DataUnavailableError(
            f"{path}: is a StyleGAN2 with classes, expected one without (mapping.embed)"
        )
    translate = _from_nvidia if "synthesis.b4.const" in given else _from_port
    weights: dict[str, Tensor] = {}
    for name, value in given.items():
        ours = translate(name)
        if ours is not None:
            weights[ours] = _folded(ours, value)
    return weights


def widths_of(weights: Mapping[str, Tensor], source: str) -> Architecture:
    """Return the architecture that the shapes of ``weights`` (under our names) say.

    Raises
    ------
    DataUnavailableError
        If they are not those of a StyleGAN2 generator.
    """
    widths = list[int]()
    while (weight := weights.get(f"blocks.{len(widths)}.layer.conv.weight")) is not None:
        widths.append(len(weight))
    rgb = weights.get("blocks.0.to_rgb.weight")
    mapping = [weights[n] for n in weights if re.fullmatch(r"mapping\.\d+\.weight", n)]
    if not widths or rgb is None or not mapping:
        raise DataUnavailableError(
            f"{source}: is not a StyleGAN2 generator: expected the tensors of NVIDIA's G_ema "
            "(synthesis.b4.const, ...) or of its port (convs.0.conv.weight, ...)"
        )
    return Architecture(tuple(widths), len(mapping[-1]), len(rgb), len(mapping))


def _rules(*rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> Callable[[str], str | None]:
    """Return a translation by the first pattern that a whole name matches; others are ignored."""
    compiled = [(re.compile(pattern), target) for pattern, target in rules]

    def translate(name: str) -> str | None:
        for pattern, target in compiled:
            match = pattern.fullmatch(name)
            if match is not None:
                return target(match) if callable(target) else match.expand(target)
        return None

    return translate


def _nvidia_block(match: re.Match[str]) -> str:
    resolution, layer, rest = match.groups()
    block = f"blocks.{int(math.log2(int(resolution))) - 2}"
    if layer == "torgb":
        return f"{block}.to_rgb.{rest}"
    part = f"{block}.{'grow' if layer == 'conv0' else 'layer'}"
    return f"{part}.noise" if rest == "noise_strength" else f"{part}.conv.{rest}"


_from_nvidia = _rules(
    (r"synthesis\.b4\.const", "const"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.\1.\2"),
    (
        r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\."
        r"(weight|bias|noise_strength|affine\.weight|affine\.bias)",
        _nvidia_block,
    ),
)


def _port_layer(match: re.Match[str]) -> str:
    number, rest = match.groups()
    block = 0 if number is None else int(number) // 2 + 1
    part = "grow" if number is not None and int(number) % 2 == 0 else "layer"
    return f"blocks.{block}.{part}.{_PORT_LAYER[rest]}"


def _port_rgb(match: re.Match[str]) -> str:
    number, rest = match.groups()
    block = 0 if number is None else int(number) + 1
    return f"blocks.{block}.to_rgb.{_PORT_RGB[rest]}"


_PORT_RGB = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "bias": "bias",
}
_PORT_LAYER = {
    "conv.weight": "conv.weight",
    "conv.modulation.weight": "conv.affine.weight",
    "conv.modulation.bias": "conv.affine.bias",
    "activate.bias": "conv.bias",
    "noise.weight": "noise",
}
_MODULATION = r"conv\.weight|conv\.modulation\.weight|conv\.modulation\.bias"
_from_port = _rules(
    (r"input\.input", "const"),
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.{int(m[1]) - 1}.{m[2]}"),
    (rf"(?:conv1|convs\.(\d+))\.({_MODULATION}|activate\.bias|noise\.weight)", _port_layer),
    (rf"(?:to_rgb1|to_rgbs\.(\d+))\.({_MODULATION}|bias)", _port_rgb),
)


def _folded(name: str, value: Tensor) -> Tensor:
    """Return a tensor in our shape, with its factor multiplied in."""
    if name == "const":
        return value.flatten(0, -4)[0] if value.dim() == 4 else value
    if name.endswith(".noise"):
        return value.reshape(()) if value.numel() == 1 else value
    if name.startswith("mapping."):
        fan_in = value.shape[-1] if name.endswith("weight") else 1
        return value * (MAPPING_RATE / math.sqrt(fan_in))
    if name.endswith("affine.weight"):
        return value / math.sqrt(value.shape[-1])
    if name.endswith("bias"):
        return value.flatten()
    kernel = value.flatten(0, value.dim() - 4) if value.dim() > 4 else value
    return kernel / math.sqrt(kernel[0].numel())
