from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.arena.arena_job import Conditions, Job, Knowledge
from atoll.attacks.arena.arena_run import JobEnd, first_victims_first, run_jobs, table_of
from atoll.attacks.arena.result_store import JobStore
from atoll.attacks.captures.capture_files import write_capture
from atoll.attacks.defenses import REFERENCES
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.settings import ModSettings
from tests.support.attacks.captured import a_spec, captured, folder_of

KNOWLEDGE: tuple[Knowledge, ...] = ("naive", "adaptive")


def in_turn(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for place, argument in enumerate(arguments):
        try:
            yield place, function(argument)
        except Exception as error:
            yield place, error


def backwards(
    function: Callable[[Any], Any], arguments: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    for place in reversed(range(len(arguments))):
        yield place, function(arguments[place])


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Job], Conditions]:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    jobs = []
    for defense, mods in {
        "none": (),
        "top-k": (ModSettings(name=REFERENCES["top-k"], pruned=0.9),),
    }.items():
        for partition in range(2):
            capture, truth = captured(a_spec(*mods), partition)
            folder = folder_of(capture, tmp_path / defense)
            write_capture(capture, truth, folder)
            jobs += [
                Job(
                    federation=defense,
                    captures=(folder,),
                    attack="inverting-gradients",
                    settings={"steps": 5},
                    knowledge=knowledge,
                    seed=0,
                    labels={"defense": defense, "seed": 0},
                )
                # There is nothing to adapt to without a defense.
                for knowledge in (KNOWLEDGE if mods else KNOWLEDGE[:1])
            ]
    return jobs, Conditions(load_dataset("digits").directory, candidates=50)


@pytest.mark.slow
def test_an_interrupted_arena_resumes_to_the_same_table_bitwise(
    arena: tuple[list[Job], Conditions], tmp_path: Path
) -> None:
    jobs, conditions = arena
    whole, parts = JobStore(tmp_path / "whole"), JobStore(tmp_path / "parts")
    assert run_jobs(jobs, conditions, whole, in_turn) == {}

    def interrupt(end: JobEnd) -> None:
        if end.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, conditions, parts, backwards, on_end=interrupt)
    kept = table_of(jobs, conditions, parts)
    assert 0 < len(kept) < len(jobs)
    ends: list[JobEnd] = []
    run_jobs(jobs, conditions, parts, backwards, on_end=ends.append)
    assert [end.done for end in ends] == list(range(4, len(jobs) + 1))
    first, second = (table_of(jobs, conditions, store) for store in (whole, parts))
    assert pa.Table.from_pylist(first).equals(pa.Table.from_pylist(second))
    assert len(first) == len(jobs)
    run_jobs(jobs, conditions, parts, in_turn, on_end=lambda end: pytest.fail("nothing is missing"))


def test_keys_depend_on_content_and_on_nothing_else(
    arena: tuple[list[Job], Conditions], tmp_path: Path
) -> None:
    [job, *_], conditions = arena
    key = job.key(conditions)
    assert replace(job, labels={"defense": "renamed"}).key(conditions) == key
    moved = (tmp_path / "elsewhere" / job.captures[0].name,)
    assert replace(job, captures=moved).key(conditions) == key
    changes = [
        replace(job, settings={"steps": 6}),
        replace(job, seed=1),
        replace(job, knowledge="adaptive"),
        replace(job, federation="another"),
    ]
    keys = {key, *(changed.key(conditions) for changed in changes)}
    assert len(keys) == 5
    assert job.key(replace(conditions, candidates=51)) != key


def test_a_job_that_fails_does_not_stop_the_others_and_is_tried_again(
    arena: tuple[list[Job], Conditions], tmp_path: Path
) -> None:
    jobs, conditions = arena
    broken = replace(jobs[0], captures=(tmp_path / "nowhere",))
    store = JobStore(tmp_path / "jobs")
    failed = run_jobs([broken, jobs[1]], conditions, store, in_turn)
    assert list(failed) == [broken.key(conditions)]
    assert "is not a capture" in failed[broken.key(conditions)]
    assert len(table_of([broken, jobs[1]], conditions, store)) == 1
    assert list(run_jobs([broken], conditions, store, in_turn)) == list(failed)


def test_images_are_kept_only_where_they_are_asked_for(
    arena: tuple[list[Job], Conditions], tmp_path: Path
) -> None:
    jobs, conditions = arena
    without, with_images = JobStore(tmp_path / "without"), JobStore(tmp_path / "with")
    run_jobs(jobs[:1], conditions, without, in_turn)
    run_jobs(jobs[:1], conditions, with_images, in_turn, keep_images=True)
    key = jobs[0].key(conditions)
    assert without.images(key) is None
    both = with_images.images(key)
    assert both is not None
    assert both[0].shape == both[1].shape == (1, 1, 8, 8)
    files = {p.name for p in (tmp_path / "without").rglob("*") if p.is_file()}
    assert files == {"manifest.json", "rows.parquet", "seconds.parquet"}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(KNOWLEDGE)))
)
def test_first_victims_come_first_and_nothing_is_lost(
    cells: list[tuple[str, str, Knowledge]],
) -> None:
    jobs = [
        Job(federation, (Path(str(place)),), attack, {}, knowledge, 0)
        for place, (federation, attack, knowledge) in enumerate(cells)
    ]
    ordered = first_victims_first(jobs)
    assert sorted(jobs, key=lambda job: int(job.captures[0].name)) == sorted(
        ordered, key=lambda job: int(job.captures[0].name)
    )
    seen: Counter[tuple[str, str, str]] = Counter()
    ranks = []
    for job in ordered:
        cell = (job.federation, job.attack, job.knowledge)
        ranks.append(seen[cell])
        seen[cell] += 1
    assert ranks == sorted(ranks)
    for cell in set(cells):
        of_cell = [
            int(job.captures[0].name)
            for job in ordered
            if (job.federation, job.attack, job.knowledge) == cell
        ]
        assert of_cell == sorted(of_cell)
