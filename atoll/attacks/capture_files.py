"""The files of captures.

A capture is a folder. ``capture.json`` and ``messages.safetensors`` hold the message to the client
and its reply, after the client's mods have acted, and what the server knows of the federation.
``truth.json`` and ``truth.safetensors`` hold the client's examples; they are read for metrics and
by the doctor, never by an attack. Both are marked as raw client data, which no report shows unless
it is asked to.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.attacks.captures import Capture, Content, FederationInfo, Truth
from atoll.clients.data.cache import appearing
from atoll.errors import CaptureError

FORMAT = 1
CAPTURES = "captures"
ABOUT, MESSAGES = "capture.json", "messages.safetensors"
TRUTH_ABOUT, TRUTH = "truth.json", "truth.safetensors"
# Stands in every file that holds clients' own examples.
RAW_CLIENT_DATA = {"contains": "raw client data"}


def write_capture(capture: Capture, truth: Truth | None, directory: Path) -> None:
    """Write a capture; the folder is there as a whole or not at all.

    A folder that is there already stays as it is.

    Raises
    ------
    DataUnavailableError
        If it cannot be written.
    """
    tensors = {
        f"{part}/{record}/{key}": tensor.contiguous()
        for part, content in (("sent", capture.sent), ("reply", capture.reply))
        for record, arrays in content.arrays.items()
        for key, tensor in arrays.items()
    }
    about = {
        "format": FORMAT,
        "round": capture.server_round,
        "node_id": capture.node_id,
        "message_type": capture.message_type,
        "federation": capture.federation.to_json(),
        "sent": _values_to_json(capture.sent.values),
        "reply": _values_to_json(capture.reply.values),
        # safetensors does not keep the order of arrays.
        "arrays": list(tensors),
    }
    with appearing(directory) as folder:
        save_file(tensors, folder / MESSAGES)
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        if truth is not None:
            _write_truth(truth, folder)


def _write_truth(truth: Truth, folder: Path) -> None:
    lengths = [len(batch) for batch in truth.batches]
    empty = torch.empty(0, dtype=torch.int64)
    tensors = {
        "pixels": truth.pixels.contiguous(),
        "labels": truth.labels.contiguous(),
        "indices": truth.indices.contiguous(),
        "order": torch.cat([empty, *truth.batches]),
    }
    save_file(tensors, folder / TRUTH, metadata=RAW_CLIENT_DATA)
    about = {
        "format": FORMAT,
        **RAW_CLIENT_DATA,
        "seed": truth.seed,
        "batches": lengths,
        "part_seeds": dict(truth.part_seeds),
    }
    (folder / TRUTH_ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def read_capture(directory: Path) -> Capture:
    """Read a capture.

    Raises
    ------
    CaptureError
        If the folder is not a capture, or one of a later format.
    """
    about = _read_json(directory / ABOUT, "a capture")
    tensors = _read_tensors(directory / MESSAGES)
    arrays: dict[str, dict[str, dict[str, Tensor]]] = {"sent": {}, "reply": {}}
    try:
        for name in about["arrays"]:
            part, record, key = name.split("/", 2)
            arrays[part].setdefault(record, {})[key] = tensors[name]
        return Capture(
            server_round=int(about["round"]),
            node_id=int(about["node_id"]),
            message_type=str(about["message_type"]),
            federation=FederationInfo.from_json(about["federation"]),
            sent=Content(arrays["sent"], _values_from_json(about["sent"])),
            reply=Content(arrays["reply"], _values_from_json(about["reply"])),
            directory=directory,
        )
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise CaptureError(
            f"{directory}: is not a complete capture ({type(error).__name__}: {error})"
        ) from error


def read_truth(directory: Path) -> Truth:
    """Read the truth beside a capture.

    Raises
    ------
    CaptureError
        If it is not there or not whole.
    """
    about = _read_json(directory / TRUTH_ABOUT, "a capture with its truth")
    tensors = _read_tensors(directory / TRUTH)
    try:
        return Truth(
            pixels=tensors["pixels"],
            labels=tensors["labels"],
            batches=torch.split(tensors["order"], [int(n) for n in about["batches"]]),
            seed=int(about["seed"]),
            indices=tensors["indices"],
            part_seeds={str(k): int(v) for k, v in about.get("part_seeds", {}).items()},
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CaptureError(f"{directory}: its truth is not complete ({error})") from error


def find_captures(run_directory: Path, message_type: str = "train") -> list[Path]:
    """Return the folders of a run's captures of that type of message, by round and node.

    Raises
    ------
    CaptureError
        If there are none.
    """
    root = run_directory / CAPTURES
    found = [path.parent for path in root.glob(f"*/{ABOUT}")]
    kept = sorted(path for path in found if path.name.split("-")[4:5] == [message_type])
    if not kept:
        raise CaptureError(
            f"{run_directory}: has no captures of {message_type!r} messages; expected some in "
            f"{CAPTURES}/ (an experiment with [capture] nodes and rounds makes them)"
        )
    return kept


def capture_name(server_round: int, node_id: int, message_type: str) -> str:
    """Return the name of a capture's folder."""
    return f"round-{server_round:06d}-node-{node_id:06d}-{message_type}"


def _read_json(path: Path, wanted: str) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CaptureError(
            f"{path.parent}: is not {wanted} (it has no {path.name}); expected a folder in "
            f"RUN_DIR/{CAPTURES}"
        ) from error
    except (OSError, ValueError) as error:
        raise CaptureError(f"{path}: cannot be read ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        given = about.get("format") if isinstance(about, dict) else None
        raise CaptureError(f"{path}: has format {given!r}, expected {FORMAT}")
    return about


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CaptureError(f"{path}: cannot be read ({error})") from error


def _values_to_json(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: _value_to_json(value) for key, value in record.items()}
        for name, record in records.items()
    }


def _value_to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [_value_to_json(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _values_from_json(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: _value_from_json(value) for key, value in record.items()}
        for name, record in records.items()
    }


def _value_from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"])
    return [_value_from_json(item) for item in value] if isinstance(value, list) else value
