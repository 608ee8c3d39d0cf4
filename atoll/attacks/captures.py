"""Captures: what the server saw of one client in one round, and the truth beside it.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.clients.data.cache import appearing
from atoll.clients.data.tensors import to_tensor
from atoll.clients.schedules import learning_rate_at
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.errors import CaptureError

FORMAT = 1
CAPTURES = "captures"
ABOUT, MESSAGES = "capture.json", "messages.safetensors"
TRUTH_ABOUT, TRUTH = "truth.json", "truth.safetensors"
MODEL_RECORD = "arrays"
# Stands in every file that holds clients' own examples.
RAW_CLIENT_DATA = {"contains": "raw client data"}
# In the place of a node's id: the sum of a round's clients, as secure aggregation tells it.
SUM = 0


@dataclass(frozen=True)
class FederationInfo:
    """What the server knows of a federation, because it runs it.

    Attributes
    ----------
    dataset : str
        The data set's name.
    model, client : ModelSettings, ClientSettings
        ``[model]`` and ``[client]``.
    image_shape : tuple[int, int, int]
        Channels, height, width.
    classes : tuple[str, ...]
        Names of the labels.
    mean, std : tuple[float, ...]
        Per channel, in units of [0, 1]: what a model's input is normalised by.
    num_rounds : int
        Rounds of the run, for learning-rate schedules.
    """

    dataset: str
    model: ModelSettings
    client: ClientSettings
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_rounds: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "dataset": self.dataset,
            "model": self.model.model_dump(mode="json"),
            "client": self.client.model_dump(mode="json"),
            "image_shape": list(self.image_shape),
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "num_rounds": self.num_rounds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FederationInfo:
        """Read what :meth:`to_json` returned."""
        channels, height, width = map(int, value["image_shape"])
        return cls(
            dataset=str(value["dataset"]),
            model=ModelSettings.model_validate(value["model"]),
            client=ClientSettings.model_validate(value["client"]),
            image_shape=(channels, height, width),
            classes=tuple(map(str, value["classes"])),
            mean=tuple(map(float, value["mean"])),
            std=tuple(map(float, value["std"])),
            num_rounds=int(value["num_rounds"]),
        )


@dataclass(frozen=True)
class Content:
    """A message's records.

    Attributes
    ----------
    arrays : dict[str, dict[str, Tensor]]
        By the record's name and the array's key.
    values : dict[str, dict]
        Config and metrics, by the record's name.
    """

    arrays: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return the value of that key in whichever record has it, or None."""
        return next((values[key] for values in self.values.values() if key in values), None)


@dataclass(frozen=True)
class Capture:
    """One client's message and reply.

    Attributes
    ----------
    server_round, node_id : int
        Which round, and whose; nodes are 1 to the number of clients, and SUM is all of the
        round's, seen as one client that has everybody's examples.
    message_type : str
        "train", or "query.moments".
    federation : FederationInfo
        What is known of the federation.
    sent, reply : Content
        The message to the client, and its answer.
    directory : Path or None
        Its folder, if it has one.
    """

    server_round: int
    node_id: int
    message_type: str
    federation: FederationInfo
    sent: Content
    reply: Content
    directory: Path | None = None

    @property
    def name(self) -> str:
        """Which client and round, in a few words."""
        who = "the sum of the clients" if self.node_id == SUM else f"node {self.node_id}"
        return f"{who} in round {self.server_round}"

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The model that went out, by the keys of its ``state_dict``.

        Raises
        ------
        CaptureError
            If the message holds none.
        """
        return self._model(self.sent, "sent")

    @property
    def update(self) -> Mapping[str, Tensor]:
        """The model (or, if :attr:`replies_gradient`, the gradient) that came back.

        Raises
        ------
        CaptureError
            If the reply holds none.
        """
        return self._model(self.reply, "reply")

    def _model(self, content: Content, part: str) -> Mapping[str, Tensor]:
        arrays = content.arrays
        found = arrays.get(MODEL_RECORD)
        if found is None and len(arrays) == 1:
            [found] = arrays.values()
        if found is None:
            raise CaptureError(
                f"{self.directory or self.name}: the {part} holds no model (records of arrays: "
                f"{', '.join(arrays) or 'none'}); expected one named {MODEL_RECORD!r}"
            )
        return found

    @property
    def replies_gradient(self) -> bool:
        """Whether the strategy asked for a gradient in the place of a trained model."""
        return bool(self.sent.value("replies-gradient"))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the round."""
        given = self.sent.value("learning-rate")
        if given is not None:
            return float(given)
        info = self.federation
        return learning_rate_at(info.client, self.server_round, info.num_rounds)

    @property
    def proximal_mu(self) -> float:
        """The weight of FedProx's term."""
        given = self.sent.value("proximal-mu")
        return self.federation.client.proximal_mu if given is None else float(given)

    @property
    def examples(self) -> int:
        """How many examples the client says that it has.

        Raises
        ------
        CaptureError
            If it does not say.
        """
        count = self.reply.value("num-examples")
        if not isinstance(count, int | float) or count < 1:
            raise CaptureError(
                f"{self.directory or self.name}: the reply's num-examples is {count!r}; expected "
                "at least 1"
            )
        return int(count)


@dataclass(frozen=True)
class Truth:
    """What the client really had; for metrics and for the doctor.

    Attributes
    ----------
    pixels : Tensor
        uint8, shape (n, height, width, channels): the images as the client trained on them.
    labels : Tensor
        int64, shape (n,).
    batches : tuple[Tensor, ...]
        Per local step the indices of its examples, among the n; empty where the client takes no
        step, or trains parts of the model apart.
    seed : int
        Of the client's generators in that round.
    indices : Tensor
        int64, shape (n,): which examples of the data set's training split they are.
    part_seeds : Mapping[str, int]
        Where the client trains parts of the model apart (NoProp's blocks): by name, the seed from
        which a part's batches, noise and times derive.
    """

    pixels: Tensor
    labels: Tensor
    batches: tuple[Tensor, ...]
    seed: int
    indices: Tensor
    part_seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> Tensor:
        """The images: float32, shape (n, channels, height, width), in [0, 1]."""
        return self.pixels.permute(0, 3, 1, 2).float() / 255

    def normalized(self, federation: FederationInfo) -> Tensor:
        """Return the images as the client's model saw them, to the bit."""
        return to_tensor(self.pixels.numpy(), federation.mean, federation.std)


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
