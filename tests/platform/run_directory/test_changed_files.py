"""Files that are not what they were: each kind is flipped, cut, emptied, nested and bereft of keys.

With its manifest a file means what it meant, or is refused in a line that names it. Without one (as
files of earlier versions are) it has a shape that its readers can work with, or is refused so.
Hypothesis tries some dozens of each; ``ATOLL_FUZZ_EXAMPLES=10000`` tries more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.attacks.capture_validation.replay import diagnose_capture
from atoll.errors import AtollError
from atoll.platform.cli.watching.run_standing import read_info
from atoll.platform.reports.run_report import headline, write_report
from atoll.platform.run_directory.run_config import load_run_config
from tests.support.runs.changed_files import (
    CAPTURE,
    EXAMPLES,
    FUZZ,
    KINDS,
    damage,
    is_text,
    odd_value,
    plain,
    refused,
    watch_once,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 4 * EXAMPLES)]


@pytest.mark.parametrize("name", KINDS)
@given(change=damage())
@FUZZ
def test_with_its_manifest_a_file_means_what_it_meant_or_is_refused(
    name: str, whole: Path, copy: Path, meaning: dict[str, str], change: Callable[[bytes], bytes]
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    path.write_bytes(change(content))
    try:
        assert repr(plain(kind.read(copy))) == meaning[name]
    except AtollError as error:
        refused(error, path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("folder", [".", CAPTURE, "sweep", "jobs/key"])
@given(change=damage())
@FUZZ
def test_a_changed_manifest_is_refused_or_changes_nothing(
    folder: str, whole: Path, copy: Path, meaning: dict[str, str], change: Callable[[bytes], bytes]
) -> None:
    path = copy / folder / "manifest.json"
    content = (whole / folder / "manifest.json").read_bytes()
    path.write_bytes(change(content))
    try:
        for name, kind in KINDS.items():
            if (copy / kind.path).parent == path.parent:
                assert repr(plain(kind.read(copy))) == meaning[name]
    except AtollError as error:
        refused(error, path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.has_manifest])
@given(data=st.data())
@FUZZ
def test_without_a_manifest_a_file_has_a_usable_shape_or_is_refused(
    name: str, whole: Path, copy: Path, data: st.DataObject
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    (path.parent / "manifest.json").unlink(missing_ok=True)
    change = data.draw(damage() | odd_value() if is_text(name) else damage())
    path.write_bytes(change(content))
    try:
        kind.read(copy)
        if name == "config":
            load_run_config(copy)
        if name in ("config", "engine"):
            read_info(copy)
        if name in ("capture", "messages", "truth", "true images"):
            diagnose_capture(copy / CAPTURE)
    except AtollError as error:
        if name != "config":
            refused(error, path)
    finally:
        path.write_bytes(content)


SHOWN = ("config", "engine", "result", "partition", "rounds", "clients")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
@given(data=st.data())
@settings(FUZZ, max_examples=max(5, EXAMPLES // 5))
def test_report_and_watch_end_with_nothing_but_an_error_of_ours(
    name: str, whole: Path, copy: Path, data: st.DataObject
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    (copy / "manifest.json").unlink(missing_ok=True)
    change = data.draw(odd_value() | damage() if is_text(name) else damage())
    path.write_bytes(change(content))
    try:
        for show in (write_report, headline, watch_once):
            try:
                show(copy)
            except AtollError as error:
                refused(error, path)
    finally:
        path.write_bytes(content)
