"""The server of live pages: loopback alone, under a path that only its URL tells.

Every account of a machine can reach its loopback, and every page that a browser shows can send
requests to it. So a path begins with a secret, requests by another host name are refused (an
attacker's name that resolves to 127.0.0.1), and nothing but GET is answered.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from atoll.errors import EngineError
from atoll.platform.cli.live_page.live_report import LiveReport
from atoll.platform.cli.live_page.views import RunView, View, trial_directories

HOST, HOSTS = "127.0.0.1", {"127.0.0.1", "localhost", "::1"}
SHELL = Path(__file__).with_name("shell.html")
TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png"}
# A comment keeps a connection, and finds out whether there still is one.
KEEP_ALIVE_SECONDS = 10.0
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src data:; connect-src 'self'; frame-src 'self'; "
        "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveServer(ThreadingHTTPServer):
    """Serves the report of a run, sweep or arena, and of a sweep's trials.

    Parameters
    ----------
    view : View
        What is shown.
    port : int
        The port; 0 is any that is free.
    every : float
        Seconds between looks at the directory, while a browser shows the page.

    Raises
    ------
    EngineError
        If the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, view: View, port: int = 0, every: float = 2.0) -> None:
        self.every = every
        self.stopping = threading.Event()
        self.secret = secrets.token_urlsafe(16)
        self._view = view
        self._lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="atoll-watch-"))
        self._reports: dict[str, LiveReport] = {}
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise EngineError(
                f"--port = {port}: cannot be had on {HOST} ({error.strerror or error}); expected "
                "a free port, or 0 for any"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/{self.secret}/"

    def report(self, trial: str) -> LiveReport | None:
        """Return the report of a trial by the name of its directory; of all, by no name."""
        with self._lock:
            if trial in self._reports:
                return self._reports[trial]
            view = self._view
            if trial:
                directories = trial_directories(self._view.directory)
                if trial not in directories:
                    return None
                view = RunView(directories[trial])
            # A report has the name of its folder.
            folder = self._folder / str(len(self._reports)) / view.directory.resolve().name
            folder.mkdir(parents=True)
            self._reports[trial] = LiveReport(view, folder)
            return self._reports[trial]

    def server_close(self) -> None:
        """End, and take away what was written."""
        self.stopping.set()
        super().server_close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers requests: the page, its events, and the report that it shows."""

    server: LiveServer
    server_version = "atoll"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in HOSTS:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = unquote(urlsplit(self.path).path)
        secret, _, rest = path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        trial = ""
        if rest.startswith("trials/"):
            trial, _, rest = rest.removeprefix("trials/").partition("/")
        report = self.server.report(trial)
        if report is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif not rest:
            self._send(SHELL)
        elif rest == "events":
            self._stream(report)
        else:
            area, _, name = rest.partition("/")
            found = report.file(name) if area == "report" else None
            if found is None:
                self._refuse(HTTPStatus.NOT_FOUND)
            else:
                self._send(found)

    def _send(self, path: Path) -> None:
        content = path.read_bytes()
        self._head(HTTPStatus.OK, TYPES[path.suffix], len(content))
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus) -> None:
        content = f"{status.phrase}\n".encode()
        self._head(status, "text/plain; charset=utf-8", len(content))
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream(self, report: LiveReport) -> None:
        """Send the state whenever it has changed, until the browser goes or the server ends."""
        self._head(HTTPStatus.OK, "text/event-stream", None)
        sent, silent = "", 0.0
        try:
            while True:
                state = json.dumps(report.state())
                if state != sent or silent >= KEEP_ALIVE_SECONDS:
                    line = f"data: {state}\n\n" if state != sent else ": still here\n\n"
                    self.wfile.write(line.encode())
                    self.wfile.flush()
                    sent, silent = state, 0.0
                if self.server.stopping.wait(self.server.every):
                    return
                silent += self.server.every
        except (BrokenPipeError, ConnectionResetError):
            return

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write nothing: a line for each request would hide the URL."""
