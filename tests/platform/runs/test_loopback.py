"""A run serves nobody but this machine."""

from __future__ import annotations

import tempfile

import pytest

from tests.support.runs.code_process import in_a_process


@pytest.mark.long
@pytest.mark.ray
def test_a_run_listens_on_loopback_only() -> None:
    code = """
        import os, psutil, tempfile
        os.environ.pop("RAY_ADDRESS", None)
        from pathlib import Path
        from atoll.platform.config.experiment import Experiment
        from atoll.platform.runs.federation_run import run

        def look(record):
            found = set()
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                for connection in process.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found.add(f"{connection.laddr.ip} {process.name()}")
            print("LISTENS", *sorted(found), sep=";")

        tables = {
            "run": {"rounds": 1},
            "data": {"dataset": "digits", "clients": 2},
            "model": {"name": "linear"},
            "ray": {"workers": 1},
        }
        with tempfile.TemporaryDirectory() as folder:
            run(Experiment.from_dict(tables), out=Path(folder) / "run", callbacks=[look])
    """
    # A folder of its own, so that no other Ray of this machine is taken for ours.
    output = in_a_process(code, RAY_TMPDIR=tempfile.mkdtemp(prefix="r"))
    [line] = [line for line in output.splitlines() if line.startswith("LISTENS")]
    servers = line.split(";")[1:]
    loopback = ("127.0.0.1 ", "::1 ", "::ffff:127.0.0.1 ")
    assert servers
    assert [server for server in servers if not server.startswith(loopback)] == []
