"""The whole path of a new user, from ``atoll init`` to a figure; Python's standard library alone.

    cd EMPTY_FOLDER && VENV/bin/python -I .../tests/installation/user_path.py

runs each step with the Atoll of that environment (with nbclient and ipykernel, for the notebook),
prints its name and, if it failed, what it said. The exit code is the number of failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

ATOLL = str(Path(sys.executable).with_name("atoll"))
SECONDS = 120
# A federation of two rounds and four clients: some seconds, most of which start Ray.
SMALL = [
    "run.rounds=2",
    "data.clients=4",
    "data.train_examples=200",
    "ray.workers=1",
]
SETTINGS = [part for setting in SMALL for part in ("--set", setting)]

OPEN = """
import numpy as np
import atoll
from atoll.clients import load_dataset

run = atoll.open_run("runs/first")
assert run.rounds.num_rows == 2, run.rounds
test = load_dataset("digits").test
found = run.predict(test.images[:20])
assert len(found.names) == 20 and np.allclose(found.probabilities.sum(1), 1, atol=1e-5)
share = float(np.mean([name == str(label) for name, label in zip(found.names, test.labels)]))
accuracy = run.evaluate()["accuracy"]
assert accuracy == run.rounds.column("server_accuracy").to_pylist()[-1], accuracy
"""

# The live page of a run that has ended: its address, how the run stands, its report; then ctrl-C.
WEB = """
import re
import signal
import subprocess
from urllib.request import urlopen

command = ["atoll", "watch", "runs/first", "--web"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
    try:
        found = None
        while found is None:
            line = watching.stdout.readline()
            assert line, "it ended without an address"
            found = re.search("http://127[.]0[.]0[.]1:[0-9]+/[^ ]+/", line)
        url = found[0]
        with urlopen(f"{url}events") as events:
            state = events.readline().decode()
        assert "finished, 2 rounds" in state, state
        with urlopen(f"{url}report/") as page:
            assert "first" in page.read().decode()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0, watching.returncode
    finally:
        watching.kill()
"""

NOTEBOOK = f"""
import nbformat
from nbclient import NotebookClient

cells = [
    "from pathlib import Path\\nimport atoll",
    "experiment = atoll.load_experiment(Path('experiment.toml'), {[*SMALL, "run.seed=1"]!r})",
    "result = atoll.run(experiment, out=Path('runs/second'))",
    "result.metrics['server_accuracy']",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
notebook = NotebookClient(notebook, timeout={SECONDS}, kernel_name="python3").execute()
[shown] = notebook.cells[-1].outputs
assert 0 < float(shown["data"]["text/plain"]) <= 1, shown
"""

# Not that of a checkout.
INSTALLED = """
import sys
import atoll
assert atoll.__file__.startswith(sys.prefix), atoll.__file__
"""


@dataclass(frozen=True)
class Step:
    """A thing that a user does.

    Attributes
    ----------
    name : str
        What it is called.
    command : list[str]
        The program.
    leaves : tuple[str, ...]
        Files that it leaves.
    says : str
        A part of what it prints.
    folder : str
        Where it is done, below the folder of the whole path.
    """

    name: str
    command: list[str]
    leaves: tuple[str, ...] = ()
    says: str = ""
    folder: str = "study"


def python(code: str) -> list[str]:
    """Return the command that runs a program."""
    return [sys.executable, "-c", code]


STEPS = [
    Step("the package", python(INSTALLED), folder="."),
    Step("help", [ATOLL, "--help"], says="Usage: atoll", folder="."),
    Step("init", [ATOLL, "init", "study"], ("experiment.toml",), folder="."),
    Step("dry run", [ATOLL, "run", "experiment.toml", "--dry-run", *SETTINGS], says="nothing was"),
    Step(
        "run",
        [ATOLL, "run", "experiment.toml", "--out", "runs/first", *SETTINGS],
        ("runs/first/result.json", "runs/first/report.html", "runs/first/rounds.parquet"),
    ),
    Step("watch", [ATOLL, "watch", "runs/first", "--once"], says="accuracy"),
    Step("watch --web", python(WEB)),
    Step("open_run, predict, evaluate", python(OPEN)),
    Step(
        "export",
        [ATOLL, "export", "runs/first", "--to", "torch", "--out", "model.pt2"],
        ("model.pt2",),
    ),
    Step("notebook", python(NOTEBOOK), ("runs/second/result.json",)),
    Step(
        "compare",
        [ATOLL, "compare", "runs/first", "runs/second", "--out", "comparison.html"],
        ("comparison.html",),
    ),
    Step("plot", [ATOLL, "plot", "runs/first", "runs/second", "--out", "a.svg"], ("a.svg",)),
]


def problem_of(step: Step, root: Path) -> str | None:
    """Do a step; return what is wrong, or None."""
    folder = root / step.folder
    try:
        done = subprocess.run(
            step.command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        return f"took more than {SECONDS} s\n{error.stdout!r}\n{error.stderr!r}"
    output = f"{done.stdout}\n{done.stderr}"
    if done.returncode != 0:
        return f"exit code {done.returncode}\n{output}"
    if step.says not in done.stdout:
        return f"does not say {step.says!r}\n{output}"
    where = folder / "study" if step.name == "init" else folder
    missing = [name for name in step.leaves if not (where / name).is_file()]
    return f"does not leave {', '.join(missing)}\n{output}" if missing else None


def main() -> int:
    """Do all steps in the current folder; return how many failed."""
    root = Path.cwd()
    if any(root.iterdir()):
        print(f"{root}: is not empty; expected an empty folder")
        return 1
    # Another environment's Atoll is not to be found, and a Ray of another's not joined.
    os.environ.pop("PYTHONPATH", None)
    os.environ["RAY_ADDRESS"] = "local"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    failures = 0
    for step in STEPS:
        started = time.monotonic()
        problem = problem_of(step, root)
        failures += problem is not None
        state = "ok" if problem is None else "FAILED"
        print(f"{state:6} {step.name} ({time.monotonic() - started:.1f} s)", flush=True)
        if problem is not None:
            print(textwrap.indent(problem, "    "), flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
