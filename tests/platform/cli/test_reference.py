"""``atoll list``, ``atoll explain``, help and completion, as a shell sees them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
import typer
from packaging import version
from typer.testing import CliRunner

from atoll.platform.cli.application import application
from atoll.platform.cli.commands import reference
from atoll.platform.cli.output.columns import indented, name_lines
from atoll.platform.reference.kinds import kinds
from atoll.platform.reference.names import names_of
from tests.support.paths import ROOT


def atoll(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(application, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def test_list_alone_shows_the_kinds() -> None:
    output = atoll("list")
    for kind, about in kinds():
        assert re.search(rf"^{kind} +{re.escape(about)}$", output, re.MULTILINE)


@pytest.mark.parametrize("kind", [kind for kind, _ in kinds()])
@pytest.mark.parametrize("width", [None, 200, 80, 40, 20])
def test_names_are_never_cut(kind: str, width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_width", lambda: width)
    output = atoll("list", kind)
    beginnings = {line.split("  ")[0].strip() for line in output.splitlines()}
    assert {name for name, _ in names_of(kind)} <= beginnings
    assert "…" not in output


@pytest.mark.parametrize("width", [30, 60, 100])
def test_text_is_wrapped_and_complete(width: int) -> None:
    rows = [("a-name", "some words that go on and on " * 4), ("another", "short")]
    lines = list(name_lines(rows, width))
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    assert sorted(words) == sorted(["a-name", "another", "short"] + rows[0][1].split())
    assert list(indented("one\n\ntwo", None, 2)) == ["  one", "  two"]


def test_a_name_shows_its_keys() -> None:
    output = atoll("list", "models", "resnet8")
    assert 'norm: "group", "batch" or "frozen"; default "group"' in output
    assert "How activations are normalised" in output
    assert "model.base names" in atoll("list", "models", "imprint")
    assert "no keys of its own" in atoll("list", "models", "linear")


def test_explain_shows_a_key_and_how_to_write_it() -> None:
    output = atoll("explain", "client.gradient_clip")
    assert output.splitlines() == [
        "client.gradient_clip",
        "  number, 1e-6 to 1e12; default unset",
        "  The largest norm of a step's gradient.",
        "",
        "  [client]",
        "  gradient_clip = 1.0",
    ]


def test_explain_shows_sections_and_what_names_add() -> None:
    assert "[client.schedule]" in atoll("explain")
    section = atoll("explain", "client")
    assert "learning_rate: number, 1e-10 to 1e6; default 0.05" in section
    assert "atoll list strategies NAME" in atoll("explain", "strategy")
    argument = atoll("explain", "strategy.eta")
    assert "FedAdam" in argument
    assert "FedMedian" not in argument


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("lst",), "no such command; did you mean 'list'?"),
        (("resum", "runs/x"), "no such command; did you mean 'resume'?"),
        (("data", "gett"), "no such command; did you mean 'get'?"),
        (("list", "modles"), "did you mean 'models'?"),
        (("list", "models", "resnt8"), "did you mean 'resnet8'?"),
        (("explain", "client.gradient_clp"), "did you mean 'client.gradient_clip'?"),
        (("explain", "strategy.fraction_trian"), "did you mean 'fraction_train'?"),
        (("explain", "data.options.image_siz"), "did you mean 'image_size'?"),
        (("run", "x.toml", "--worker", "3"), "--workers"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(arguments: tuple[str, ...], answer: str) -> None:
    output = " ".join(atoll(*arguments, code=2).replace("│", " ").split())
    assert answer in output
    assert output.count("did you mean") <= 1


COMMANDS = [(), ("run",), ("list",), ("explain",), ("data",), ("data", "get"), ("submit",)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_h_is_help(command: tuple[str, ...]) -> None:
    assert atoll(*command, "-h") == atoll(*command, "--help")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_is_plain_and_complete(
    command: tuple[str, ...], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    output = atoll(*command, "--help")
    assert "..." not in output.partition("\n")[2]
    assert not set("\\│…") & set(output)


def test_help_has_the_first_sentence_of_each_command() -> None:
    words = " ".join(atoll("--help").split())
    assert "Compare runs: what differs, final metrics with intervals over seeds, a page" in words
    assert "train-generator Train the generator of a data set, for attacks that need one;" in words


@pytest.mark.skipif(
    version.parse(metadata.version("click")) >= version.parse("8.5"),
    reason="typer below 0.21 loses the help of arguments with click 8.5",
)
@pytest.mark.parametrize("command", [("run",), ("list",), ("explain",), ("init",), ("data", "get")])
def test_arguments_have_their_help(command: tuple[str, ...]) -> None:
    found = typer.main.get_command(application)
    for name in command:
        assert isinstance(found, click.Group)
        made = found.get_command(click.Context(found), name)
        assert made is not None
        found = made
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{command} {parameter.name}"


def test_a_data_set_takes_options_and_a_module_says_where_it_is_looked_for() -> None:
    assert "colored-digits: " in atoll("data", "get", "colored-digits", "--option", "seed=3")
    assert "did you mean" in atoll("data", "get", "colored-digits", "--option", "seeed=3", code=2)
    assert "expected KEY=VALUE" in atoll("data", "get", "digits", "--option", "seed", code=2)
    missing = atoll("data", "get", "no_such_module_of_mine:load", code=2)
    assert f"looked for in {Path.cwd()}" in missing.replace("\n", "")


def completed(line: str) -> list[str]:
    """What bash would offer for the last word of a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_ATOLL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = "from atoll.platform.cli.application import application as a; a(prog_name='atoll')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("atoll re", {"resume", "report"}),
        ("atoll list mo", {"models", "mods"}),
        ("atoll data get cif", {"cifar10", "cifar100"}),
        ("atoll init --kind no", {"noprop"}),
        ("atoll list models resnet", {"resnet8", "resnet18", "resnet50"}),
        ("atoll explain client.gradient", {"client.gradient_clip"}),
        ("atoll run x.toml --set client.gradient", {"client.gradient_clip="}),
        ("atoll run x.toml --set model.name=resnet", {"model.name=resnet8"}),
        ("atoll attack runs/x --attack inv", {"inverting-gradients"}),
    ],
)
def test_a_shell_completes(line: str, offered: set[str]) -> None:
    assert offered <= set(completed(line))


def test_completion_installs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atoll", "--install-completion", "bash"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.sh"))
