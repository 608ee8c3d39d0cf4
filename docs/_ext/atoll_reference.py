"""Directives that write the reference of experiment keys and of commands from the code.

``atoll-keys`` lists the keys of a settings class: name, type, default, range, and the description
in the class's docstring. ``atoll-commands`` lists every command with its arguments and options.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class KeysDirective(SphinxDirective):
    """The keys of a settings class, given as ``module:Class``, and those of its sub-tables."""

    required_arguments = 2  # the class, and the section's name

    def run(self) -> list[nodes.Node]:
        """Write a table a section."""
        module, _, name = self.arguments[0].partition(":")
        kind = getattr(importlib.import_module(module), name)
        lines: list[str] = []
        for section, settings in _sections(self.arguments[1], kind):
            lines += _table(section, settings)
        return self.parse_text_to_nodes("\n".join(lines))


def _sections(name: str, kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, kind
    for key, field in kind.model_fields.items():
        for inner in _models_in(field.annotation):
            yield f"{name}.{key}", inner


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    # Entries of a list, as those of client.mods, are shown where the list is described.
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models_in(part)


def _table(section: str, kind: type[BaseModel]) -> list[str]:
    summary, described = _docstring(kind)
    lines = [f".. rubric:: [{section}]", "", summary, "", ".. list-table::", "   :header-rows: 1"]
    lines += [
        "   :widths: 20 22 14 44",
        "",
        "   * - key",
        "     - type",
        "     - default",
        "     - ",
    ]
    for key, field in kind.model_fields.items():
        value = "a table" if list(_models_in(field.annotation)) else _type(field)
        cells = (f"``{key}``", value, _default(field), described.get(key, ""))
        lines += [f"   {'*' if place == 0 else ' '} - {cell}" for place, cell in enumerate(cells)]
    return [*lines, ""]


def _docstring(kind: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return a settings class's text, and its attributes' descriptions."""
    text, _, attributes = (inspect.getdoc(kind) or "").partition("\nAttributes\n----------\n")
    described: dict[str, str] = {}
    names: list[str] = []
    for line in attributes.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        else:
            for name in names:
                described[name] = f"{described.get(name, '')} {line.strip()}".strip()
    return text.strip(), described


def _type(field: FieldInfo) -> str:
    shown = _type_name(field.annotation)
    bounds = [*_bounds(field.metadata), *_inner_bounds(field.annotation)]
    return shown + (f", {', '.join(bounds)}" if bounds else "")


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        kinds = [_type_name(kind) for kind in arguments if kind is not type(None)]
        return " or ".join(kinds)
    if origin is typing.Literal:
        return ", ".join(f"``{value!r}``".replace("'", '"') for value in arguments)
    if origin in (tuple, list):
        return f"list of {_type_name(arguments[0])}"
    if origin is dict or annotation is dict:
        return "table"
    plain = {Path: "path", str: "string", bool: "boolean", int: "integer", float: "number"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _inner_bounds(annotation: Any) -> list[str]:
    found = []
    for part in typing.get_args(annotation):
        if typing.get_origin(part) is typing.Annotated:
            found += _bounds(typing.get_args(part)[1:])
        found += _inner_bounds(part) if typing.get_origin(part) is not typing.Literal else []
    return found


def _bounds(metadata: Any) -> list[str]:
    found = []
    for item in metadata:
        items = item.metadata if isinstance(item, FieldInfo) else [item]
        for constraint in items:
            for name, sign in BOUNDS.items():
                bound = getattr(constraint, name, None)
                if bound is not None:
                    found.append(f"{sign} {bound:,}")
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, tuple):
        return f"``{list(value)}``".replace("'", '"')
    return (
        f"``{str(value)!r}``".replace("'", '"') if isinstance(value, str | Path) else f"``{value}``"
    )


class CommandsDirective(SphinxDirective):
    """Every command of a typer application, given as ``module:attribute``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write a section a command."""
        module, _, name = self.arguments[0].partition(":")
        group = typer.main.get_command(getattr(importlib.import_module(module), name))
        lines: list[str] = []
        for path, command in _commands("atoll", group):
            lines += [path, "-" * len(path), "", *_command_lines(path, command)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        yield from _commands(f"{path} {name}", child)


def _command_lines(path: str, command: Any) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield from ("::", "", "   " + " ".join([path, *command.collect_usage_pieces(context)]), "")
    yield from inspect.cleandoc(command.help or "").replace("\b", "").splitlines()
    yield from ("", ".. list-table::", "   :widths: 34 66", "   :header-rows: 1", "")
    yield from ("   * - argument or option", "     - ")
    for parameter in command.params:
        names = ", ".join(parameter.opts) or parameter.name
        if parameter.param_type_name == "argument":
            names = parameter.make_metavar(context)
        text = " ".join((getattr(parameter, "help", "") or "").split())
        default = getattr(parameter, "default", None)
        if default not in (None, False, (), [], "") and not callable(default):
            text += f" Default: {default}."
        yield f"   * - ``{names}``"
        yield f"     - {_escaped(text)}"
    yield ""


def _escaped(text: str) -> str:
    return re.sub(r"([*`|\\])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("atoll-keys", KeysDirective)
    app.add_directive("atoll-commands", CommandsDirective)
    return {"parallel_read_safe": True}
