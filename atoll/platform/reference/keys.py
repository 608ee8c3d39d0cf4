"""Keys of experiment files: their type, range, default and meaning, from the code that reads them.

The command line, the documentation's reference and completion all take keys from here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atoll.platform.reference.docstrings import descriptions_of
from atoll.platform.reference.key import REQUIRED, SECTION, UNSET, Key

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
PLAIN = {Path: "path", str: "string", bool: "boolean", int: "integer", float: "number"}


def keys_of_settings(kind: type[BaseModel]) -> list[Key]:
    """Return the keys of a settings class, described by its docstring's attributes."""
    described = descriptions_of(kind)
    return [
        _key_of_field(name, field, described.get(name, ""))
        for name, field in kind.model_fields.items()
    ]


def keys_of_dataclass(kind: type[Any]) -> list[Key]:
    """Return the keys of a dataclass, in whose annotations the ranges are."""
    described = descriptions_of(kind)
    hints = get_type_hints(kind, include_extras=True)
    return [
        _key(field.name, hints[field.name], _default_of(field), described.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.init and is_for_files(hints[field.name])
    ]


def keys_of_callable(
    make: Callable[..., Any], ranges: Mapping[str, Any] | None = None, without: Sequence[str] = ()
) -> list[Key]:
    """Return the keys that are the arguments of a callable.

    Parameters
    ----------
    make : callable
        A function or a class.
    ranges : Mapping[str, Any], optional
        Types with their ranges by the argument's name, in place of the annotations.
    without : Sequence[str]
        Arguments that no file can set.
    """
    described = descriptions_of(make)
    hints = _hints(make)
    keys = []
    for name, parameter in inspect.signature(make).parameters.items():
        hint = (ranges or {}).get(name, hints.get(name, parameter.annotation))
        is_one = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if is_one and name not in without and is_for_files(hint):
            keys.append(_key(name, hint, parameter.default, described.get(name, "")))
    return keys


def is_for_files(hint: Any) -> bool:
    """Tell whether TOML can hold a value of this type: functions and most objects it cannot."""
    if hint is inspect.Parameter.empty or hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return is_for_files(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(is_for_files(part) for part in arguments if part is not type(None))
    if origin is not None:
        return origin is not Callable
    # A strategy that another wraps is a table.
    is_class = inspect.isclass(hint) and issubclass(hint, BaseModel)
    return hint in PLAIN or is_class or getattr(hint, "__name__", "") in ("Strategy", "dict")


def toml(value: object) -> str:
    """Return a value as TOML writes it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml_key(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)


def _toml_key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def describe(hint: Any) -> tuple[str, str]:
    """Return a type's name, and its range where it has one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        name, inner = describe(arguments[0])
        return name, _range(arguments[1:], name) or inner
    if origin in (typing.Union, types.UnionType):
        parts = [describe(part) for part in arguments if part is not type(None)]
        names, ranges = zip(*parts, strict=True)
        return _joined(names), _joined(filter(None, ranges))
    if origin is typing.Literal:
        return _joined(map(toml, arguments)), ""
    if origin in (tuple, list, Sequence):
        name, inner = describe(arguments[0])
        return f"list of {name}", f"each {inner}" if inner else ""
    if origin in (dict, Mapping) or hint is dict or _is_settings(hint):
        return "table", ""
    if getattr(hint, "__name__", "") == "Strategy":
        return "table", ""
    if hint is inspect.Parameter.empty or hint is Any:
        return "any value", ""
    return PLAIN.get(hint, getattr(hint, "__name__", str(hint))), ""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings classes that a key may hold as a table; not those in lists."""
    if _is_settings(annotation):
        yield annotation
    elif get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in get_args(annotation):
            yield from models_in(part)


def _is_settings(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    holder = getattr(make, "__init__", make) if inspect.isclass(make) else make
    try:
        return get_type_hints(holder, include_extras=True)
    except (NameError, TypeError):
        # Names that are imported for type checkers only.
        return {}


def _key_of_field(name: str, field: FieldInfo, about: str) -> Key:
    hint: Any = field.annotation
    if field.metadata:
        hint = typing.Annotated[hint, *field.metadata]
    default = (
        inspect.Parameter.empty
        if field.is_required()
        else field.get_default(call_default_factory=True)
    )
    key = _key(name, hint, default, about)
    return dataclasses.replace(key, example=toml(field.examples[0])) if field.examples else key


def _key(name: str, hint: Any, default: Any, about: str) -> Key:
    kind, values = describe(hint)
    if default is inspect.Parameter.empty:
        return Key(name, kind, values, REQUIRED, about)
    if default is None:
        return Key(name, kind, values, UNSET, about)
    if isinstance(default, BaseModel):
        return Key(name, kind, values, SECTION, about)
    shown = toml(default)
    return Key(name, kind, values, shown, about, "" if shown in ("[]", "{}") else shown)


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty


def _joined(parts: Any) -> str:
    different = list(dict.fromkeys(parts))
    if len(different) < 2:
        return "".join(different)
    return f"{', '.join(different[:-1])} or {different[-1]}"


def _range(metadata: Sequence[Any], kind: str) -> str:
    """Return the range that the metadata of an annotation give."""
    bounds: dict[str, Any] = {}
    for item in metadata:
        for constraint in item.metadata if isinstance(item, FieldInfo) else [item]:
            for name in ("ge", "gt", "le", "lt"):
                if getattr(constraint, name, None) is not None:
                    bounds[name] = getattr(constraint, name)
    if kind == "integer":
        # Whole numbers over 0 are those from 1 on.
        if "gt" in bounds:
            bounds["ge"] = bounds.pop("gt") + 1
        if "lt" in bounds:
            bounds["le"] = bounds.pop("lt") - 1
    least = _bound(bounds, "ge", "") or _bound(bounds, "gt", "over ")
    most = _bound(bounds, "le", "") or _bound(bounds, "lt", "below ")
    if least and most:
        return f"{least} to {most}"
    if most:
        return most if most.startswith("below") else f"at most {most}"
    return least if not least or least.startswith("over") else f"at least {least}"


def _bound(bounds: Mapping[str, Any], name: str, before: str) -> str:
    if name not in bounds:
        return ""
    value = bounds[name]
    number = f"{value:,}" if isinstance(value, int) and value < 10**12 else f"{value:.2g}"
    return before + re.sub(r"e([+-])0?", lambda sign: "e" + sign[1].strip("+"), number)
