"""The formats that a model is exported to."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.extras import require
from atoll.files.atomic import replacing
from atoll.lazy import LazyModule
from atoll.platform.results.exports.model_card import model_card
from atoll.platform.results.pixel_model import PixelModel

onnx = LazyModule("onnx")

ABOUT = "atoll.json"
ONNX_PACKAGES = ("onnx", "onnxscript")
# Exporters take a batch of one for a constant.
EXAMPLES = 2


def write_torch(model: PixelModel, about: Mapping[str, Any], out: Path) -> None:
    """Write a program of ``torch.export``; ``torch.export.load(path).module()`` is the model."""
    with _traced(model):
        dynamic = {"pixels": {0: torch.export.Dim("examples", min=1)}}
        program = torch.export.export(model, (_example(model),), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about)})
    with replacing(out) as partial:
        partial.write_bytes(buffer.getvalue())


def write_safetensors(model: PixelModel, about: Mapping[str, Any], out: Path) -> None:
    """Write the network's tensors under their own names, and mean and std beside them."""
    with replacing(out) as partial:
        save_file(_tensors(model), partial, metadata=texts(about))


def write_onnx(model: PixelModel, about: Mapping[str, Any], out: Path) -> None:
    """Write an ONNX model: ``pixels`` (n, channels, height, width) in [0, 1] to ``logits``."""
    require(*ONNX_PACKAGES, what="--to onnx")
    with _traced(model), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            model,
            (_example(model),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("examples", min=1)}},
            verbose=False,
        )
    if program is None:
        raise InvalidExperimentError("--to onnx: PyTorch's exporter gave nothing; expected a model")
    proto = program.model_proto
    for key, value in texts(about).items():
        proto.metadata_props.add(key=key, value=value)
    with replacing(out) as partial:
        partial.write_bytes(proto.SerializeToString())


def write_huggingface(model: PixelModel, about: Mapping[str, Any], out: Path) -> None:
    """Write a folder as ``save_pretrained`` leaves one; nothing is sent to a hub."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        tensors = {k: v for k, v in _tensors(model).items() if not k.startswith("preprocessing.")}
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        for name, table in (
            ("config.json", _config(model, about)),
            ("preprocessor_config.json", _preprocessor(model)),
        ):
            (partial / name).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(model_card(about), encoding="utf-8")
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def texts(about: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as files hold it: texts by name, those that are none as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}


def _example(model: PixelModel) -> torch.Tensor:
    return torch.full((EXAMPLES, *model.inputs.image_shape), 0.5)


def _tensors(model: PixelModel) -> dict[str, torch.Tensor]:
    """Return the network's tensors, each with memory of its own, and its normalisation."""
    state = model.network.state_dict()
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    for name, values in (("mean", model.inputs.mean), ("std", model.inputs.std)):
        tensors[f"preprocessing.{name}"] = torch.tensor(values)
    return tensors


@contextlib.contextmanager
def _traced(model: PixelModel) -> Iterator[None]:
    """Turn what goes wrong in PyTorch's exporters into an error of one line."""
    try:
        with warnings.catch_warnings():
            # Of PyTorch's own ways.
            warnings.simplefilter("ignore")
            yield
    except (InvalidExperimentError, RunDirectoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        name = type(model.network).__name__
        raise InvalidExperimentError(
            f"--to: PyTorch cannot export the model {name} as a program ({reason}); expected one "
            "without control flow that depends on data, or --to safetensors"
        ) from error


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence loggers, and what exporters print."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _config(model: PixelModel, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config.json``: what Hugging Face's tools show, and what Atoll builds it from."""
    channels, height, width = model.inputs.image_shape
    return {
        "model_type": "atoll",
        "architectures": [type(model.network).__name__],
        "torch_dtype": str(next(model.network.parameters()).dtype).removeprefix("torch."),
        "num_channels": channels,
        "image_size": height if height == width else [height, width],
        "num_labels": len(model.inputs.classes),
        "id2label": {str(place): name for place, name in enumerate(model.inputs.classes)},
        "label2id": {name: place for place, name in enumerate(model.inputs.classes)},
        "atoll": dict(about),
    }


def _preprocessor(model: PixelModel) -> dict[str, Any]:
    _, height, width = model.inputs.image_shape
    return {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.inputs.mean),
        "image_std": list(model.inputs.std),
    }
