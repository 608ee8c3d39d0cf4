"""A headless Chromium for tests of pages, where one is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def page_as_rendered(page: Path) -> str:
    """Return a page's document after its scripts have run, as HTML.

    Skips the test where there is no browser.
    """
    return _chromium("--dump-dom", page.resolve().as_uri())


def result_in_page(page: Path, script: str, *, width: int = 1400, is_dark: bool = False) -> Any:
    """Return what a script in a page comes to: the body of an async function, as JSON.

    The page is in a frame, which can be narrower than a window.

    Parameters
    ----------
    page : Path
        The page.
    script : str
        Statements; what they return is the result.
    width : int
        In pixels.
    is_dark : bool
        Whether the system is dark.
    """
    own = (
        f"<script>(async () => {{ {script} }})().then((v) => {{"
        "parent.document.getElementById('result').textContent = JSON.stringify(v);"
        "}, (e) => { parent.document.getElementById('result').textContent ="
        " JSON.stringify(`failed: ${e}`); });</script></body>"
    )
    text = html.escape(page.read_text().replace("</body>", own))
    frame = f'<iframe style="border:0;width:{width}px;height:4000px" srcdoc="{text}"></iframe>'
    with tempfile.TemporaryDirectory(prefix="atoll-page-") as folder:
        outer = Path(folder) / "outer.html"
        outer.write_text(f"<!doctype html><body><pre id='result'></pre>{frame}</body>")
        dark = ("--blink-settings=preferredColorScheme=0",) if is_dark else ()
        document = _chromium(*dark, "--dump-dom", outer.as_uri())
    found = re.search(r"<pre id=.result.>(.*?)</pre>", document, re.DOTALL)
    assert found is not None
    assert found[1], "the page's script has not come to an end"
    return json.loads(html.unescape(found[1]))


def printed(page: Path, out: Path) -> None:
    """Print a page as PDF."""
    _chromium("--no-pdf-header-footer", f"--print-to-pdf={out}", page.resolve().as_uri())


def _chromium(*arguments: str) -> str:
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="atoll-browser-") as profile:
        done = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
                "--window-size=1400,4000",
                f"--user-data-dir={profile}",
                # By this clock of the page's own, what its scripts do is long over.
                "--virtual-time-budget=20000",
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
