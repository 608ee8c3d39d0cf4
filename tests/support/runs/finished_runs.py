"""Small runs that have ended, for tests of what is done with them afterwards."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from atoll.platform.cli.application import application
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation_run import run

ROUNDS = 6


def experiment(name: str = "small", seed: int = 0, **sections: dict) -> Experiment:
    """A federation on digits: a second's work; the round of the best accuracy is kept."""
    tables: dict[str, dict] = {
        "run": {
            "name": name,
            "seed": seed,
            "rounds": ROUNDS,
            "checkpoint_every": 4,
            "keep_checkpoints": 1,
            "keep": "best",
            "tags": ["paper", name],
        },
        "data": {"dataset": "digits", "clients": 4},
        "model": {"name": "mlp", "hidden": [16]},
        "client": {"learning_rate": 0.1, "vectorize": False},
        "ray": {"workers": 1},
    }
    for section, table in sections.items():
        tables[section] = {**tables.get(section, {}), **table}
    return Experiment.from_dict(tables)


def finished(directory: Path, name: str = "small", seed: int = 0, **sections: dict) -> Path:
    """Run it; return its run directory."""
    return run(experiment(name, seed, **sections), out=directory).directory


def command(*arguments: object) -> tuple[int, str, str]:
    """The command line in this process: its exit code, and what it wrote."""
    done = CliRunner().invoke(application, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def refused(*arguments: object) -> str:
    """The one line of error with which a command refuses."""
    code, _, stderr = command(*arguments)
    assert code != 0
    said = (line for line in stderr.splitlines() if line.strip())
    lines = [line for line in said if not line.endswith(": looking for runs")]
    assert len(lines) == 1, stderr
    return lines[0]
