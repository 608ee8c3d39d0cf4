"""A sweep's or an arena's settings, each looked at once, before Ray or any trial starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray

from atoll.errors import InvalidExperimentError
from atoll.platform.sweeps import trial_checks
from atoll.platform.sweeps.sweep import run_sweep
from atoll.platform.sweeps.sweep_plan import load_sweep

SWEEP = """
[run]
rounds = 2
[data]
dataset = "digits"
clients = 4
{data}
[model]
name = "{model}"
{arguments}
[ray]
workers = 1
[sweep.grid]
run.seed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
client.learning_rate = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
"""


def sweep_file(folder: Path, data: str = "", model: str = "mlp", arguments: str = "") -> Path:
    path = folder / "sweep.toml"
    path.write_text(SWEEP.format(data=data, model=model, arguments=arguments))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often experiments are looked at."""
    counted = {"check_settings": 0, "check_components": 0}

    def counting(name: str, function: Any) -> Any:
        def counted_call(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        return counted_call

    for name in counted:
        function = getattr(trial_checks, name)
        monkeypatch.setattr(trial_checks, name, counting(name, function))
    return counted


def test_each_distinct_setting_is_looked_at_once(tmp_path: Path, calls: dict[str, int]) -> None:
    sweep = load_sweep(sweep_file(tmp_path))
    assert len(sweep.trials) == 120
    trial_checks.check_trials(sweep.trials)
    assert calls == {"check_settings": 12, "check_components": 12}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arguments": "hiden = [3]"}, "^model.hiden = .*did you mean 'hidden'"),
        ({"arguments": "hidden = [0]"}, "^model.hidden = .*expected greater than 0"),
        ({"data": "train_examples = 3"}, "^data.clients = 4: there are only 3 training examples"),
        (
            {
                "data": "train_examples = 20\npartition = { name = 'dirichlet', alpha = 0.5 }",
            },
            "^data.partition.min_partition_size = 10: there are 20 examples",
        ),
        ({"data": "options = { angles = [1] }"}, "^data.options.angles"),
        ({"model": "precode", "arguments": "base = 'mlpp'"}, "^model.base = 'mlpp'"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_starts(
    tmp_path: Path,
    calls: dict[str, int],
    wrong: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: started.append("Ray"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append("a process"))
    with pytest.raises(InvalidExperimentError, match=message) as caught:
        run_sweep(load_sweep(sweep_file(tmp_path, **wrong)), tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert "(the trial " in str(caught.value)
    assert calls["check_settings"] <= 12
    assert calls["check_components"] <= 1
    assert started == []
