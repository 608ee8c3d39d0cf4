"""Durations as a user writes them."""

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), (" 1H 30M ".replace(" ", ""), 5400)]
    + [("0.5h", 1800), ("1h2m3s", 3723)],
)
def test_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "30m2h", "two hours", "1e3s"])
def test_anything_else_is_refused_with_the_option_and_examples(text: str) -> None:
    with pytest.raises(InvalidExperimentError) as error:
        seconds_of(text, "--budget")
    assert str(error.value).startswith(f"--budget = {text!r}: expected a duration such as")


def test_none_is_no_limit() -> None:
    assert seconds_of(None, "--budget") is None
