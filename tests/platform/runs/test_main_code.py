"""A model, a strategy, a loss, a metric and a mod that a notebook or a script defines itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.user_code.main_module import MainCode, main_hashes, reference_to
from tests.support.paths import ROOT

DEFINITIONS = '''
import torch
from flwr.serverapp.strategy import FedAvg

import atoll

WIDTH = 8


class Net(torch.nn.Module):
    """A network."""

    def __init__(self, image_shape, classes):
        super().__init__()
        self.hidden = torch.nn.Linear(image_shape[1] * image_shape[2], WIDTH)
        self.out = torch.nn.Linear(WIDTH, classes)

    def forward(self, images):
        return self.out(torch.relu(self.hidden(images.flatten(1))))


class Averaging(FedAvg):
    """A strategy."""


def smooth(outputs, targets):
    """A loss."""
    loss = torch.nn.functional.cross_entropy
    return loss(outputs, targets, reduction="none", label_smoothing=0.1)


def top2(outputs, targets):
    """A metric."""
    return (outputs.topk(2).indices == targets[:, None]).any(1).float()


def counted(message, context, call_next):
    """A mod."""
    reply = call_next(message, context)
    reply.content["metrics"]["mine"] = 7.0
    return reply


tables = {
    "run": {"name": "own", "rounds": 3, "metrics": [top2]},
    "data": {"dataset": "digits", "clients": 4},
    "model": {"name": Net},
    "client": {"loss": smooth, "learning_rate": 0.1, "mods": [counted]},
    "strategy": {"name": Averaging},
    "ray": {"workers": 1},
}
'''
RUN = """
from pathlib import Path
result = atoll.run(atoll.Experiment.from_dict(tables), out=Path("run"))
"""


def in_process(folder: Path, text: str, env: dict[str, str]) -> str:
    """What a script says; it succeeds."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def code_of(run: Path) -> dict[str, str]:
    return dict(json.loads((run / "identity.json").read_text())["code"])


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_a_script_runs_what_it_defines_and_a_resumed_run_notices_changes(
    tmp_path: Path, joining: dict[str, str]
) -> None:
    shown = in_process(tmp_path, f"{DEFINITIONS}{RUN}print(result)", joining)
    assert "RunResult(run: rounds 3, " in shown
    assert "server top2 0." in shown
    [summary] = [line for line in shown.splitlines() if line.startswith("RunResult")]
    assert len(summary) < 400
    config = (tmp_path / "run" / "config.toml").read_text()
    assert 'name = "__main__:Net"' in config
    names = ("Net", "Averaging", "smooth", "top2", "counted")
    before = code_of(tmp_path / "run")
    assert set(before) == {f"__main__:{name}" for name in names}
    go_on = f"tables['run']['rounds'] = 4\n{RUN}".replace('Path("run")', 'Path("run"), resume=True')
    shown = in_process(tmp_path, f"{DEFINITIONS}# A comment.\n{go_on}print(result)", joining)
    assert "is not what it was" not in shown
    assert "rounds 4" in shown
    text = DEFINITIONS.replace('"""A metric."""', '"""Another metric."""') + go_on
    shown = in_process(tmp_path, text.replace("= 4\n", "= 5\n"), joining)
    assert "the module __main__:top2 was changed after the run began" in shown
    assert "__main__:Net is not" not in shown


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_a_notebook_runs_what_it_defines_and_shows_a_table_and_a_summary(
    tmp_path: Path, joining: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", joining["RAY_ADDRESS"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [DEFINITIONS, f"{RUN}result"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(
        notebook,
        timeout=200,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = notebook.cells[1].outputs
    table, summary = (o for o in outputs if o.output_type != "stream")
    said = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "\x1b[" not in said, said
    assert "ROUND" not in said, said
    html = table.data["text/html"]
    assert html.count("<tr>") == 1 + 3
    assert "<th>server accuracy</th>" in html
    assert "round 3/3 finished in" in html
    assert "round 3/3" in table.data["text/plain"]
    assert summary.output_type == "execute_result"
    assert "<th>server top2</th>" in summary.data["text/html"]
    assert len(summary.data["text/plain"]) < 400
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert f"{metrics['server_accuracy']:.4f}" in html
    assert f"server accuracy {metrics['server_accuracy']:.4f}" in summary.data["text/plain"]
    assert set(code_of(tmp_path / "run")) == {
        f"__main__:{name}" for name in ("Net", "Averaging", "smooth", "top2", "counted")
    }


def test_what_cannot_be_found_by_its_name_is_refused() -> None:
    def local() -> None: ...

    for value in (local, lambda: None):
        with pytest.raises(InvalidExperimentError, match=r"model.name = .* cannot be found by its"):
            Experiment.from_dict({"model": {"name": value}})
    assert reference_to(Path, "key") == f"{Path.__module__}:Path"


def test_a_reference_to_what_no_script_defines_says_so() -> None:
    from atoll.registry import import_attribute

    with pytest.raises(InvalidExperimentError, match="expected the script or notebook that"):
        import_attribute("__main__:Nothing", "model.name")


def hashes(folder: Path, text: str, name: str) -> dict[str, str]:
    """The hashes of a script's own definition."""
    ask = (
        "\nfrom atoll.user_code.main_module import main_hashes\nimport json\n"
        f"print(json.dumps(main_hashes(['__main__:{name}'])))"
    )
    return dict(json.loads(in_process(folder, text + ask, {})))


def test_a_hash_is_of_the_source_and_of_what_it_uses(tmp_path: Path) -> None:
    text = (
        "WIDTH = 8\nOTHER = 1\n"
        "def inner(x):\n    return WIDTH * x\n"
        "def outer(x):\n    return inner(x)\n"
        "class Net:\n    def __init__(self):\n        self.x = outer(1)\n"
    )
    found = {name: hashes(tmp_path, text, name) for name in ("Net", "outer", "inner")}
    assert len({tuple(each.values()) for each in found.values()}) == 3
    for was, change in (("WIDTH = 8", "WIDTH = 9"), ("inner(x):", "inner(x, y=1):")):
        assert hashes(tmp_path, text.replace(was, change), "Net") != found["Net"]
    for same in (text.replace("OTHER = 1", "OTHER = 2"), f"# A line more.\n{text}"):
        assert hashes(tmp_path, same, "Net") == found["Net"]


def test_a_class_without_functions_has_a_hash_and_its_base_is_part_of_it(tmp_path: Path) -> None:
    text = "class Base:\n    rate = 1\nclass Child(Base):\n    pass\n"
    found = hashes(tmp_path, text, "Child")
    assert list(found) == ["__main__:Child"]
    assert hashes(tmp_path, text.replace("rate = 1", "rate = 2"), "Child") != found
    assert hashes(tmp_path, f"x = 1\n{text}", "Child") == found


def test_a_decorated_function_has_the_hash_of_what_is_decorated(tmp_path: Path) -> None:
    text = (
        "import functools\n"
        "def twice(f):\n    @functools.wraps(f)\n    def wrapper(x):\n        return f(f(x))\n"
        "    return wrapper\n"
        "@twice\ndef add(x):\n    return x + 1\n"
    )
    found = hashes(tmp_path, text, "add")
    assert len(found) == 1
    assert hashes(tmp_path, text.replace("x + 1", "x + 2"), "add") != found


def test_what_came_from_another_process_keeps_its_hash() -> None:
    main = sys.modules["__main__"]
    MainCode({"came_from_elsewhere": 3}, {"__main__:came_from_elsewhere": "ab"}).install()
    try:
        assert vars(main)["came_from_elsewhere"] == 3
        assert main_hashes(["__main__:came_from_elsewhere"]) == {
            "__main__:came_from_elsewhere": "ab"
        }
    finally:
        delattr(main, "came_from_elsewhere")
