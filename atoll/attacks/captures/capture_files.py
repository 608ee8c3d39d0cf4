"""Files of captures: format, limits, reading and writing.

A capture is a folder. ``capture.json`` and ``messages.safetensors`` hold the message to the client
and its reply, after the client's mods have acted, and what the server knows of the federation.
``truth.json`` and ``truth.safetensors`` hold the client's examples; they are read for metrics and
by capture validation, never by an attack. Both are marked as raw client data, which no report
shows unless it is asked to.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
from atoll.errors import CaptureError
from atoll.files.atomic import appearing
from atoll.files.manifests import MANIFEST, read_verified, seal
from atoll.files.reading import parse_json
from atoll.validation import first_finding

# Format 1 was of images with one label.
FORMAT = 2
CAPTURES = "captures"
ABOUT, MESSAGES = "capture.json", "messages.safetensors"
TRUTH_ABOUT, TRUTH = "truth.json", "truth.safetensors"
MAX_BYTES = 64 << 30
# Stands in every file that holds clients' own examples.
RAW_CLIENT_DATA = {"contains": "raw client data"}

Values = dict[str, dict[str, Any]]
T = TypeVar("T")


class _About(BaseModel):
    """``capture.json``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal[1, 2]
    round: Annotated[int, Field(ge=0)]
    node_id: Annotated[int, Field(ge=0)]
    message_type: str
    federation: dict[str, Any]
    sent: Values
    reply: Values
    arrays: list[str]


class _TruthAbout(BaseModel):
    """``truth.json``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal[1, 2]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    batches: list[Annotated[int, Field(ge=0)]]
    part_seeds: dict[str, Annotated[int, Field(ge=0, lt=2**64)]] = {}


def write_capture(capture: Capture, truth: Truth | None, directory: Path) -> None:
    """Write a capture; the folder is there as a whole or not at all.

    A folder that is there already stays as it is.

    Parameters
    ----------
    capture : Capture
        The messages.
    truth : Truth or None
        The client's examples, for metrics; None writes none.
    directory : Path
        The folder to make.

    Raises
    ------
    DataUnavailableError
        If it cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import example_victim, write_capture
    >>> victim = example_victim()
    >>> with TemporaryDirectory() as folder:
    ...     write_capture(victim.capture, victim.truth, Path(folder) / "mine")
    ...     print(sorted(path.name for path in (Path(folder) / "mine").iterdir()))
    ['capture.json', 'manifest.json', 'messages.safetensors', 'truth.json', 'truth.safetensors']
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
        files = [ABOUT, MESSAGES]
        if truth is not None:
            _write_truth(truth, folder)
            files += [TRUTH_ABOUT, TRUTH]
        seal(folder, files)


