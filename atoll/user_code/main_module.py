"""Code that a script or a notebook defines itself: what ``__main__:NAME`` refers to.

A worker's ``__main__`` is Ray's. What an experiment names of the user's is put there, sent by
value, before anything is built; from then on the reference means the same as in the user's process.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import InvalidExperimentError

MAIN = "__main__"
PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))

# Of what came from another process, whose source is not here.
_hashes_from_elsewhere: dict[str, str] = {}


def reference_to(value: Any, key: str) -> str:
    """Return ``module:attribute`` of a class or function.

    Parameters
    ----------
    value : callable
        The class or function.
    key : str
        The experiment key that has it, for the error.

    Raises
    ------
    InvalidExperimentError
        If it cannot be found by a name: a lambda, or one that is defined inside a function.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or found is not value:
        raise InvalidExperimentError(
            f"{key} = {value!r}: cannot be found by its name; expected a class or function at the "
            "top of a module, a script or a notebook"
        )
    return f"{module}:{name}"


def with_references(value: Any, key: str = "") -> Any:
    """Return tables in which each class or function is replaced by its ``module:attribute``."""
    if isinstance(value, Mapping):
        return {k: with_references(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_references(item, key) for item in value)
    return reference_to(value, key) if callable(value) else value


@dataclass(frozen=True)
class MainCode:
    """What an experiment uses of ``__main__``, on its way to another process.

    Attributes
    ----------
    objects : dict[str, Any]
        By name, what is defined there; pickled by value.
    hashes : dict[str, str]
        By reference, the SHA-256 of the source (:func:`main_hashes`).
    """

    objects: dict[str, Any]
    hashes: dict[str, str]

    @classmethod
    def of(cls, references: Iterable[str]) -> MainCode:
        """Return what references to ``__main__`` name; other references are left out."""
        own = [reference for reference in references if reference.startswith(f"{MAIN}:")]
        variables = vars(sys.modules[MAIN])
        names = [reference.partition(":")[2].partition(".")[0] for reference in own]
        objects = {name: variables[name] for name in names if name in variables}
        return cls(objects, main_hashes(own))

    def install(self) -> None:
        """Define it in the ``__main__`` of this process, if it is another than the user's."""
        for name, value in self.objects.items():
            setattr(sys.modules[MAIN], name, value)
        _hashes_from_elsewhere.update(self.hashes)


def main_hashes(references: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the source of each reference to ``__main__``, by the reference.

    Functions, classes and plain values of ``__main__`` that it uses are part of it. What has no
    source is left out.
    """
    hashes = {}
    for reference in references:
        module, _, attribute = reference.partition(":")
        if module != MAIN:
            continue
        parts: dict[str, str] = {}
        _collect(attribute.partition(".")[0], vars(sys.modules[MAIN]), parts)
        if reference in _hashes_from_elsewhere:
            hashes[reference] = _hashes_from_elsewhere[reference]
        elif parts:
            text = "\n".join(f"{name} = {parts[name]}" for name in sorted(parts))
            hashes[reference] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def _collect(name: str, variables: Mapping[str, Any], found: dict[str, str]) -> None:
    """Add the source of a name of ``__main__``, and of what that uses there."""
    if name in found or name not in variables:
        return
    value = variables[name]
    if isinstance(value, PLAIN):
        found[name] = repr(value)
    definition = _definition_of(value)
    if definition is not None:
        found[name], used = definition
        for other in used:
            _collect(other, variables, found)


def _definition_of(value: Any) -> tuple[str, list[str]] | None:
    """Return the source of a class or function of ``__main__`` and the names in it, or None."""
    if getattr(value, "__module__", None) != MAIN:
        return None
    for source, name, line in _sources_of(value):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if _defines(node, name, line):
                text = ast.get_source_segment(source, node) or ast.dump(node)
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                return text, sorted(names)
    return None


def _sources_of(value: Any) -> Iterator[tuple[str, str, int | None]]:
    """Yield sources that may define a class or function, its name and, if known, a line of it.

    Of a class itself Python may not know the file, but of its functions; of one that has none, it
    is in the script or in the notebook's cells, the last of that name.
    """
    for function in _functions_of(value):
        code = function.__code__
        name = value.__name__ if isinstance(value, type) else code.co_name
        yield "".join(linecache.getlines(code.co_filename)), name, code.co_firstlineno
    if isinstance(value, type):
        main = sys.modules[MAIN]
        if (file := getattr(main, "__file__", None)) is not None:
            yield "".join(linecache.getlines(file)), value.__name__, None
        for cell in reversed(getattr(main, "In", [])):
            yield cell, value.__name__, None


def _functions_of(value: Any) -> Iterator[types.FunctionType]:
    """Yield a function, or those of a class."""
    members = vars(value).values() if isinstance(value, type) else [value]
    for member in members:
        function = inspect.unwrap(getattr(member, "__func__", member))
        if isinstance(function, types.FunctionType):
            yield function


def _defines(node: ast.AST, name: str, line: int | None) -> bool:
    """Tell whether a node defines what has this name, and a line of which this is."""
    if isinstance(node, ast.ClassDef):
        is_around = line is None or node.lineno <= line <= (node.end_lineno or 0)
        return node.name == name and is_around
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        return node.name == name and first == line
    return isinstance(node, ast.Lambda) and name == "<lambda>" and node.lineno == line
