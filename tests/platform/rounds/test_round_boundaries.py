"""The end of a round: who is told in which order, what is kept, and when it is the last."""

from __future__ import annotations

import pytest

from atoll.platform.callbacks.early_stopping import EarlyStopping
from atoll.platform.callbacks.observers import Observer, RoundRecord
from atoll.platform.config.sections import EarlyStoppingSettings
from atoll.platform.rounds.round_boundaries import end_round, first_round, is_evaluated
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import Checkpoint


def record(server_round: int, accuracy: float = 0.0) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        num_rounds=3,
        seconds=1.0,
        cohort=1,
        replies=1,
        errors=0,
        examples=1,
        server_metrics={"accuracy": accuracy},
    )


def test_the_state_is_kept_after_the_ledger_and_before_callbacks() -> None:
    told: list[str] = []

    class Ledger(Observer):
        def on_round(self, record: RoundRecord) -> None:
            told.append("observer")

    options = RoundOptions(observers=[Ledger()], callbacks=[lambda _: told.append("callback")])

    def capture(stopped: str | None) -> str | None:
        told.append("capture")
        return stopped

    def save(state: str | None, is_last: bool) -> None:
        told.append(f"save {state} {is_last}")

    assert not end_round(record(1), options, capture=capture, save=save)
    assert told == ["capture", "observer", "save None False", "callback"]
    assert end_round(record(3), options, capture=capture, save=save)
    assert told[-2:] == ["save None True", "callback"]


def test_early_stopping_ends_a_run_and_is_in_the_state() -> None:
    stopping = EarlyStopping(EarlyStoppingSettings(target=0.5))
    saved: list[tuple[str | None, bool]] = []
    is_last = end_round(
        record(1, accuracy=0.6),
        RoundOptions(stopping=stopping),
        capture=lambda stopped: stopped,
        save=lambda state, is_last: saved.append((state, is_last)),
    )
    assert is_last
    assert saved == [("server_accuracy is 0.6, the target 0.5", True)]


@pytest.mark.parametrize(("stopped", "expected"), [(None, 3), ("a reason", 6)])
def test_the_round_after_a_checkpoint(stopped: str | None, expected: int) -> None:
    checkpoint = Checkpoint(2, {}, {"stopped": stopped})  # type: ignore[arg-type]
    assert first_round(checkpoint, 5) == expected
    assert first_round(None, 5) == 1


def test_rounds_with_an_evaluation_and_the_last_one() -> None:
    options = RoundOptions(evaluate_every=2)
    assert [r for r in range(1, 6) if is_evaluated(options, r, 5)] == [2, 4, 5]
