"""An arena as it runs: real federations and attacks on a real Ray."""

import io
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors import safe_open

from atoll.attacks.arena.arena_run import JobEnd
from atoll.errors import RunDirectoryError
from atoll.platform.arenas.arena import ArenaResult, arena_directory, jobs_of_federations, run_arena
from atoll.platform.arenas.arena_plan import Arena, load_arena
from atoll.platform.cli.live_page.views import view_of
from atoll.platform.cli.watching.watch import watch
from atoll.platform.sweeps.sweep import TrialEnd
from tests.platform.arenas.test_arena_plan import ARENA

pytestmark = pytest.mark.ray


def planned(folder: Path, *overrides: str) -> Arena:
    path = folder / "arena.toml"
    path.write_text(ARENA)
    return load_arena(path, overrides)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, cluster: None
) -> tuple[Arena, ArenaResult, list[JobEnd]]:
    folder = tmp_path_factory.mktemp("arena")
    arena, ends = planned(folder), list[JobEnd]()
    return arena, run_arena(arena, folder / "out", on_job=ends.append), ends


def test_every_attack_meets_every_defense(
    finished: tuple[Arena, ArenaResult, list[JobEnd]],
) -> None:
    _, result, ends = finished
    assert result.failed == {}
    assert [end.done for end in ends] == list(range(1, 15))
    rows = pq.read_table(result.directory / "results.parquet").to_pylist()
    found = {(r["attack_label"], r["knowledge"], r["defense"], r["round"]) for r in rows}
    expected = {
        (attack, knowledge, defense, server_round)
        for server_round in (1, 2)
        for defense in ("none", "top-k", "secagg")
        for attack, knowledge in (
            ("ig", "naive"),
            ("random-image", "naive"),
            *([("ig", "adaptive")] if defense == "top-k" else []),
        )
    }
    assert found == expected
    # The server of sums sees all four clients' two images as one update.
    assert {r["images"] for r in rows if r["defense"] == "secagg"} == {8}
    assert {r["images"] for r in rows if r["defense"] != "secagg"} == {2}
    assert all(0.0 <= r["accuracy"] <= 1.0 for r in rows)
    threats = {r["threat"] for r in rows if r["attack_label"] == "ig"}
    assert threats == {
        "informed eavesdropper (training)",
        "informed eavesdropper (defense, training)",
    }
    assert {r["label_source"] for r in rows if r["attack_label"] == "ig"} == {"inferred"}


def test_the_report_opens_offline_and_shows_no_clients_images(
    finished: tuple[Arena, ArenaResult, list[JobEnd]],
) -> None:
    _, result, _ = finished
    page = result.report.read_text()
    assert "ig (adaptive)" in page
    assert "informed eavesdropper" in page
    assert "knows which defense acts, and allows for it" in page
    assert "Without a defense, the strongest attack is ig" in page
    assert "Accuracy against PSNR, dB by the strongest attack" in page
    assert "Accuracy against share of images identified by the strongest attack" in page
    assert "Clients&#39; images are not shown" in page or "Clients' images are not shown" in page
    assert 'src="http' not in page
    assert [p.name for p in result.report.parent.rglob("*")] == ["index.html"]
    assert not list(result.directory.rglob("images.safetensors"))


def test_it_is_watched_as_its_directory_tells(
    finished: tuple[Arena, ArenaResult, list[JobEnd]],
) -> None:
    _, result, ends = finished
    text = io.StringIO()
    watch(result.directory, Console(file=text, width=200, highlight=False))
    *federations, summary = text.getvalue().splitlines()
    assert all(": finished" in line for line in federations)
    count = len(federations)
    assert summary == (
        f"{count} of {count} federations ended, {len(ends)} of {len(ends)} attacks ended -> "
        f"{result.directory}"
    )


def test_the_live_page_says_what_the_report_says(
    finished: tuple[Arena, ArenaResult, list[JobEnd]], tmp_path: Path
) -> None:
    _, result, _ = finished
    folder = tmp_path / result.directory.name
    folder.mkdir()
    page = view_of(result.directory).write(folder)
    assert page is not None
    assert page.read_text() == result.report.read_text()


