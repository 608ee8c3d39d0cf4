"""Python state as JSON and arrays: what a checkpoint can hold without running code on loading.

Numbers, strings, containers, arrays, tensors, Flower records and random generators are encoded as
what they are. Objects with ``state_dict`` and nested strategies are restored in place. The rest
(callables aside) is reported, so that nobody believes it was saved.
"""

from __future__ import annotations

import base64
import random
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from atoll.platform import flower

Arrays = dict[str, NDArray[Any]]
_CONTAINERS: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_RECORDS = (ArrayRecord, MetricRecord, ConfigRecord)


class StateEncoder:
    """Turns objects into JSON values; their arrays are collected in :attr:`arrays`.

    Attributes
    ----------
    arrays : dict[str, ndarray]
        The arrays met, by the path at which they were met.
    skipped : list[str]
        Paths of values that cannot be encoded.
    """

    def __init__(self) -> None:
        self.arrays: Arrays = {}
        self.skipped: list[str] = []

    def attributes(self, owner: object, path: str) -> dict[str, Any]:
        """Encode the instance attributes of ``owner``; callables are part of its code."""
        encoded = {}
        for name, value in vars(owner).items():
            if callable(value) and not hasattr(value, "state_dict"):
                continue
            try:
                encoded[name] = self.value(value, f"{path}/{name}")
            except TypeError:
                self.skipped.append(f"{path}/{name}")
        return encoded

    def value(self, value: Any, path: str) -> Any:
        """Encode one value.

        Raises
        ------
        TypeError
            If it is of a kind that cannot be encoded.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            self.arrays[path] = value.copy()
            return {"array": path}
        if _is_tensor(value):
            self.arrays[path] = value.detach().cpu().numpy().copy()
            return {"tensor": path}
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, _RECORDS):
            return self._records(RecordDict({"record": value}), "record", path)
        if isinstance(value, RecordDict):
            return self._records(value, "records", path)
        if isinstance(value, Mapping):
            pairs = [
                [self.value(key, f"{path}/key{index}"), self.value(item, f"{path}/{index}")]
                for index, (key, item) in enumerate(value.items())
            ]
            return {"dict": pairs}
        if isinstance(value, list | tuple | set | frozenset | deque):
            return self._container(value, path)
        return self._object(value, path)

    def _records(self, records: RecordDict, tag: str, path: str) -> dict[str, Any]:
        self.arrays[path] = np.frombuffer(flower.dump_records(records), np.uint8).copy()
        return {tag: path}

    def _container(self, value: Any, path: str) -> Any:
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        encoded = [self.value(item, f"{path}/{index}") for index, item in enumerate(items)]
        if isinstance(value, list):
            return encoded
        tag = next(name for name, kind in _CONTAINERS.items() if isinstance(value, kind))
        return {tag: encoded}

    def _object(self, value: Any, path: str) -> Any:
        if isinstance(value, Strategy):
            return {"attributes": self.attributes(value, path)}
        if isinstance(value, random.Random):
            return {"random": self.value(value.getstate(), path)}
        if isinstance(value, np.random.Generator):
            return {"generator": self.value(value.bit_generator.state, path)}
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            return {"state_dict": self.value(value.state_dict(), path)}
        if hasattr(value, "get_state") and hasattr(value, "set_state"):
            return {"set_state": self.value(value.get_state(), path)}
        raise TypeError(f"{type(value).__name__} at {path} cannot be saved")


class StateDecoder:
    """Restores what a :class:`StateEncoder` encoded."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def restore_attributes(self, owner: object, encoded: Mapping[str, Any]) -> None:
        """Set the encoded attributes on ``owner``; nested stateful objects change in place."""
        for name, item in encoded.items():
            current = getattr(owner, name, None)
            setattr(owner, name, self.value(item, current))

    def value(self, encoded: Any, current: Any = None) -> Any:
        """Return the value; ``current`` is the object to restore in place, where one is."""
        if isinstance(encoded, list):
            return [self.value(item) for item in encoded]
        if not isinstance(encoded, dict):
            return encoded
        ((tag, body),) = encoded.items()
        if tag == "array":
            return np.array(self._arrays[body])
        if tag == "tensor":
            return sys.modules["torch"].from_numpy(np.array(self._arrays[body]))
        if tag == "bytes":
            return base64.b64decode(body)
        if tag in ("record", "records"):
            records = flower.load_records(self._arrays[body].tobytes())
            return records["record"] if tag == "record" else records
        if tag == "dict":
            return {self._key(key): self.value(item) for key, item in body}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag](self.value(item) for item in body)
        return self._in_place(tag, body, current)

    def _key(self, encoded: Any) -> Any:
        return self.value(encoded)

    def _in_place(self, tag: str, body: Any, current: Any) -> Any:
        if tag == "attributes":
            self.restore_attributes(current, body)
        elif tag == "random":
            current = current if isinstance(current, random.Random) else random.Random()
            current.setstate(_deep_tuple(self.value(body)))
        elif tag == "generator":
            state = self.value(body)
            if not isinstance(current, np.random.Generator):
                current = np.random.Generator(_bit_generator(state["bit_generator"]))
            current.bit_generator.state = state
        elif tag == "state_dict":
            current.load_state_dict(self.value(body))
        elif tag == "set_state":
            current.set_state(self.value(body))
        return current


def _bit_generator(name: str) -> np.random.BitGenerator:
    """Return a new bit generator of a class of NumPy's; a file may name nothing else."""
    kind = getattr(np.random, name, None)
    if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
        raise ValueError(f"{name!r} is no bit generator of NumPy's")
    return kind()


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and (where loaded) PyTorch's global generators."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the global generators to what :func:`random_states` returned."""
    random.setstate(_deep_tuple(states["python"]))
    np.random.set_state(tuple(states["numpy"]))
    if "torch" in states and (torch := sys.modules.get("torch")):
        torch.set_rng_state(states["torch"])


def _deep_tuple(value: Any) -> Any:
    return tuple(map(_deep_tuple, value)) if isinstance(value, list | tuple) else value


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, cast(Any, torch).Tensor)
