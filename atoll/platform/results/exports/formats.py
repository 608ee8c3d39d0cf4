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
from atoll.platform.results.models.pixel_model import PixelModel
from atoll.platform.results.models.prepared_model import PreparedModel
from atoll.platform.results.models.token_model import TokenModel

onnx = LazyModule("onnx")

ABOUT = "atoll.json"
ONNX_PACKAGES = ("onnx", "onnxscript")
# Exporters take a batch of one for a constant.
EXAMPLES = 2


def write_torch(model: PreparedModel, about: Mapping[str, Any], out: Path) -> None:
    """Write a program of ``torch.export``; ``torch.export.load(path).module()`` is the model."""
    with _traced(model):
        program = torch.export.export(
            model, (model.example(EXAMPLES),), dynamic_shapes=_dynamic_shapes()
        )
    buffer = io.BytesIO()
    files = {ABOUT: json.dumps(about), **model.files()}
    torch.export.save(program, buffer, extra_files=files)
    with replacing(out) as partial:
        partial.write_bytes(buffer.getvalue())


def write_safetensors(model: PreparedModel, about: Mapping[str, Any], out: Path) -> None:
    """Write the network's tensors under their own names, and the preprocessing beside them."""
    tensors = _tensors(model)
    for name, tensor in model.preprocessing_tensors().items():
        tensors[f"preprocessing.{name}"] = tensor.cpu().clone()
    with replacing(out) as partial:
        save_file(tensors, partial, metadata=texts(about) | model.files())


def write_onnx(model: PreparedModel, about: Mapping[str, Any], out: Path) -> None:
    """Write an ONNX model: what the model takes and gives, by name, for any n."""
    require(*ONNX_PACKAGES, what="--to onnx")
    with _traced(model), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            model,
            (model.example(EXAMPLES),),
            dynamo=True,
            input_names=[model.input_name],
            output_names=[model.output_name],
            dynamic_shapes=_dynamic_shapes(),
            verbose=False,
        )
    if program is None:
        raise InvalidExperimentError("--to onnx: PyTorch's exporter gave nothing; expected a model")
    proto = program.model_proto
    for key, value in (texts(about) | model.files()).items():
        proto.metadata_props.add(key=key, value=value)
    with replacing(out) as partial:
        partial.write_bytes(proto.SerializeToString())


def write_huggingface(model: PreparedModel, about: Mapping[str, Any], out: Path) -> None:
    """Write a folder as ``save_pretrained`` leaves one; nothing is sent to a hub."""
    config = _config(model, about)
    if isinstance(model, PixelModel) and model.inputs.other_task is None:
        tables = {
            "config.json": config | _image_config(model),
            "preprocessor_config.json": _preprocessor(model),
        }
    elif isinstance(model, TokenModel):
        tables = {"config.json": config | _token_config(model)}
    else:
        raise InvalidExperimentError(
            f"--to huggingface: the run is a {model.task.kind} of {model.data_inputs.described}; "
            "expected a classification of images or a run on texts, or --to safetensors"
        )
    files = {"README.md": model_card(about), **model.files()}
    files |= {name: json.dumps(table, indent=2) + "\n" for name, table in tables.items()}
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        save_file(_tensors(model), partial / "model.safetensors", metadata={"format": "pt"})
        for name, content in files.items():
            (partial / name).write_text(content, encoding="utf-8")
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def texts(about: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as files hold it: texts by name, those that are none as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}


def _dynamic_shapes() -> tuple[dict[int, Any]]:
    """Return which dimensions of the input vary: the number of examples."""
    return ({0: torch.export.Dim("examples", min=1)},)


def _tensors(model: PreparedModel) -> dict[str, torch.Tensor]:
    """Return the network's tensors, each with memory of its own."""
    state = model.network.state_dict()
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


@contextlib.contextmanager
def _traced(model: PreparedModel) -> Iterator[None]:
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


def _config(model: PreparedModel, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config.json``: what Hugging Face's tools show, and what Atoll builds it from."""
    names = model.task.class_names
    return {
        "model_type": "atoll",
        "architectures": [type(model.network).__name__],
        "torch_dtype": str(next(model.network.parameters()).dtype).removeprefix("torch."),
        "num_labels": model.task.outputs,
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
        "atoll": dict(about),
    }


def _image_config(model: PixelModel) -> dict[str, Any]:
    channels, height, width = model.inputs.image_shape
    size = height if height == width else [height, width]
    return {"num_channels": channels, "image_size": size}


def _token_config(model: TokenModel) -> dict[str, Any]:
    inputs = model.tokens
    return {
        "vocab_size": inputs.vocabulary,
        "max_position_embeddings": inputs.length,
        "pad_token_id": inputs.padding,
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
