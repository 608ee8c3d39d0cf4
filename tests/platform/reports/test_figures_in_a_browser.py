"""What a page's figures do in a real browser: fit, be saved, follow the system, show a client."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.reports.figures.drawing import axis_range, figures_json, late_range, lines
from atoll.platform.reports.membership_report import write_membership_report
from atoll.platform.reports.run_report import write_report
from atoll.platform.reports.tables import Table
from atoll.platform.run_directory.ledger import Ledger
from tests.support.runs.browser import result_in_page

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[run]
seed = 7
[data]
dataset = "digits"
clients = 4
held_out = []
partition = { name = "dirichlet", alpha = 0.5 }
[model]
name = "mlp"
hidden = [32]
[client]
learning_rate = 0.1
mods = [{ name = "dp-sgd", noise_multiplier = 2.0, delta = 1e-4 }]
[strategy]
name = "CORAL"
penalty_weight = 2.0
[versions]
python = "3.12.0"
torch = "2.9"
"""

# Boxes of what is drawn: of legends and of axes, in each figure.
OVERLAPS = """
const boxes = [];
for (const svg of document.querySelectorAll('svg.figure')) {
  const entries = [...svg.querySelectorAll('.entry')].map((e) => e.getBoundingClientRect());
  const others = [...svg.querySelectorAll('text.tick, text.title, path, line.axis, rect.cell')]
    .filter((e) => !e.closest('.entry')).map((e) => e.getBoundingClientRect());
  const all = svg.getBoundingClientRect();
  const cover = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  boxes.push({
    title: svg.getAttribute('aria-label'),
    covered: entries.some((a, i) => others.some((b) => cover(a, b))
      || entries.some((b, j) => j > i && cover(a, b))),
    outside: entries.some((a) => a.right > all.right + 1 || a.bottom > all.bottom + 1),
  });
}
return {
  beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth, boxes,
};
"""


