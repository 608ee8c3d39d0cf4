"""A time budget interrupts as Ctrl-C does, once, and leaves no timer behind."""

import signal
import threading
import time

import pytest

from atoll.platform.run_directory.interrupts import (
    TimeBudget,
    interrupted_when_spent,
    interrupts_held,
)


def test_it_interrupts_and_says_so() -> None:
    budget = TimeBudget(0.05)
    with pytest.raises(KeyboardInterrupt), interrupted_when_spent(budget):
        time.sleep(30)
    assert budget.is_spent
    assert budget.left == 0.0


def test_a_budget_that_is_over_already_interrupts_at_once() -> None:
    budget = TimeBudget(1e-9)
    with pytest.raises(KeyboardInterrupt), interrupted_when_spent(budget):
        time.sleep(30)
    assert budget.is_spent


def test_what_is_written_down_is_waited_for() -> None:
    budget, steps = TimeBudget(0.05), []
    with pytest.raises(KeyboardInterrupt), interrupted_when_spent(budget):
        with interrupts_held():
            time.sleep(0.2)
            steps.append("written")
        steps.append("gone on")
    assert steps == ["written"]


def test_nothing_is_left_of_it_when_the_command_ended_in_time() -> None:
    before = signal.getsignal(signal.SIGALRM)
    budget = TimeBudget(0.2)
    with interrupted_when_spent(budget):
        assert budget.left is not None
        assert 0.0 < budget.left <= 0.2
    time.sleep(0.3)
    assert not budget.is_spent
    assert signal.getsignal(signal.SIGALRM) == before


def test_without_a_limit_any_thread_may_use_it() -> None:
    lefts = []

    def run() -> None:
        budget = TimeBudget(None)
        with interrupted_when_spent(budget):
            lefts.append(budget.left)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert lefts == [None]


def test_another_thread_is_refused() -> None:
    errors = []

    def run() -> None:
        try:
            with interrupted_when_spent(TimeBudget(1.0)):
                pass
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]
