"""Directives that write the reference of experiment keys and of commands from the code.

``atoll-keys`` lists the keys of a section as ``atoll explain`` does, ``atoll-names`` the names of
every kind as ``atoll list`` does, with the keys of each. ``atoll-commands`` lists the commands with
their arguments and options.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import click
import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from atoll.platform.reference.experiment_keys import sections
from atoll.platform.reference.key import REQUIRED, SECTION, UNSET, Key
from atoll.platform.reference.kinds import kinds
from atoll.platform.reference.names import describe_name, names_of

# Defaults that are said in words.
WORDS = (UNSET, REQUIRED, SECTION)


class KeysDirective(SphinxDirective):
    """The keys of a section of experiment files, and of the tables within it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write a table a section."""
        own = self.arguments[0]
        lines: list[str] = []
        for section in sections():
            if section == own or section.startswith(f"{own}."):
                lines += _table(section)
        return self.parse_text_to_nodes("\n".join(lines))


class NamesDirective(SphinxDirective):
    """The names of every kind, each with its keys."""

    def run(self) -> list[nodes.Node]:
        """Write a section a kind."""
        lines: list[str] = []
        for kind, about in kinds():
            lines += [kind, "-" * len(kind), "", _escaped(about), ""]
            for name, line in names_of(kind):
                lines += [f"``{name}``", f"   {_escaped(line)}", ""]
                keys = describe_name(kind, name).keys
                lines += [f"   {text}" for text in _key_rows(keys)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _table(section: str) -> list[str]:
    title = [f".. rubric:: [{section}]", "", _escaped(sections()[section].description), ""]
    return [*title, *_key_rows(sections()[section].keys)]


def _key_rows(keys: Sequence[Key]) -> list[str]:
    if not keys:
        return []
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 18 26 16 40", ""]
    lines += ["   * - key", "     - type and range", "     - default", "     - meaning"]
    for key in keys:
        default = key.default if key.default in WORDS else f"``{key.default}``"
        meaning = _escaped(key.about)
        if key.example and key.example != key.default:
            meaning += f" Example: ``{key.name} = {key.example}``"
        cells = (f"``{key.name}``", _escaped(key.values), default, meaning)
        lines += [f"   {'*' if place == 0 else ' '} - {cell}" for place, cell in enumerate(cells)]
    return [*lines, ""]


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
    app.add_directive("atoll-names", NamesDirective)
    app.add_directive("atoll-commands", CommandsDirective)
    return {"parallel_read_safe": True}