def a_round(number: int) -> RoundRecord:
    nodes = [1, 2, 3, 4]
    accuracy = 1 - 0.9**number
    return RoundRecord(
        server_round=number,
        num_rounds=20,
        seconds=0.5,
        cohort=4,
        replies=4,
        errors=0,
        examples=40,
        train_metrics={"loss": 1 / number, "penalty": 0.1 / number, "epsilon": 0.5 * number},
        evaluate_metrics={"accuracy": accuracy},
        server_metrics={"accuracy": accuracy, "per_class_accuracy": [0.95, 0.97, 0.96]},
        clients={
            "round": [number] * 8,
            "phase": ["train"] * 4 + ["evaluate"] * 4,
            "node_id": nodes * 2,
            "partition": [0, 1, 2, 3] * 2,
            "status": ["ok"] * 8,
            "loss": [node / number for node in nodes] * 2,
            "accuracy": [None] * 4 + [accuracy * node / 5 for node in nodes],
            "epsilon": [0.5 * number] * 4 + [None] * 4,
        },
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "figures"
    ledger = Ledger.create(directory, CONFIG)
    ledger.on_start(RunInfo("figures", directory, 20, 1, 2, 4, 650, "CORAL"))
    classes = ["a class with a name that is longer than most figures are wide", "dog", "cat"]
    histogram = [[5, 3, n] for n in range(4)]
    partition = {"clients": [0, 1, 2, 3], "classes": classes, "histogram": histogram}
    write_recorded_json(directory / "partition.json", partition)
    for number in range(1, 21):
        ledger.on_round(a_round(number))
    ledger.on_confusion(20, np.array([[19, 1, 0], [0, 18, 2], [3, 0, 17]]))
    ledger.close()
    return write_report(directory)


def test_the_head_says_what_was_run(report: Path) -> None:
    page = report.read_text()
    for fact in (
        "digits, 4 clients, partition dirichlet (alpha = 0.5)",
        "mlp (hidden = 32); 650 parameters",
        "CORAL (penalty_weight = 2)",
        "dp-sgd (noise_multiplier = 2, delta = 0.0001)",
        "epsilon = 10 at delta = 0.0001, the largest of any client so far",
        "python 3.12.0, torch 2.9",
    ):
        assert fact in page
    assert len(page) < 100_000
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_legends_cover_nothing_and_nothing_is_beyond_the_edge(report: Path, width: int) -> None:
    found = result_in_page(report, OVERLAPS, width=width)
    titles = {box["title"] for box in found["boxes"]}
    assert {"Accuracy", "Alignment penalty", "Confusion matrix, round 20"} <= titles
    assert {"Privacy spent by clients", "Clients' loss"} <= titles
    assert [box for box in found["boxes"] if box["covered"] or box["outside"]] == []
    assert found["beyond"] <= 0


@pytest.mark.slow
def test_figures_are_saved_as_svg_and_png_in_light_colours(report: Path) -> None:
    script = """
    return {svg: atollFigures.svg(0), png: await atollFigures.png(0)};
    """
    found = result_in_page(report, script, is_dark=True)
    root = ElementTree.fromstring(found["svg"])
    assert root.tag.endswith("svg")
    assert "var(" not in found["svg"]
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "on the server's test data" in texts
    assert "rgb(18, 48, 58)" in found["svg"]
    kind, encoded = found["png"].split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.width > 600
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.slow
def test_the_page_is_dark_where_the_system_is(report: Path) -> None:
    script = """
    const of = (e) => getComputedStyle(e);
    return [of(document.body).backgroundColor, of(document.querySelector('svg text')).fill];
    """
    assert result_in_page(report, script) == ["rgb(243, 248, 249)", "rgb(86, 111, 121)"]
    assert result_in_page(report, script, is_dark=True) == ["rgb(16, 25, 29)", "rgb(147, 169, 177)"]


@pytest.mark.slow
def test_a_click_shows_one_client_and_a_legend_hides_a_curve(report: Path) -> None:
    script = """
    const of = (title) => document.querySelector(`svg[aria-label="${title}"]`);
    const click = (e) => {
      const box = e.getBoundingClientRect();
      const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
      e.dispatchEvent(new MouseEvent('click', {bubbles: true, ...at}));
    };
    const texts = (title) => [...of(title).querySelectorAll('.entry')].map((e) => e.textContent);
    const before = texts("Clients' loss");
    const dots = of("Clients' loss in round 20").querySelectorAll('circle');
    click(dots[6]);
    click(of('Accuracy').querySelector('.entry'));
    return {
      before, after: texts("Clients' loss"), chosen: document.getElementById('client').value,
      hidden: [...of('Accuracy').querySelectorAll('.entry.hidden')].map((e) => e.textContent),
    };
    """
    found = result_in_page(report, script)
    assert found["before"] == ["evaluate, median", "train, median"]
    chosen = ["client 2 (node 3), evaluate", "client 2 (node 3), train"]
    assert found["after"] == [*found["before"], *chosen]
    assert found["chosen"] == "3"
    assert found["hidden"] == ["on the server's test data"]


@pytest.mark.slow
def test_on_paper_the_whole_experiment_is_open(report: Path) -> None:
    script = """
    const details = document.querySelector('details');
    const found = [details.open];
    for (const event of ['beforeprint', 'afterprint']) {
      window.dispatchEvent(new Event(event));
      found.push(details.open);
    }
    return found;
    """
    assert result_in_page(report, script) == [False, True, False]


def test_axes_are_for_the_rounds_that_differ() -> None:
    rounds = list(range(1, 41))
    curve: list[Any] = [1 - 0.8**number for number in rounds]
    low, high = axis_range([(rounds, curve, curve)])
    assert (low, high) == (pytest.approx(0.8, abs=0.1), curve[-1])
    drawn = lines({"accuracy": (rounds, curve)}, "accuracy")
    assert drawn.range == (low, high)
    assert late_range([(rounds[:5], curve[:5], curve[:5])]) is None
    assert late_range([([1, 2], [float("nan")] * 2, [None] * 2)]) is None


def test_what_figures_hold_ends_no_element_and_is_finite() -> None:
    drawn = lines({"</script><!--": ([1, 2], [float("nan"), 0.123456789])}, "&")
    text = figures_json([("<b>", drawn)])
    assert not set(text) & set("<>&")
    assert "null,0.123457" in text


@pytest.mark.slow
def test_axes_of_powers_show_what_exponents_stand_for(tmp_path: Path) -> None:
    scores = [(0.9, True), (0.4, True), (0.5, False), (0.1, False)] * 25
    rows = [
        {"node_id": 1, "member": member, "index": place, "loss": score}
        for place, (score, member) in enumerate(scores)
    ]
    table = Table("100 candidates", ["node", "method"], [["all", "loss"]])
    page = write_membership_report(
        tmp_path, rows, {"loss": "eavesdropper"}, (table, table), run="small"
    )
    script = """
        return [...document.querySelectorAll("svg.figure text.tick")].map((t) => t.textContent);
    """
    ticks = result_in_page(page, script)
    # Below the figure, then beside it: from a hundredth to one.
    assert {"0.01", "0.1", "1"} <= set(ticks)
    assert not [tick for tick in ticks if tick.startswith("-")]
