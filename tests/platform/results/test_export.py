"""Exported models, read by the tools that they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import atoll
from atoll.clients import ModelSettings, build_model, load_dataset
from tests.support.runs.finished_runs import command, finished, refused

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    images = load_dataset("digits").test.images.copy()
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_onnx_gives_the_logits_of_the_model(
    directory: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "models" / "small.onnx"
    code, stdout, stderr = command(
        *("export", directory, "--to", "onnx", "--out", out, "--round", "best")
    )
    assert code == 0, stderr
    assert stdout == f"small: loading PyTorch\nexported: {out}\n"
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    run = atoll.open_run(directory)
    with torch.no_grad():
        expected = run.model("best")(pixels).numpy()
    for examples in (1, 7, len(pixels)):
        [logits] = session.run(["logits"], {"pixels": pixels[:examples].numpy()})
        np.testing.assert_allclose(logits, expected[:examples], rtol=1e-4, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list("0123456789")
    assert json.loads(about["round"]) == run.round_of("best")
    assert json.loads(about["preprocessing"])["mean"] == list(run.inputs.mean)


def test_a_torch_program_runs_without_atoll(
    directory: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    out = tmp_path / "small.pt2"
    assert command("export", directory, "--to", "torch", "--out", out)[0] == 0
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    program = f"""
import json, sys, numpy as np, torch
files = {{"atoll.json": ""}}
model = torch.export.load({str(out)!r}, extra_files=files).module()
logits = model(torch.from_numpy(np.load({str(tmp_path / "pixels.npy")!r})))
assert "atoll" not in sys.modules
print(json.dumps([json.loads(files["atoll.json"])["classes"], logits.argmax(1).tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    classes, labels = json.loads(done.stdout)
    assert classes == list("0123456789")
    assert labels == atoll.open_run(directory).predict(pixels).labels.tolist()


def test_safetensors_have_the_networks_names_and_the_preprocessing(
    directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.safetensors"
    assert command("export", directory, "--to", "safetensors", "--out", out)[0] == 0
    run, tensors = atoll.open_run(directory), load_file(out)
    state = run.model().network.state_dict()
    assert set(tensors) == {*state, "preprocessing.mean", "preprocessing.std"}
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    with safe_open(out, "pt") as file:
        about = file.metadata()
    assert run.result is not None
    assert about["parameters_sha256"] == run.result["parameters_sha256"]
    assert about["strategy"] == "FedAvg"


def test_a_hugging_face_folder_is_built_from_its_own_files(
    directory: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    out = tmp_path / "hub"
    assert command("export", directory, "--to", "huggingface", "--out", out)[0] == 0
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
    }
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"]["7"] == "7"
    card = (out / "README.md").read_text()
    accuracy = atoll.open_run(directory).rounds.column("server_accuracy").to_pylist()[-1]
    assert f"| server_accuracy | {accuracy:.4f} |" in card
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(card.split("---")[1])
    [result] = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(accuracy, abs=1e-6)
    # The card's own instructions.
    code = card.split("```python\n")[1].split("```")[0]
    scope: dict = {}
    code = code.replace('"config.json"', repr(str(out / "config.json")))
    code = code.replace('"model.safetensors"', repr(str(out / "model.safetensors")))
    exec(code, scope)
    with torch.no_grad():
        assert torch.equal(scope["model"](pixels), atoll.open_run(directory).model()(pixels))
    scaling = json.loads((out / "preprocessor_config.json").read_text())
    normalised = (pixels - scaling["image_mean"][0]) / scaling["image_std"][0]
    network = build_model(ModelSettings(**config["atoll"]["model"]), (1, 8, 8), 10, 0)
    network.load_state_dict(load_file(out / "model.safetensors"))
    with torch.no_grad():
        assert torch.allclose(network(normalised), scope["model"](pixels), atol=1e-4)


def test_what_cannot_be_exported_is_one_line(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    said = refused("export", directory, "--to", "onx", "--out", out)
    assert "no such format; did you mean 'onnx'?" in said
    said = refused("export", directory, "--to", "torch", "--out", out, "--round", "first")
    assert "--round first: expected best, last or a number" in said
    said = refused("export", directory, "--to", "torch", "--out", out, "--round", 2)
    assert "no checkpoint of round 2" in said
    said = refused("export", tmp_path, "--to", "torch", "--out", out)
    assert "is not a run directory" in said
    out.touch()
    said = refused("export", directory, "--to", "torch", "--out", out)
    assert "is there already; expected a new path" in said


def test_a_missing_exporter_is_said_with_what_installs_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused("export", directory, "--to", "onnx", "--out", tmp_path / "x.onnx")
    assert '--to onnx needs onnx: pip install "atoll[export]"' in said