@pytest.mark.long
def test_what_is_finished_is_not_run_again_and_the_table_keeps_its_bits(
    finished: tuple[Arena, ArenaResult, list[JobEnd]], cluster: None
) -> None:
    arena, result, _ = finished
    before = (result.directory / "results.parquet").read_bytes()
    jobs = sorted((result.directory / "jobs").iterdir())
    for lost in jobs[::3]:
        shutil.rmtree(lost)
    ends: list[JobEnd] = []
    trials: list[TrialEnd] = []
    again = run_arena(arena, result.directory, on_job=ends.append, on_federation=trials.append)
    assert again.failed == {}
    assert trials == []
    assert len(ends) == len(jobs[::3])
    assert (result.directory / "results.parquet").read_bytes() == before


@pytest.mark.long
def test_a_budget_ends_it_with_a_report_and_the_next_call_continues_to_the_same_bits(
    finished: tuple[Arena, ArenaResult, list[JobEnd]], tmp_path: Path, cluster: None
) -> None:
    arena, result, _ = finished
    directory = Path(shutil.copytree(result.directory, tmp_path / "out"))
    jobs = sorted((directory / "jobs").iterdir())
    for lost in jobs[1:]:
        shutil.rmtree(lost)
    ended: list[JobEnd] = []

    def wait_for_the_end(end: JobEnd) -> None:
        ended.append(end)
        time.sleep(60)

    part = run_arena(arena, directory, budget=8.0, on_job=wait_for_the_end)
    assert len(ended) <= 1
    assert (part.federations_left, part.attacks_left) == (0, len(jobs) - 1 - len(ended))
    assert f"{part.attacks_left} attacks on the others, are still to be run" in " ".join(
        part.report.read_text().split()
    )
    whole = run_arena(arena, directory)
    assert (whole.federations_left, whole.attacks_left) == (0, 0)
    assert "still to be run" not in whole.report.read_text()
    assert (directory / "results.parquet").read_bytes() == (
        result.directory / "results.parquet"
    ).read_bytes()


@pytest.mark.long
def test_pictures_are_drawn_where_they_are_asked_for(
    finished: tuple[Arena, ArenaResult, list[JobEnd]], tmp_path: Path, cluster: None
) -> None:
    _, result, _ = finished
    shutil.copytree(result.directory / "federations", tmp_path / "out" / "federations")
    arena = planned(tmp_path, "arena.pictures=true", "arena.attacks.ig.steps=2")
    shown = run_arena(arena, tmp_path / "out")
    pictures = sorted((shown.report.parent / "pictures").iterdir())
    assert len(pictures) == 14
    assert f'src="pictures/{pictures[0].name}"' in shown.report.read_text()
    kept = next(shown.directory.rglob("images.safetensors"))
    with safe_open(kept, "numpy") as file:
        assert file.metadata() == {"contains": "raw client data"}
    hidden = run_arena(planned(tmp_path, "arena.attacks.ig.steps=2"), shown.directory)
    assert [p.name for p in hidden.report.parent.rglob("*")] == ["index.html"]


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    arena = planned(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError, match="is there already and no arena"):
        arena_directory(arena, tmp_path / "full")
    # What a process leaves that is killed as it takes the directory.
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".lock").touch()
    assert arena_directory(arena, tmp_path / "killed") == tmp_path / "killed"


def test_a_federation_without_captures_does_not_take_the_others_down(
    finished: tuple[Arena, ArenaResult, list[JobEnd]], tmp_path: Path
) -> None:
    arena, result, _ = finished
    federations = Path(shutil.copytree(result.directory / "federations", tmp_path / "federations"))
    whole, none_failed = jobs_of_federations(arena, federations)
    assert none_failed == {}
    [lost] = federations.glob("trials/top-k-*/captures")
    shutil.rmtree(lost)
    jobs, failed = jobs_of_federations(arena, federations)
    [(name, reason)] = failed.items()
    assert name.startswith("top-k")
    assert "has no captures" in reason
    assert jobs == [job for job in whole if job.labels["defense"] != "top-k"]
