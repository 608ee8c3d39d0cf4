"""``atoll list`` and ``atoll explain``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.platform.cli.completion import complete_key, complete_kind, complete_name
from atoll.platform.cli.output.columns import indented, name_lines
from atoll.platform.cli.terminal import clear_errors, console
from atoll.platform.reference.kinds import kinds

if TYPE_CHECKING:
    from atoll.platform.reference.key import Key
    from atoll.platform.reference.named import Named


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="A kind of names: models, attacks and others. Without it, all kinds are shown.",
            autocompletion=complete_kind,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="A name of that kind: shows its keys.", autocompletion=complete_name),
    ] = None,
) -> None:
    """List the kinds of names that experiment files can use, the names of one, or a name's keys."""
    with clear_errors():
        if kind is None:
            _show(name_lines(kinds(), _width()))
            _show(["", "atoll list KIND lists names, atoll list KIND NAME shows a name's keys"])
            return
        from atoll.platform.reference.names import describe_name, names_of

        if name is None:
            _show(name_lines(names_of(kind), _width()))
        else:
            _show(_lines_of_name(describe_name(kind, name)))


def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            help="A key ('client.gradient_clip') or a section ('client'); without, the sections.",
            autocompletion=complete_key,
        ),
    ] = None,
) -> None:
    """Explain a key of experiment files: type, default, range, meaning and an example."""
    with clear_errors():
        from atoll.platform.reference.experiment_keys import all_keys, sections

        if key is None:
            rows = [(f"[{name}]", section.about) for name, section in sections().items()]
            _show(name_lines(rows, _width()))
            _show(["", "atoll explain SECTION lists keys, atoll explain SECTION.KEY explains one"])
            return
        found = _found(key)
        if isinstance(found, list):
            _show(found)
        elif found in sections():
            _show(_lines_of_section(found))
        else:
            _show(_lines_of_key(found, all_keys()[found]))


def _found(key: str) -> str | list[str]:
    """Return the full name of a section or key; of an argument of what is named, its lines."""
    from atoll.error_messages import closest
    from atoll.errors import UnknownNameError
    from atoll.platform.reference.experiment_keys import OPEN, find, own_keys

    try:
        return find(key)
    except UnknownNameError:
        # This imports what has the arguments; a key of the file itself is found without.
        from atoll.platform.reference.names import keys_of_kind, names_with

        section, _, argument = key.rpartition(".")
        if section not in OPEN:
            raise
        taking = names_with(OPEN[section], argument)
        if not taking:
            hint = closest(argument, {*keys_of_kind(OPEN[section]), *own_keys(section)})
            if "did you mean" not in hint:
                hint = f"'atoll list {OPEN[section]} NAME' shows a name's keys"
            raise UnknownNameError(f"{key!r}: no such key; {hint}") from None
        return list(_lines_of_argument(section, taking))


def _lines_of_argument(section: str, taking: dict[str, Key]) -> Iterator[str]:
    """Yield the lines about a key that only some names take; those with the same words once."""
    from atoll.platform.reference.experiment_keys import OPEN

    by_meaning: dict[tuple[str, str, str], list[str]] = {}
    for name, key in taking.items():
        by_meaning.setdefault((key.values, key.default, key.about), []).append(name)
    [argument] = {key.name for key in taking.values()}
    yield f"{section}.{argument}"
    for (values, default, about), names in by_meaning.items():
        yield from indented(f"of {', '.join(names)}: {values}; {_default(default)}", _width(), 2)
        yield from indented(about, _width(), 4)
    yield ""
    yield f"atoll list {OPEN[section]} NAME shows all keys of a name"


def _lines_of_key(name: str, key: Key) -> Iterator[str]:
    section = name.rpartition(".")[0]
    yield name
    yield from indented(f"{key.values}; {_default(key.default)}", _width(), 2)
    yield from indented(key.about, _width(), 2)
    if key.example:
        yield from ("", f"  [{section}]", f"  {key.name} = {key.example}")


def _lines_of_section(section: str) -> Iterator[str]:
    from atoll.platform.reference.experiment_keys import OPEN, sections

    yield f"[{section}]"
    yield from indented(sections()[section].description, _width(), 2)
    yield ""
    yield from _key_lines(sections()[section].keys)
    if section in OPEN:
        yield ""
        yield f"  Other keys are those of the name: atoll list {OPEN[section]} NAME"


def _lines_of_name(named: Named) -> Iterator[str]:
    yield named.name
    yield from indented(named.about, _width(), 2)
    if named.text:
        yield ""
        yield from indented(named.text, _width(), 2)
    yield ""
    if named.keys:
        yield f"keys in [{named.section}]:"
        yield from _key_lines(named.keys)
    else:
        yield "  It has no keys of its own."
    if named.takes_more:
        yield f"  Other keys go to the model that {named.takes_more} names."


def _key_lines(keys: Iterable[Key]) -> Iterator[str]:
    for key in keys:
        yield from indented(f"{key.name}: {key.values}; {_default(key.default)}", _width(), 2)
        yield from indented(key.about, _width(), 6)


def _default(default: str) -> str:
    return default if default == "required" else f"default {default}"


def _width() -> int | None:
    """Return the terminal's columns, or None where the output goes elsewhere."""
    return console.width if console.is_terminal else None


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, emoji=False)
