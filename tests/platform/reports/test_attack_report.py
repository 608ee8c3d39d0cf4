"""The page of an attack: large pictures with captions, in the page itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll.attacks import ATTACKS, attack_victims, example_victim, observe_victims
from atoll.platform.attack_runs.attack_run import AttackRun, plain_table_of
from atoll.platform.reports.attack_report import write_attack_report
from tests.support.runs.browser import result_in_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "attacks" / "linear"
    directory.mkdir(parents=True)
    attack = ATTACKS.find("linear-layer", "attack")()
    victims = [example_victim(seed=seed) for seed in (0, 1)]
    attacked = attack_victims(
        "linear-layer",
        attack,
        victims,
        observe_victims(victims, attack),
        candidates=example_victim(examples=20, seed=5).truth.images,
    )
    result = AttackRun(directory, attacked)
    return write_attack_report(
        directory,
        result.rows,
        victims[0].truth.images.repeat(2, 1, 1, 1),
        attacked[0].images.repeat(2, 1, 1, 1),
        run="run <b>",
        table=plain_table_of(result),
        settings={"steps": 3},
        seed=4,
    )


def test_it_says_whose_images_and_how_they_were_attacked(page: Path) -> None:
    text = page.read_text()
    assert "linear-layer on 2 images of 2 updates" in text
    assert "round 1, node 1, image 0; linear-layer" in text
    assert "identified, label" in text
    assert "steps = 3" in text
    assert "run &lt;b&gt;" in text
    assert not re.search(r"<td>\d+\.\d{6,}", text)
    assert len(text) < 60_000


def test_of_an_attack_that_names_no_labels_none_are_shown(page: Path) -> None:
    text = page.read_text()
    assert re.search("identified, label [0-9]+<", text)
    assert "label accuracy" not in text
    assert "labels right" not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [360, 1400])
def test_pictures_are_large_and_sharp(page: Path, width: int) -> None:
    script = """
    const images = [...document.querySelectorAll('.pairs img')];
    await Promise.all(images.map((i) => i.complete || new Promise((r) => { i.onload = r; })));
    return images.map((i) => [i.getBoundingClientRect().width, i.naturalWidth,
      getComputedStyle(i).imageRendering,
      i.getBoundingClientRect().right <= document.documentElement.clientWidth]);
    """
    assert result_in_page(page, script, width=width) == [[128, 8, "pixelated", True]] * 4
