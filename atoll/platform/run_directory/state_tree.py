"""Python state as JSON and arrays: what a checkpoint can hold without running code on loading.

Numbers, strings, containers, arrays, tensors, Flower records and random generators are encoded as
what they are, in a table of objects that refer to each other by number: what is shared or cyclic
stays so, and no depth is too deep. Objects with ``state_dict`` and nested strategies are restored
in place. The rest (callables aside) is reported as not saved.
"""

from __future__ import annotations

import base64
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from atoll import flower

Arrays = dict[str, NDArray[Any]]
_CONTAINERS: dict[str, type] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_RECORDS = (ArrayRecord, MetricRecord, ConfigRecord)
# Strategies in strategies; each level takes some of Python's stack.
MAX_NESTED = 50
# Keys of an encoded value: its objects, and which of them it is.
OBJECTS, ROOT, REFERENCE = "objects", "root", "ref"


class StateEncoder:
    """Turns objects into JSON values; their arrays are collected in :attr:`arrays`.

    Parameters
    ----------
    keep : callable, optional
        Returns what is kept of an array that was met at a path; by default a copy.

    Attributes
    ----------
    arrays : dict[str, ndarray]
        The arrays met, by the path at which they were met.
    skipped : list[str]
        Paths of values that cannot be encoded.
    """

    def __init__(
        self, keep: Callable[[str, NDArray[Any]], NDArray[Any]] = lambda path, array: array.copy()
    ) -> None:
        self.arrays: Arrays = {}
        self.skipped: list[str] = []
        self._keep = keep
        self._table: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._nested = 0

    def attributes(self, owner: object, path: str) -> dict[str, Any]:
        """Encode the instance attributes of ``owner``; callables are part of its code."""
        self._begin()
        self._register(owner)
        self._table[0] = ["owner", None]
        return {OBJECTS: self._table, ROOT: self._attributes(owner, path)}

    def value(self, value: Any, path: str) -> Any:
        """Encode one value.

        Raises
        ------
        TypeError
            If it, or something in it, is of a kind that cannot be encoded.
        """
        self._begin()
        root = self._walk(value, path)
        return {OBJECTS: self._table, ROOT: root} if isinstance(root, dict) else root

    def _begin(self) -> None:
        self._table, self._numbers, self._alive = [], {}, []

    def _attributes(self, owner: object, path: str) -> dict[str, Any]:
        encoded = {}
        for name, value in vars(owner).items():
            if callable(value) and not hasattr(value, "state_dict"):
                continue
            mark = len(self._table), set(self.arrays)
            try:
                encoded[name] = self._walk(value, f"{path}/{name}")
            # A user's state_dict may raise anything, and a run must not end for a checkpoint.
            except Exception:
                self._forget_since(*mark)
                self.skipped.append(f"{path}/{name}")
        return encoded

    def _forget_since(self, count: int, paths: set[str]) -> None:
        del self._table[count:], self._alive[count:]
        self._numbers = {key: number for key, number in self._numbers.items() if number < count}
        self.arrays = {path: array for path, array in self.arrays.items() if path in paths}

    def _walk(self, value: Any, path: str) -> Any:
        out: list[Any] = [None]
        todo: list[tuple[list[Any], int, Any, str]] = [(out, 0, value, path)]
        while todo:
            target, place, item, where = todo.pop()
            target[place] = self._encode(item, where, todo)
        return out[0]

    def _register(self, value: Any) -> int:
        number = len(self._table)
        self._table.append(None)
        self._numbers[id(value)] = number
        # An object that is gone could leave its id to another.
        self._alive.append(value)
        return number

    def _encode(self, value: Any, path: str, todo: list[tuple[list[Any], int, Any, str]]) -> Any:
        """Return a scalar as it is; enter anything else in the table, its items being to do."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, bool | int | float | str) and not isinstance(value, np.generic):
            return value
        if isinstance(value, np.generic):
            value = np.asarray(value)
        known = self._numbers.get(id(value))
        if known is not None:
            return {REFERENCE: known}
        number = self._register(value)
        self._table[number] = entry = self._entry(value, path)
        tag, body = entry
        if tag in _CONTAINERS:
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            todo += [(body, i, item, f"{path}/{i}") for i, item in enumerate(items)]
        elif tag == "dict":
            for i, (key, item) in enumerate(value.items()):
                todo += [(body[i], 0, key, f"{path}/key{i}"), (body[i], 1, item, f"{path}/{i}")]
        return {REFERENCE: number}

    def _entry(self, value: Any, path: str) -> list[Any]:
        if isinstance(value, np.ndarray):
            return self._array("array", value, path)
        if _is_tensor(value):
            return self._array("tensor", value.detach().cpu().numpy(), path)
        if isinstance(value, bytes):
            return ["bytes", base64.b64encode(value).decode()]
        if isinstance(value, _RECORDS):
            return self._records(RecordDict({"record": value}), "record", path)
        if isinstance(value, RecordDict):
            return self._records(value, "records", path)
        if isinstance(value, Mapping):
            return ["dict", [[None, None] for _ in value]]
        if isinstance(value, list | tuple | set | frozenset | deque):
            tag = next(name for name, kind in _CONTAINERS.items() if isinstance(value, kind))
            return [tag, [None] * len(value)]
        return self._object(value, path)

    def _array(self, tag: str, array: NDArray[Any], path: str) -> list[Any]:
        if array.dtype.hasobject:
            raise TypeError(f"an array of objects at {path} cannot be saved")
        self.arrays[path] = self._keep(path, array)
        return [tag, path]

    def _records(self, records: RecordDict, tag: str, path: str) -> list[Any]:
        return self._array(tag, np.frombuffer(flower.dump_records(records), np.uint8), path)

    def _object(self, value: Any, path: str) -> list[Any]:
        if isinstance(value, Strategy):
            if self._nested >= MAX_NESTED:
                raise TypeError(f"strategies at {path} are nested too deep to be saved")
            self._nested += 1
            try:
                return ["attributes", self._attributes(value, path)]
            finally:
                self._nested -= 1
        if isinstance(value, random.Random):
            return ["random", self._walk(value.getstate(), path)]
        if isinstance(value, np.random.Generator):
            return ["generator", self._walk(value.bit_generator.state, path)]
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            return ["state_dict", self._walk(value.state_dict(), path)]
        if hasattr(value, "get_state") and hasattr(value, "set_state"):
            return ["set_state", self._walk(value.get_state(), path)]
        raise TypeError(f"{type(value).__name__} at {path} cannot be saved")


class StateDecoder:
    """Restores what a :class:`StateEncoder` encoded.

    Parameters
    ----------
    arrays : Mapping[str, ndarray]
        The encoder's arrays.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._table: list[Any] = []
        self._made: dict[int, Any] = {}

    def restore_attributes(self, owner: object, encoded: Mapping[str, Any]) -> None:
        """Set the encoded attributes on ``owner``; nested stateful objects change in place."""
        self._table, self._made = encoded[OBJECTS], {0: owner}
        self._restore(owner, encoded[ROOT])

    def value(self, encoded: Any, current: Any = None) -> Any:
        """Return the value; ``current`` is the object to restore in place, where one is.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is not what an encoder has written.
        """
        if not isinstance(encoded, dict):
            return encoded
        self._table, self._made = encoded[OBJECTS], {}
        return self._value(encoded[ROOT], current)

    def _restore(self, owner: object, encoded: Mapping[str, Any]) -> None:
        for name, item in encoded.items():
            current = getattr(owner, name, None)
            value = self._value(item, current)
            if isinstance(value, deque) and isinstance(current, deque):
                value = deque(value, current.maxlen)
            setattr(owner, name, value)

    def _value(self, encoded: Any, current: Any = None) -> Any:
        if not isinstance(encoded, dict):
            return encoded
        number = encoded[REFERENCE]
        if number not in self._made:
            tag, body = self._table[number]
            if tag in ("attributes", "random", "generator", "state_dict", "set_state"):
                self._made[number] = current
                self._made[number] = self._in_place(tag, body, current)
            else:
                self._make(number)
        return self._made[number]

    def _make(self, root: int) -> None:
        """Make an object and all that it refers to: first what can be filled later."""
        reachable, todo = [], [root]
        seen = {root}
        while todo:
            number = todo.pop()
            if number in self._made:
                continue
            reachable.append(number)
            following = [n for n in _references(self._table[number]) if n not in seen]
            seen.update(following)
            todo += following
        for number in reachable:
            tag = self._table[number][0]
            if tag in ("list", "set", "deque", "dict"):
                self._made[number] = {} if tag == "dict" else _CONTAINERS[tag]()
        for number in reachable:
            self._make_immutable(number)
        for number in reachable:
            self._fill(number)

    def _make_immutable(self, root: int) -> None:
        todo, opened = [root], set()
        while todo:
            number = todo[-1]
            if number in self._made:
                todo.pop()
                continue
            tag, body = self._table[number]
            waiting = [n for n in _references([tag, body]) if n not in self._made]
            if waiting:
                if number in opened:
                    raise ValueError(f"a {tag} that holds itself")
                opened.add(number)
                todo += waiting
                continue
            self._made[number] = self._leaf(tag, body)
            todo.pop()

    def _leaf(self, tag: str, body: Any) -> Any:
        if tag in ("tuple", "frozenset"):
            return _CONTAINERS[tag](map(self._item, body))
        if tag == "array":
            return np.array(self._arrays[body])
        if tag == "tensor":
            return sys.modules["torch"].from_numpy(np.array(self._arrays[body]))
        if tag == "bytes":
            return base64.b64decode(body)
        if tag in ("record", "records"):
            records = flower.load_records(self._arrays[body].tobytes())
            return records["record"] if tag == "record" else records
        raise ValueError(f"{tag!r} is no kind of value that can stand here")

    def _item(self, encoded: Any) -> Any:
        return self._made[encoded[REFERENCE]] if isinstance(encoded, dict) else encoded

    def _fill(self, number: int) -> None:
        tag, body = self._table[number]
        made = self._made[number]
        if tag == "dict":
            made.update((self._item(key), self._item(item)) for key, item in body)
        elif tag == "set":
            made.update(map(self._item, body))
        elif tag in ("list", "deque"):
            made.extend(map(self._item, body))

    def _in_place(self, tag: str, body: Any, current: Any) -> Any:
        if tag == "attributes":
            self._restore(current, body)
        elif tag == "random":
            current = current if isinstance(current, random.Random) else random.Random()
            current.setstate(_deep_tuple(self._value(body)))
        elif tag == "generator":
            state = self._value(body)
            if not isinstance(current, np.random.Generator):
                current = np.random.Generator(_bit_generator(state["bit_generator"]))
            current.bit_generator.state = state
        elif tag == "state_dict":
            current.load_state_dict(self._value(body))
        elif tag == "set_state":
            current.set_state(self._value(body))
        return current


def _references(entry: list[Any]) -> list[int]:
    """Return the numbers of the objects that a container of the table refers to."""
    tag, body = entry
    items: list[Any] = []
    if tag in _CONTAINERS:
        items = body
    elif tag == "dict":
        items = [item for pair in body for item in pair]
    return [item[REFERENCE] for item in items if isinstance(item, dict)]


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
