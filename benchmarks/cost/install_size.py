"""Size of an installation: what Atoll and each of its extras bring, without bytecode.

The distributions that this environment has are counted as their wheels list them, so a CUDA build
of PyTorch counts only where it is installed. ``pip install`` is not run.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.paths import ROOT

LARGEST = 12


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the distributions that requirements bring, by the metadata of those installed."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            name = canonicalize_name(requirement.name)
            if (name, extra) in found:
                continue
            found.add((name, extra))
            for text in metadata.requires(name) or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return {name for name, _ in found}


def size_of(name: str) -> float:
    """Return a distribution's size in MiB."""
    files = [file.locate() for file in metadata.files(name) or () if file.suffix != ".pyc"]
    return sum(Path(file).stat().st_size for file in files if Path(file).is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT / "pyproject.toml")
    arguments = parser.parse_args()
    project = tomllib.loads(arguments.project.read_text())["project"]
    base = closure(project["dependencies"])
    sizes = {name: size_of(name) for name in base}
    print("| installation | distributions | MiB |\n|---|---|---|")
    print(f"| `atoll` | {len(base)} | {sum(sizes.values()):.0f} |")
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("all", "dev", "docs"):
            more = closure(requirements) - base
            print(f"| `atoll[{extra}]` | + {len(more)} | + {sum(map(size_of, more)):.0f} |")
    print("\nThe largest of a plain installation:")
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]:
        print(f"  {sizes[name]:6.1f} MiB  {name}")


if __name__ == "__main__":
    main()
