"""Tells what another Flower moved: the conformance apps on two versions of stock Flower.

    pip install --target /tmp/other --no-deps flwr==1.41.0
    python -m tests.support.conformance.moved --path /tmp/other [APP ...]

prints, for each app, what it showed otherwise than on the installed Flower. ``--python`` takes
another environment's interpreter instead, for a Flower whose dependencies differ. Atoll has no part
in it: what it must follow is told by the tests, run with the other Flower installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.conformance.app_cases import ALL
from tests.support.conformance.comparison import differences
from tests.support.conformance.two_engines import run_on_stock


def main() -> int:
    """Compare the two versions, and return the number of apps that differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the other interpreter")
    parser.add_argument("--path", default="", help="a folder with the other Flower")
    parser.add_argument("apps", nargs="*", help="names of apps; all by default")
    options = parser.parse_args()
    cases = [case for case in ALL if not options.apps or case.name in options.apps]
    with tempfile.TemporaryDirectory() as folder:
        here = run_on_stock(cases, Path(folder) / "here")
        there = run_on_stock(cases, Path(folder) / "there", options.python, options.path)
    moved = 0
    for case in cases:
        found = differences(case, here[case.name], there[case.name], names=("here", "there"))
        moved += bool(found)
        print("\n".join([f"{case.name}: {'moved' if found else 'as before'}", *found]), flush=True)
    print(f"{moved} of {len(cases)} apps differ")
    return moved


if __name__ == "__main__":
    sys.exit(min(main(), 100))
