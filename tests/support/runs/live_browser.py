"""A headless Chromium that stays: pages that change while a test looks at them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.runs.browser import NAMES


class LiveBrowser:
    """One page in a browser, asked by Chromium's debugging protocol over a pair of pipes.

    Skips the test where there is no browser.
    """

    def __init__(self, *options: str) -> None:
        browser = next((found for name in NAMES if (found := shutil.which(name))), None)
        if browser is None:
            pytest.skip("no Chromium is installed (apt-get install chromium)")
        self._profile = tempfile.mkdtemp(prefix="atoll-browser-")
        (commands, self._commands), (self._replies, replies) = os.pipe(), os.pipe()

        def as_three_and_four() -> None:
            # By way of high numbers: one of the two may be 3 or 4 itself.
            os.dup2(os.dup2(commands, 100), 3)
            os.dup2(os.dup2(replies, 101), 4)

        self._process = subprocess.Popen(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1400,1000",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._profile}",
                *options,
                "about:blank",
            ],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(replies)
        self._buffer, self._number, self._session = b"", 0, ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        said = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait_until(self, script: str, seconds: float = 120) -> Any:
        """Return the value of an expression in the page as soon as it is true."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if value := self.evaluate(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"was never true: {script}")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                read = os.read(self._replies, 1 << 20)
                assert read, "the browser has ended"
                self._buffer += read
            line, _, self._buffer = self._buffer.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._commands)
        self._process.terminate()
        self._process.wait(30)
        os.close(self._replies)
        shutil.rmtree(self._profile, ignore_errors=True)