def _write_truth(truth: Truth, folder: Path) -> None:
    lengths = [len(batch) for batch in truth.batches]
    empty = torch.empty(0, dtype=torch.int64)
    tensors = {
        "inputs": truth.inputs.contiguous(),
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

    Parameters
    ----------
    directory : Path
        The capture's folder.

    Raises
    ------
    CaptureError
        If the folder is not a capture, or one of a later format.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import example_victim, read_capture, write_capture
    >>> with TemporaryDirectory() as folder:
    ...     write_capture(example_victim().capture, None, Path(folder) / "mine")
    ...     capture = read_capture(Path(folder) / "mine")
    >>> capture.name, capture.message_type, capture.directory.name
    ('node 1 in round 1', 'train', 'mine')
    """
    about = _read_json(directory / ABOUT, _About, "a capture")
    tensors = _read_tensors(directory / MESSAGES)
    arrays: dict[str, dict[str, dict[str, Tensor]]] = {"sent": {}, "reply": {}}
    try:
        for name in about.arrays:
            part, record, key = name.split("/", 2)
            arrays[part].setdefault(record, {})[key] = tensors[name]
        return Capture(
            server_round=about.round,
            node_id=about.node_id,
            message_type=about.message_type,
            federation=FederationInfo.from_json(about.federation),
            sent=Content(arrays["sent"], _values_from_json(about.sent)),
            reply=Content(arrays["reply"], _values_from_json(about.reply)),
            directory=directory,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CaptureError(
            f"{directory / ABOUT}: is not a complete capture's ({_reason(error)})"
        ) from error


def read_truth(directory: Path) -> Truth:
    """Read the truth beside a capture.

    Parameters
    ----------
    directory : Path
        The capture's folder.

    Raises
    ------
    CaptureError
        If it is not there or not whole.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import example_victim, read_truth, write_capture
    >>> victim = example_victim(examples=2)
    >>> with TemporaryDirectory() as folder:
    ...     write_capture(victim.capture, victim.truth, Path(folder) / "mine")
    ...     read_truth(Path(folder) / "mine").labels.equal(victim.truth.labels)
    True
    """
    about = _read_json(directory / TRUTH_ABOUT, _TruthAbout, "a capture with its truth")
    tensors = _read_tensors(directory / TRUTH)
    try:
        return Truth(
            inputs=_tensor(tensors, "pixels" if about.format == 1 else "inputs"),
            labels=_tensor(tensors, "labels"),
            batches=torch.split(_places(tensors, "order"), about.batches),
            seed=about.seed,
            indices=_places(tensors, "indices"),
            part_seeds=about.part_seeds,
        )
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CaptureError(
            f"{directory / TRUTH}: is not a complete truth's ({_reason(error)})"
        ) from error


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor with a row an example; of what type and shape depends on the federation."""
    found = tensors.get(name)
    if found is None:
        raise ValueError(f"it has no {name!r}")
    if found.dim() == 0:
        raise ValueError(f"{name} is one number; expected one or more for each example")
    return found


def _places(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    found = _tensor(tensors, name)
    if found.dtype != torch.int64 or found.dim() != 1:
        raise ValueError(
            f"{name} is {found.dtype} of shape {tuple(found.shape)}; expected torch.int64 with 1 "
            "dimension"
        )
    return found


def find_captures(run_directory: Path, message_type: str = "train") -> list[Path]:
    """Return the folders of a run's captures of that type of message, by round and node.

    Parameters
    ----------
    run_directory : Path
        A run of an experiment with ``[capture]``.
    message_type : str
        "train" or "query.moments".

    Raises
    ------
    CaptureError
        If there are none.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import example_victim, find_captures, write_capture
    >>> with TemporaryDirectory() as run:
    ...     place = Path(run) / "captures" / "round-000001-node-000001-train"
    ...     write_capture(example_victim().capture, None, place)
    ...     print([path.name for path in find_captures(Path(run))])
    ['round-000001-node-000001-train']
    """
    root = run_directory / CAPTURES
    # A folder whose capture.json is missing is found by its manifest, and refused when it is read.
    # Hidden ones are left by processes that were killed as they wrote them.
    paths = [path for name in (ABOUT, MANIFEST) for path in root.glob(f"*/{name}")]
    found = {path.parent for path in paths if path.parent.name[0] != "."}
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


def _read_json(path: Path, schema: type[T], wanted: str) -> T:
    if not path.exists():
        raise CaptureError(
            f"{path.parent}: is not {wanted} (it has no {path.name}); expected a folder in "
            f"RUN_DIR/{CAPTURES}"
        )
    data = read_verified(path, error=CaptureError)
    # What clients say may be NaN.
    return parse_json(data, str(path), schema, error=CaptureError, finite=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load(read_verified(path, error=CaptureError, limit=MAX_BYTES)))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CaptureError(f"{path}: cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_finding(error)
    said = " ".join(str(error).split())
    return f"it has no {said}" if isinstance(error, KeyError) else said


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
        try:
            return base64.b64decode(value["bytes"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"bytes that are not in base 64 ({error})") from error
    return [_value_from_json(item) for item in value] if isinstance(value, list) else value
