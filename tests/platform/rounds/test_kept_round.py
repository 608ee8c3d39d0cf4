"""Which round's checkpoint stays beside the newest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord

from atoll.errors import InvalidExperimentError
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.config.experiment import Experiment
from atoll.platform.rounds.kept_round import KeptRound
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore


def record(server_round: int, **metrics: float) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        num_rounds=9,
        seconds=0.0,
        cohort=1,
        replies=1,
        errors=0,
        examples=1,
        train_metrics={},
        evaluate_metrics={},
        server_metrics=metrics,
        bytes_down=0,
        bytes_up=0,
    )


def test_the_best_is_the_first_of_the_best_values_whatever_is_not_a_number() -> None:
    values = [0.5, math.nan, 0.8, 0.8, 0.7]
    kept = KeptRound("best")
    noted = [kept.note(record(r, accuracy=v)) for r, v in enumerate(values, 1)]
    assert noted == [True, False, True, False, False]
    assert kept.rounds == (3,)
    least = KeptRound("best", "server_loss", "min")
    assert [least.note(record(r, loss=v)) for r, v in enumerate(values, 1)] == [True] + 4 * [False]
    assert not KeptRound("best", "server_f1").note(record(1, accuracy=1.0))
    assert KeptRound("best", "server_f1").rounds == ()


def test_the_last_keeps_no_other_and_a_number_that_round() -> None:
    assert [KeptRound().note(record(r, accuracy=r)) for r in (1, 2)] == [False, False]
    assert [KeptRound(2).note(record(r)) for r in (1, 2, 3)] == [False, True, False]
    assert KeptRound(2).rounds == (2,)


def test_it_continues_from_a_checkpoint_of_the_same_metric() -> None:
    before = KeptRound("best")
    before.note(record(4, accuracy=0.9))
    after, other = KeptRound("best"), KeptRound("best", "server_loss", "min")
    for each in (after, other):
        each.load_state_dict(before.state_dict())
        each.load_state_dict({})
    assert not after.note(record(5, accuracy=0.8, loss=0.5))
    assert after.rounds == (4,)
    assert other.note(record(5, accuracy=0.8, loss=0.5))


def test_a_store_leaves_what_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    arrays = ArrayRecord([np.zeros(1)])
    for server_round in range(1, 6):
        store.write(Checkpoint(server_round, arrays), (2,))
    assert store.rounds() == [2, 5]
    # A run that went back to before a kept round runs it again.
    store.write(Checkpoint(1, arrays), (2,))
    assert store.rounds() == [1]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"run": {"keep": 11}}, "run.keep = 11: there is no such round (with run.rounds = 10)"),
        ({"run": {"keep": "first"}}, "run.keep = 'first'"),
        ({"run": {"keep_mode": "most"}}, "run.keep_mode = 'most'"),
        ({"run": {"tags": ["a b"]}}, "run.tags"),
        (
            {
                "run": {"keep": "best"},
                "layers": {},
                "model": {"name": "noprop-dt"},
                "data": {"clients": 1},
            },
            "run.keep = 'best': with [layers] the last epoch's blocks alone are kept",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(tables: dict, message: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_dict(tables)
    assert message in str(caught.value)


def test_by_default_it_is_by_the_tasks_main_metric_in_its_direction() -> None:
    kept = KeptRound("best")
    for number, error in enumerate([3.0, 1.0, 2.0], start=1):
        kept.note(record(number, rmse=error, r2=-number))
    assert kept.rounds == (2,)
    more = KeptRound("best")
    for number, accuracy in enumerate([0.1, 0.3, 0.2], start=1):
        more.note(record(number, accuracy=accuracy))
    assert more.rounds == (2,)
