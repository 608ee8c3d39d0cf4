"""The arena's report, as somebody reads it who decides about a federation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from atoll.attacks.arena.arena_summary import cells_of
from atoll.attacks.arena.paired_tests import Interval
from atoll.platform.reports.arena.conclusion import (
    disagreements,
    findings,
    sentences,
    share_interval,
    warnings,
)
from atoll.platform.reports.arena.facts import ArenaFacts, Privacy, threats_of
from atoll.platform.reports.arena_report import write_arena_report
from tests.support.runs.browser import result_in_page

FACTS = ArenaFacts(
    {
        "arena": {
            "candidates": 50,
            "sums": ["secagg"],
            "attacks": {"dlg": {"steps": 60}},
            "defenses": {"none": {}, "noise": {"client": {"mods": ["dp-sgd"]}}, "secagg": {}},
        },
        "data": {"dataset": "digits"},
    },
    {("as in the file", "noise"): Privacy(7.08, 1e-5)},
    classes=10,
    versions={"torch": "2.9"},
    failed={"rog-1": "needs public data"},
)


def row(attack: str, defense: str, node: int, found: bool, psnr: float, accuracy: float = 0.9):
    return {
        "key": f"{attack}-{defense}-{node}",
        "setting": "as in the file",
        "round": 1,
        "seed": 0,
        "node_id": node,
        "attack_label": attack,
        "attack": attack,
        "knowledge": "naive",
        "defense": defense,
        "threat": "informed eavesdropper (defense, training)",
        "label_source": "inferred",
        "accuracy": accuracy,
        "image": 0,
        "psnr": psnr,
        "ssim": 0.5,
        "lpips": None,
        "mse": 0.1,
        "identified": found,
        "label_accuracy": 1.0,
    }


def rows() -> list[dict[str, Any]]:
    nodes = range(1, 5)
    return [
        *(row("idlg", "none", node, node < 4, 20.0) for node in nodes),
        *(row("rog", "none", node, node < 2, 30.0) for node in nodes),
        *(row("class-mean", "none", node, False, 12.0) for node in nodes),
        *(row("idlg", "noise", node, False, 6.0, 0.14) for node in nodes),
        *(row("class-mean", "noise", node, node < 2, 12.0, 0.14) for node in nodes),
        row("idlg", "secagg", 0, True, 20.0),
    ]


def test_the_conclusion_counts_examples_and_states_cost_and_epsilon() -> None:
    cells = cells_of(rows())
    found = findings(cells, rows(), FACTS)
    plain, noise, summed = sentences(found, FACTS)
    assert plain.startswith("Without a defense, the strongest attack is idlg on round 1: ")
    assert re.search(r"identifies 3 of 4 examples \(75 %, 95 % interval \d+ % to 100 %\)", plain)
    assert "of 4 clients' updates. The highest baseline, class-mean: 0 %" in plain
    assert "an accuracy of 0.900." in plain
    assert "idlg on round 1: it identifies 0 of 4 examples (0 %" in noise
    assert "an accuracy of 0.140, -0.760 against no defense." in noise
    assert noise.endswith("Clients have spent epsilon = 7.08 (delta = 1e-05).")
    assert "1 of 1 examples (100 %, no interval, of one update), of 1 sum of clients'" in summed


def test_what_limits_it_is_said() -> None:
    cells = cells_of(rows())
    said = " ".join(warnings(cells, findings(cells, rows(), FACTS), FACTS))
    assert "1 federations or attacks failed" in said
    assert "needs public data" in said
    assert "no better than chance (accuracy within 0.05 of 1/10 = 0.100): noise (0.140)" in said
    assert "Against noise even the strongest attack identifies no more examples than" in said
    assert "1 of 4 results of attacks are at or below their baseline by PSNR" in said
    [disagreement] = disagreements(cells, "psnr")
    assert "by PSNR rog (30.0 dB, 25 %) is stronger, by identification idlg" in disagreement


@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_where_all_agree_is_clopper_and_pearsons(count: int, share: float) -> None:
    exact = binomtest(int(share * count), count).proportion_ci(0.95, "exact")
    own = share_interval(Interval(share, share, share, count))
    assert own == pytest.approx((exact.low, exact.high))
    assert share_interval(Interval(0.5, 0.2, 0.8, count)) == (0.2, 0.8)


def test_threats_are_in_plain_words() -> None:
    [[name, kind, words], *_] = threats_of(rows(), FACTS)
    assert (name, kind) == ("idlg", "informed eavesdropper")
    assert "knows which defense acts" in words
    assert "knows how clients train" in words


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_beyond_the_right_edge(tmp_path: Path, width: int) -> None:
    page = write_arena_report(tmp_path, rows(), "idlg", {}, FACTS)
    text = page.read_text()
    for said in ("no guarantee", "7.08 (delta = 1e-05)", "steps = 60", "torch", "Definitions"):
        assert said in text
    assert len(text) < 120_000
    script = """
    const all = [...document.querySelectorAll('main *')].filter((e) => !e.closest('.table, pre'));
    const page = document.documentElement;
    return [page.scrollWidth - page.clientWidth,
      all.filter((e) => e.getBoundingClientRect().right > page.clientWidth + 1).length];
    """
    assert result_in_page(page, script, width=width) == [0, 0]
