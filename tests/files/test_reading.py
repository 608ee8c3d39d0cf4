"""The one way of reading JSON and TOML: limits, schemas, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from atoll.errors import AtollError, CaptureError, RunDirectoryError
from atoll.files.reading import MAX_DEPTH, Line, parse_json, read_json, read_toml


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Line
    count: Annotated[int, Field(ge=1)]


def refusal(path: Path, schema: Any = Schema, **named: Any) -> str:
    with pytest.raises(RunDirectoryError) as error:
        read_json(path, schema, **named)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": ' * 100_000, "nested too deeply"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ('{"name": "a", "count": 0}', "count = 0; expected greater than or equal to 1"),
        ('{"name": "a", "count": "1"}', "count = '1'; expected a valid integer"),
        ('{"name": "a"}', "it has no 'count'"),
        ('{"name": "a", "count": 1, "more": 2}', "more = 2"),
        ('{"name": "a", "count": 1, "count": 2}', "'count' is there twice"),
        ('{"name": "a", "count": NaN}', "nan is no finite number"),
        ('{"name": "a", "count": 1e999}', "inf is no finite number"),
        ('{"name": "a", "count": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"name": "\\ud800", "count": 1}', "surrogates not allowed"),
        ('{"name": "\\u001b[2J", "count": 1}', "text without control characters"),
        ("null", "the whole = None"),
        ("[]", "the whole = []"),
    ],
)
def test_what_is_wrong_is_one_line(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    assert problem in refusal(path)


def test_no_bytes_and_no_place_of_a_file_are_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"\xff\xfe\x00")
    refusal(path)
    path.write_bytes(b" " * 101)
    assert "101 bytes; expected at most 100" in refusal(path, limit=100)
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "none")
    with pytest.raises(CaptureError, match="embedded null"):
        read_json(Path("a\0b"), Schema, error=CaptureError)


def test_what_fits_is_given_as_the_schema_says(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"name": "é", "count": 3}')
    assert read_json(path, Schema) == Schema(name="é", count=3)
    path.write_text('{"loss": NaN}')
    assert read_json(path, dict[str, float], finite=False)["loss"] != 0.0


@pytest.mark.parametrize("used", [0, 300, 700])
def test_the_limit_of_depth_is_the_same_however_deep_the_caller_is(used: int) -> None:
    def read(left: int, text: str) -> Any:
        return read(left - 1, text) if left else parse_json(text, "here", list[Any])

    fits = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(used, fits) is not None
    with pytest.raises(AtollError, match="here: cannot be read .*nested too deeply"):
        read(used, f"[{fits}]")


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda t: json.dumps(t).encode()))
def test_no_bytes_end_with_anything_but_an_error_of_ours(content: bytes) -> None:
    try:
        parse_json(content, "here", dict[str, Any])
    except AtollError as error:
        assert str(error).startswith("here: ")


@pytest.mark.parametrize(
    "content", [b"x = [" * 20_000, b"\xff", b"x =", b"[a", b"x = 1\nx = 2", b"a." * 5000 + b"b = 1"]
)
def test_toml_is_read_within_limits_too(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError) as error:
        read_toml(path)
    assert str(error.value).startswith(f"{path}: is not readable TOML")
    assert len(str(error.value).splitlines()) == 1
