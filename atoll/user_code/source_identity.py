"""The user's own code in a run: which source files it comes from, and their hashes.

An experiment may name ``module:attribute`` for its model, strategy or mods, and a Flower app is
code altogether. Those modules are followed through what they import, as far as that lies beside
them; what is installed is known by its version.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from atoll.user_code.main_module import MAIN, main_hashes
from atoll.user_code.trust import locate

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
INSTALLED = ("site-packages", "dist-packages")


def references_in(value: Any) -> Iterator[str]:
    """Yield every ``module:attribute`` in an experiment's tables."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references_in(item)
    elif isinstance(value, str) and REFERENCE.fullmatch(value):
        yield value


def source_hashes(references: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the source of each module that the references resolve to, by its name.

    Parameters
    ----------
    references : Iterable[str]
        ``module:attribute``; their modules can be imported. Modules of Atoll's, and such as have
        no source, are left out. Of ``__main__`` each reference has a hash of its own.
    """
    found: dict[str, Path] = {}
    references = list(references)
    for reference in references:
        name = reference.partition(":")[0]
        if name.partition(".")[0] in ("atoll", MAIN):
            continue
        path = _source_of(name)
        if path is not None:
            is_package = path.name == "__init__.py"
            root = path.parents[name.count(".") + is_package]
            _follow(name, root, found)
            found[name] = path
    hashes = {n: hashlib.sha256(found[n].read_bytes()).hexdigest() for n in sorted(found)}
    return {**hashes, **main_hashes(references)}


def _source_of(name: str) -> Path | None:
    """Return a module's source file; not even its packages are imported."""
    path = locate(name)
    return path if path is not None and path.suffix == ".py" else None


def _follow(name: str, root: Path, found: dict[str, Path]) -> None:
    """Add a module below ``root`` and all that it imports from there."""
    waiting = [name]
    while waiting:
        name = waiting.pop()
        path = _below(root, name)
        if path is None or name in found:
            continue
        found[name] = path
        if not any(part in INSTALLED for part in path.parts):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += _imported(path, package)


def _below(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if name and path.is_file():
            return path
    return None


def _imported(path: Path, package: str) -> Iterator[str]:
    """Yield the names that a source file may import modules by."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            # Importing a.b imports a, too.
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
