"""Reports in a real browser: names with markup are text, and no script of theirs runs."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.reports.arena_report import write_arena_report
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.ledger import Ledger
from tests.support.runs.browser import page_as_rendered

pytestmark = pytest.mark.timeout(300)

# What runs, if a page takes it for markup, changes the page's title.
ATTACKS = {
    "script": "<script>document.title='RAN'</script>",
    "image": "<img src=x onerror=document.title='RAN'>",
    "ends": "</script><script>document.title='RAN'</script>",
    "attribute": '" onmouseover="document.title=\'RAN\'" x="',
    "link": "<a href=\"javascript:document.title='RAN'\">link</a>",
    "bold": "<b>bold</b> & <i>it</i>",
}
# Which of these appear as elements only if a name was taken for markup.
ELEMENTS = re.compile(r"<(img|a|b|i)[\s>][^>]*(onerror|javascript:|>bold|>it)", re.IGNORECASE)


def check(page: Path, shown: dict[str, int]) -> None:
    """Assert that nothing ran and that each name shows literally at least so often."""
    document = page_as_rendered(page)
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert title is not None
    assert "RAN" not in html.unescape(title[1]).replace("'RAN'", "")
    body = re.sub(r"<(script|style)\b.*?</\1>", "", document, flags=re.DOTALL)
    assert not ELEMENTS.search(body), ELEMENTS.search(body)
    # Text of the page and of figures: tspans of one line are joined.
    text = html.unescape(re.sub(r"<[^>]*>", "", body))
    for name, least in shown.items():
        assert text.count(ATTACKS[name]) >= least, f"{name} shows {text.count(ATTACKS[name])} times"


def a_round(number: int) -> RoundRecord:
    return RoundRecord(
        server_round=number,
        num_rounds=2,
        seconds=0.5,
        cohort=2,
        replies=1,
        errors=1,
        examples=20,
        train_metrics={"loss": 1.0},
        evaluate_metrics={"accuracy": 0.5},
        server_metrics={
            "accuracy": 0.5,
            "per-class-accuracy": [0.1 * n for n in range(1, 7)],
            **{f"accuracy_{name}": 0.5 for name in ATTACKS.values()},
        },
        bytes_down=1,
        bytes_up=1,
        clients={
            "round": [number, number],
            "phase": ["train", "train"],
            "node_id": [1, 2],
            "status": ["ok", "error"],
            "reason": [None, ATTACKS["script"] + ATTACKS["image"]],
            "worker": [ATTACKS["image"], ATTACKS["bold"]],
            "seconds": [1.0, 1.0],
            "loss": [1.0, None],
        },
    )


@pytest.mark.slow
def test_the_report_of_a_run_shows_names_with_markup_as_text(tmp_path: Path) -> None:
    directory = tmp_path / "run <img src=x onerror=document.title='RAN'>"
    config = f"[run]\nname = '''{ATTACKS['script']}'''\n"
    ledger = Ledger.create(directory, config)
    names = list(ATTACKS.values())
    write_recorded_json(
        directory / "partition.json",
        {
            "clients": [0],
            "classes": names,
            "domains": names,
            "training_domains": names[:3],
            "held_out": names[3:],
            "histogram": [[1] * len(names)],
        },
    )
    for number in (1, 2):
        ledger.on_round(a_round(number))
    ledger.close()
    # In the legend of the domains, the axes of both figures of classes, and elsewhere.
    check(write_report(directory), dict.fromkeys(ATTACKS, 3))


def rows() -> list[dict[str, Any]]:
    return [
        {
            "key": f"{attack}-{node}",
            "setting": ATTACKS["script"],
            "round": 1,
            "seed": 0,
            "node_id": node,
            "attack_label": attack,
            "attack": attack,
            "knowledge": "naive",
            "defense": defense,
            "threat": ATTACKS["link"],
            "label_source": ATTACKS["attribute"],
            "accuracy": 0.5,
            "image": 0,
            "psnr": 10.0 + node,
            "ssim": 0.5,
            "lpips": None,
            "mse": 0.1,
            "identified": True,
            "label_accuracy": 1.0,
        }
        for attack in (ATTACKS["image"], ATTACKS["ends"])
        for defense in (ATTACKS["bold"], ATTACKS["script"])
        for node in (1, 2)
    ]


@pytest.mark.slow
def test_the_report_of_an_arena_shows_names_with_markup_as_text(tmp_path: Path) -> None:
    page = write_arena_report(tmp_path, rows(), ATTACKS["image"], {})
    check(page, {"image": 2, "ends": 2, "bold": 5, "script": 3, "link": 2, "attribute": 2})
