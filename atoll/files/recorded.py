"""Writing of files that are recorded in their folder's manifest.

The manifest is written first, with what the file was and what it will be, and then the file: a
process may be killed, or another may read, at any moment. What grows, a run's tables, is released
from the manifest while it grows, and sealed when it no longer does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atoll.files.atomic import atomic_file, replacing, write_text
from atoll.files.manifests import MANIFEST, Manifest, sha256_of_file

# What a folder without a manifest is given one of when something is written to it.
SETTLED = (".json", ".toml")
States = dict[str, tuple[str | None, ...]]


def write_recorded_json(path: Path, value: Any) -> None:
    """Write a JSON file, as a whole, and its hash before."""
    write_recorded_text(path, json.dumps(value, indent=2) + "\n")


def write_recorded_text(path: Path, text: str) -> None:
    """Write a text file, as a whole, and its hash before."""
    with _recorded(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_recorded_rows(
    path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema | None = None
) -> None:
    """Write rows as a Parquet file, as a whole, and its hash before."""
    with _recorded(path) as partial:
        pq.write_table(
            pa.Table.from_pylist(list(rows), schema=schema), partial, write_page_checksum=True
        )


@contextmanager
def _recorded(path: Path) -> Iterator[Path]:
    """Yield a name to write to; when the block ends, its hash is recorded and it is ``path``."""
    with replacing(path) as partial:
        yield partial
        new = sha256_of_file(partial)
        _update(path.parent, {path.name: (*_present(path), new)})
    _settle(path, (new,))


def remove_recorded(path: Path) -> None:
    """Take a file away, if it is there."""
    if path.exists():
        _update(path.parent, {path.name: (*_present(path), None)})
        path.unlink(missing_ok=True)
        _settle(path, ())


def release(folder: Path, names: Sequence[str]) -> None:
    """Let files change that the manifest has, until they are sealed."""
    manifest = Manifest.read(folder)
    if manifest is not None and any(name in manifest.files for name in names):
        _update(folder, dict.fromkeys(names, ()))


def seal_files(folder: Path, names: Sequence[str]) -> None:
    """Record files that no longer change, those that are there."""
    manifest = _manifest_of(folder)
    there = [name for name in names if (folder / name).is_file()]
    states: States = {name: (sha256_of_file(folder / name),) for name in there}
    if any(manifest.files.get(name) != each for name, each in states.items()):
        _update(folder, states)


def _present(path: Path) -> tuple[str | None]:
    return (sha256_of_file(path) if path.is_file() else None,)


def _update(folder: Path, states: States) -> None:
    states = {name: tuple(dict.fromkeys(each)) for name, each in states.items()}
    text = _manifest_of(folder).with_states(states).to_json()
    write_text(folder / MANIFEST, text)


def _settle(path: Path, states: tuple[str | None, ...]) -> None:
    """Forget what a file was before.

    Nothing is lost if this does not outlast a loss of power: what was allowed before is, then.
    """
    manifest = path.with_name(MANIFEST)
    text = _manifest_of(path.parent).with_states({path.name: states}).to_json()
    with atomic_file(manifest, sync=False) as partial:
        partial.write_text(text, encoding="utf-8")


def _manifest_of(folder: Path) -> Manifest:
    """Return a folder's manifest; of one that has none, what it would have been at present."""
    found = Manifest.read(folder)
    if found is not None:
        return found
    paths = folder.iterdir() if folder.is_dir() else ()
    settled = [p for p in paths if p.suffix in SETTLED and p.is_file() and p.name[0] != "."]
    return Manifest({path.name: (sha256_of_file(path),) for path in settled})
