"""Error messages: each settings class and each way of being wrong in one form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atoll.error_messages import closest, short
from atoll.errors import AttackError, InvalidExperimentError
from atoll.validation import validated


class Inner(BaseModel):
    """A section."""

    model_config = ConfigDict(extra="forbid", strict=True)

    count: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    name: Literal["alpha", "beta"] = "alpha"
    last: int


class Outer(BaseModel):
    """An experiment."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inner: Inner | None = None

    @model_validator(mode="after")
    def _has_all(self) -> Outer:
        if self.inner is not None and self.inner.count == 13:
            raise ValueError("a count that is not 13")
        return self


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"inner": {}}, "x.inner.last is not set"),
        (
            {"inner": {"last": 1, "count": 0}},
            "x.inner.count = 0: expected greater than or equal to 1 or 'auto'",
        ),
        (
            {"inner": {"last": 1, "name": "alfa"}},
            "x.inner.name = 'alfa': expected 'alpha' or 'beta'; did you mean 'alpha'?",
        ),
        ({"inner": {"last": 1, "cout": 2}}, "x.inner.cout = 2: no such key; did you mean 'count'?"),
        ({"iner": 1}, "x.iner = 1: no such section; did you mean 'inner'?"),
        ({"inner": 5}, "x.inner = 5: expected a section"),
    ],
)
def test_a_line_names_the_key_the_value_and_what_was_expected(
    values: dict[str, Any], line: str
) -> None:
    with pytest.raises(AttackError) as refused:
        validated(Outer, values, prefix="x.", error=AttackError)
    assert str(refused.value) == line


def test_each_problem_has_a_line() -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        validated(Inner, {"count": "no", "nam": 1}, unknown="Inner has no such argument")
    assert str(refused.value).splitlines() == [
        "count = 'no': expected a valid integer or 'auto'",
        "last is not set",
        "nam = 1: Inner has no such argument; did you mean 'name'?",
    ]


def test_what_is_wrong_with_all_keys_together_names_the_table() -> None:
    with pytest.raises(InvalidExperimentError, match=r"^data\.options = .*: expected a count"):
        validated(Outer, {"inner": {"last": 1, "count": 13}}, prefix="data.options.")
    with pytest.raises(InvalidExperimentError, match=r"^the experiment = .*: expected a count"):
        validated(Outer, {"inner": {"last": 1, "count": 13}})


def test_values_are_short_and_in_one_line() -> None:
    assert short("a" * 100) == "'" + "a" * 56 + "..."
    assert short("a\nb", quoted=False) == "a?b"


def test_the_closest_name() -> None:
    assert closest("Fedavg", ["FedAvg", "FedProx"]) == "did you mean 'FedAvg'?"
    assert closest("nothing", ["b", "a"]) == "expected one of a, b"
    assert closest("x", [], none="it takes none") == "it takes none"
