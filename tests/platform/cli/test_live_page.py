"""``atoll watch --web``: live reports in a real browser, of what really runs; and who may ask."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from atoll.errors import EngineError, RunDirectoryError
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cli.live_page.live_report import LiveReport
from atoll.platform.cli.live_page.server import LiveServer
from atoll.platform.cli.live_page.views import RunView, view_of
from atoll.platform.run_directory.ledger import Ledger
from tests.platform.arenas.test_arena_plan import ARENA
from tests.support.paths import ROOT
from tests.support.runs.live_browser import LiveBrowser

EXPERIMENT = """
run = { name = "live", rounds = 120, seed = 1 }
data = { dataset = "digits", clients = 8 }
model = { name = "mlp", hidden = [16] }
strategy = { name = "FedAvg", fraction_train = 0.5, fraction_evaluate = 0.5 }
"""
SWEEP = """
[sweep]
parallel = 1
[sweep.grid]
run.seed = [1, 2]
"""
# Of the report that is shown: its text, and how far it is scrolled.
SHOWN = "document.querySelector('iframe.shown')"
REPORT = f"{SHOWN} && {SHOWN}.contentDocument.body.innerText"


@contextmanager
def running(command: str, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """A command in the background, which succeeds."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "atoll", *command.split()],
            cwd=folder,
            env={**env, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
        try:
            yield
            assert process.wait(200) == 0, (folder / "log").read_text()
        finally:
            process.kill()
            process.wait()


@contextmanager
def watched(directory: Path, env: dict[str, str]) -> Iterator[str]:
    """The URL of a page that is served, and the end of it by ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "atoll", "watch", str(directory), "--web", "--every", "0.3"],
        stdout=subprocess.PIPE,
        text=True,
        env={**env, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        found = None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
                break
        assert found is not None
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0].split() == ["ended"]
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_resumed_run_is_shown(tmp_path: Path, joining: dict[str, str]) -> None:
    (tmp_path / "live.toml").write_text(EXPERIMENT)
    out = tmp_path / "run"
    with LiveBrowser() as browser, running("run live.toml --out run", tmp_path, joining):
        with watched(out, joining) as url:
            browser.open(url)
            early = int(browser.wait_until(f"({REPORT} || '').match(/rounds\\s+(\\d+)/)?.[1]"))
            assert not (out / "report.html").exists()
            assert early < 120
            browser.evaluate(f"{SHOWN}.contentWindow.scrollTo(0, 300), window.stayed = true")
            browser.wait_until(
                f"+({REPORT} || '').match(/rounds\\s+(\\d+)/)?.[1] > {early} "
                f"&& document.title.includes('running')"
            )
            assert browser.evaluate(f"{SHOWN}.contentWindow.scrollY") == 300
            browser.wait_until("document.title == 'run: finished, 120 rounds'")
            browser.wait_until(f"/rounds\\s+120/.test({REPORT})")
            alone = browser.evaluate("document.getElementById('alone').href")
            assert re.fullmatch(rf"{re.escape(url)}report/\?[0-9]+", alone)
            # All this in one page, that was never loaded again.
            assert browser.evaluate(
                "window.stayed && document.getElementById('problem').innerText == ''"
            )
        browser.wait_until("document.getElementById('problem').innerText.includes('has ended')")
    assert (out / "report.html").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_is_a_table_of_trials_that_leads_to_their_reports(
    tmp_path: Path, joining: dict[str, str]
) -> None:
    (tmp_path / "sweep.toml").write_text(EXPERIMENT.replace("120", "150") + SWEEP)
    row = "document.querySelectorAll('#parts tbody tr')"
    with (
        LiveBrowser() as browser,
        running(f"sweep sweep.toml --out {tmp_path}/out", tmp_path, joining),
    ):
        with watched(tmp_path / "out", joining) as url:
            browser.open(url)
            browser.wait_until(f"/round \\d+\\/150/.test({row}[0]?.innerText)")
            assert "waiting" in browser.evaluate(f"{row}[1].innerText")
            link = browser.evaluate(f"{row}[0].querySelector('a').href")
            browser.wait_until("document.title.includes('1 of 2 trials ended')")
            assert "seed" in browser.wait_until(REPORT)
            browser.open(link)
            browser.wait_until(f"/rounds\\s+150/.test({REPORT})")
            browser.open(url)
            browser.wait_until("document.title == 'out: 2 of 2 trials ended'")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_an_arena_is_its_federations_and_the_attacks_so_far(
    tmp_path: Path, joining: dict[str, str]
) -> None:
    (tmp_path / "arena.toml").write_text(ARENA)
    with (
        LiveBrowser() as browser,
        running(f"arena arena.toml --out {tmp_path}/out", tmp_path, joining),
    ):
        with watched(tmp_path / "out", joining) as url:
            browser.open(url)
            browser.wait_until("/\\d of 3 federations ended/.test(document.title)")
            so_far = browser.wait_until(
                "document.title.match(/3 of 3 federations ended, (\\d+) of 14 attacks/)?.[1]", 200
            )
            assert int(so_far) < 14
            browser.wait_until("document.title.endsWith('14 of 14 attacks ended')")
            browser.wait_until(f"({REPORT} || '').includes('ig (adaptive)')")
    assert (tmp_path / "out" / "report" / "index.html").exists()


# --- who may ask ---------------------------------------------------------------------------------


def a_round(number: int) -> RoundRecord:
    return RoundRecord(number, 2, 0.5, 2, 2, 0, 20, server_metrics={"accuracy": number / 2})


def begin(directory: Path) -> Ledger:
    ledger = Ledger.create(directory, '[run]\nname = "small"\n')
    ledger.on_start(RunInfo("small", directory, 2, 1, 1, 2, 10, "FedAvg"))
    ledger.on_round(a_round(1))
    ledger.flush()
    return ledger


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    begin(tmp_path / "run")
    with LiveServer(view_of(tmp_path / "run"), every=0.1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: LiveServer, path: str, *, host: str | None = None, method: str = "GET"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = "" if path.endswith("events") else answer.read().decode()
    connection.close()
    return answer.status, text


def test_only_this_machine_is_answered_and_only_below_the_secret(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    home = urlsplit(server.url).path
    assert ask(server, home)[0] == 200
    # Another port is that of a tunnel.
    for host in ("localhost:9000", "127.0.0.1", "[::1]:80"):
        assert ask(server, home, host=host)[0] == 200
    for host in ("example.org", "127.0.0.1.example.org:80", "localhost@example.org", "10.0.0.1"):
        assert ask(server, home, host=host) == (421, "Misdirected Request\n")
    for path in ("/", "/events", "/guess/", "/report/"):
        assert ask(server, path)[0] == 404
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert ask(server, home, method=method)[0] == 501


def test_nothing_is_served_but_the_report_and_its_pictures(server: LiveServer) -> None:
    home = urlsplit(server.url).path
    report = server.report("")
    assert report is not None
    assert ask(server, f"{home}report/")[0] == 404  # Not made yet.
    assert report.state()["version"] == 1
    status, page = ask(server, f"{home}report/?1")
    assert status == 200
    assert "small" in page
    for name in ("config.toml", "../run/config.toml", "%2e%2e/run/config.toml", "/etc/passwd"):
        assert ask(server, f"{home}report/{name}")[0] == 404
    for path in ("trials/other/", "trials/..%2f/", "trials//../", "shell.html"):
        assert ask(server, f"{home}{path}")[0] == 404


def test_a_port_that_is_taken_is_named(server: LiveServer, tmp_path: Path) -> None:
    port = server.server_address[1]
    with pytest.raises(EngineError, match=f"--port = {port}: cannot be had"):
        LiveServer(view_of(tmp_path / "run"), port)


def test_what_is_served_is_taken_away_at_the_end(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with LiveServer(view_of(tmp_path / "run")) as server:
        report = server.report("")
        assert report is not None
        report.state()
        page = report.file("")
        assert page is not None
        assert page.is_file()
    assert not page.exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_report_is_made_again_when_there_is_news_and_not_too_soon(tmp_path: Path) -> None:
    ledger, now = begin(tmp_path / "run"), [0.0]

    class Slow(RunView):
        """Takes four seconds to make its report."""

        def write(self, folder: Path) -> Path | None:
            now[0] += 4.0
            return super().write(folder)

    folder = tmp_path / "pages" / "run"
    folder.mkdir(parents=True)
    report = LiveReport(Slow(tmp_path / "run"), folder, clock=lambda: now[0])
    assert [report.state()["version"] for _ in range(3)] == [1, 1, 1]
    ledger.on_round(a_round(2))
    ledger.flush()
    assert report.state()["version"] == 1
    now[0] += 12.0  # A quarter of the time at most.
    state = report.state()
    assert (state["version"], state["text"]) == (2, "running, round 2 of 2")
    (tmp_path / "run" / "clients.parquet").write_bytes(b"damaged")
    (tmp_path / "run" / "rounds.parquet").write_bytes(b"damaged")
    now[0] += 12.0
    state = report.state()
    assert state["version"] == 2
    assert "rounds.parquet: " in state["problem"]
    page = report.file("")
    assert page is not None
    assert "small" in page.read_text()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no run, sweep or arena directory"):
        view_of(tmp_path)
