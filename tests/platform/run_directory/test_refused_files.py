"""Files that a person changed or replaced: commands refuse them in a line that names them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atoll.attacks.captures.capture_files import read_capture
from atoll.errors import AtollError, RunDirectoryError
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.run_files import (
    read_config,
    read_engine,
    read_result,
)
from tests.support.runs.changed_files import (
    CAPTURE,
    refused,
    watch_once,
)


@pytest.mark.parametrize("name", ["config.toml", "result.json"])
@pytest.mark.parametrize("how", ["changed", "emptied", "missing"])
def test_report_and_watch_say_that_a_file_is_not_what_was_written(
    name: str, how: str, copy: Path
) -> None:
    path = copy / name
    if how == "changed":
        text = path.read_text()
        path.write_text(text.replace("0.5", "0.9") if "0.5" in text else text.replace("1", "2", 1))
        assert path.read_text() != text
    elif how == "emptied":
        path.write_text("")
    else:
        path.unlink()
    for show in (write_report, watch_once):
        with pytest.raises(RunDirectoryError) as error:
            show(copy)
        if (name, how) != ("config.toml", "missing"):
            refused(error.value, path)


def test_an_attack_on_an_emptied_configuration_ends_at_once(copy: Path) -> None:
    (copy / "config.toml").write_text("")
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match=r"config\.toml: "):
            run_attack(copy, "random-image", lpips=False)
        # As a run of before there were manifests.
        (copy / "manifest.json").unlink(missing_ok=True)


def test_an_attack_on_a_configuration_of_other_images_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    about = copy / CAPTURE / "capture.json"
    (about.parent / "manifest.json").unlink()
    text = json.loads(about.read_text())
    text["federation"]["inputs"]["image_shape"] = [1, 28, 28]
    about.write_text(json.dumps(text))
    truth = about.parent / "truth.safetensors"
    assert truth.exists()
    with pytest.raises(AtollError, match=r"round-000001-node-000001-train: "):
        run_attack(copy, "random-image", lpips=False)


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    for name in ("config.toml", "result.json", "engine.json", f"{CAPTURE}/capture.json"):
        path = copy / name
        path.unlink()
        os.mkfifo(path)
    for read in (read_config, read_result, read_engine, lambda d: read_capture(d / CAPTURE)):
        with pytest.raises(AtollError, match="no regular file"):
            read(copy)
    (copy / "result.json").unlink()
    (copy / "result.json").symlink_to("/dev/zero")
    with pytest.raises(RunDirectoryError, match="no regular file"):
        read_result(copy)


def test_a_table_with_foreign_or_broken_columns_is_refused_by_name(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    path = copy / "rounds.parquet"
    table = pq.read_table(path)
    content = path.read_bytes()
    for changed, problem in (
        (table.rename_columns(["runde", *table.column_names[1:]]), "has 0 columns 'round'"),
        (table.set_column(0, "round", pa.array(["1"])), "'round' is of string; expected int64"),
        (table.set_column(0, "round", pa.array([None], pa.int64())), "'round' has gaps"),
        (
            table.append_column("server_accuracy_x", pa.array(["high"])),
            "'server_accuracy_x' is of string; expected numbers",
        ),
    ):
        pq.write_table(changed, path)
        for show in (write_report, watch_once):
            with pytest.raises(RunDirectoryError, match=rf"rounds\.parquet: .*{problem}"):
                show(copy)
    broken = content.replace(b"server_accuracy", b"server_\xff\xfeccuracy")
    assert broken != content
    path.write_bytes(broken)
    for show in (write_report, watch_once):
        with pytest.raises(RunDirectoryError, match=r"rounds\.parquet: cannot be read"):
            show(copy)
