"""A run, opened: its tables, and models that take pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import atoll
from atoll.clients import load_dataset
from atoll.platform.run_directory.checkpoint import parameters_sha256
from tests.support.runs.finished_runs import ROUNDS, experiment, finished

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "small")


def test_the_configuration_and_the_tables_are_those_that_were_written(directory: Path) -> None:
    run = atoll.open_run(directory)
    assert run.config == experiment()
    assert run.rounds.column("round").to_pylist() == list(range(1, ROUNDS + 1))
    assert run.clients.num_rows == ROUNDS * 8
    frame = run.clients.to_pandas()
    assert set(frame.phase) == {"train", "evaluate"}
    assert run.result is not None
    assert run.result["rounds"] == ROUNDS


def test_the_last_model_is_that_of_the_result(directory: Path) -> None:
    run = atoll.open_run(directory)
    assert run.result is not None
    assert parameters_sha256(run.arrays()) == run.result["parameters_sha256"]


def test_the_best_round_is_kept_and_evaluates_to_what_the_ledger_says(directory: Path) -> None:
    run = atoll.open_run(directory)
    accuracies = run.rounds.column("server_accuracy").to_pylist()
    losses = run.rounds.column("server_loss").to_pylist()
    best = accuracies.index(max(accuracies)) + 1
    assert run.round_of("best") == best
    assert set(run.kept_rounds) == {best, ROUNDS}
    for round in ("best", "last"):
        place = run.round_of(round) - 1
        metrics = run.evaluate(round=round)
        assert metrics["accuracy"] == accuracies[place]
        assert metrics["loss"] == pytest.approx(losses[place], rel=1e-6)
        assert metrics["per_class_accuracy"] == pytest.approx(
            run.rounds.column("server_per_class_accuracy").to_pylist()[place]
        )


def test_pixels_in_any_form_give_the_predictions_of_the_run(directory: Path) -> None:
    run, test = atoll.open_run(directory), load_dataset("digits").test
    accuracy = run.rounds.column("server_accuracy").to_pylist()[-1]
    found = run.predict(test)
    assert (found.labels == test.labels).mean() == accuracy
    assert found.names[:3] == [str(label) for label in found.labels[:3]]
    assert found.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    first = torch.from_numpy(test.images.copy()).permute(0, 3, 1, 2)
    forms = {
        "bytes, channels last": test.images,
        "numbers, channels last": test.images / 255,
        "numbers, no channels": test.images[..., 0].astype(np.float32) / 255,
        "tensor of bytes": first,
        "tensor of numbers": first.float() / 255,
        "a list": list(first[:20].float() / 255) + [first[20:].float() / 255],
    }
    for name, examples in forms.items():
        assert np.array_equal(run.predict(examples).labels, found.labels), name
    # What was lost before: a network that is given pixels, and not what it was trained on.
    model = run.model()
    assert not model.training
    logits = model(first.float() / 255)
    normalised = (first.float() / 255 - model.inputs.mean[0]) / model.inputs.std[0]
    assert torch.allclose(logits, model.network(normalised), atol=1e-4)
    assert not torch.allclose(logits, model.network(first.float() / 255), atol=1e-1)


def test_one_image_alone_and_no_image(directory: Path) -> None:
    run, images = atoll.open_run(directory), load_dataset("digits").test.images
    assert run.predict(images[3]).labels.shape == (1,)
    assert run.predict(images[:0]).probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (np.zeros((2, 9, 9, 1), np.uint8), "expected (n, channels, height, width)"),
        (np.full((2, 8, 8, 1), 255.0), "from 255 to 255; expected pixels from 0 to 1"),
        (torch.full((2, 1, 8, 8), -0.5), "not normalised"),
        (np.zeros((2, 8, 8, 1), np.int64), "expected uint8 (0 to 255) or floating point"),
        ("a file", "expected NumPy arrays, tensors"),
    ],
)
def test_what_is_no_image_is_refused(directory: Path, examples: object, message: str) -> None:
    with pytest.raises(atoll.DataUnavailableError) as caught:
        atoll.open_run(directory).predict(examples)
    assert message in str(caught.value)


def test_other_data_are_normalised_as_in_training(directory: Path) -> None:
    run, digits = atoll.open_run(directory), load_dataset("digits")
    assert run.evaluate(digits)["accuracy"] == run.evaluate()["accuracy"]
    on_train = run.evaluate(digits.train)["accuracy"]
    assert on_train == (run.predict(digits.train).labels == digits.train.labels).mean()
    with pytest.raises(atoll.DataUnavailableError, match="images are of shape"):
        run.evaluate(load_dataset("colored-digits").test)
    with pytest.raises(atoll.DataUnavailableError, match="has 2 classes; expected the 10"):
        run.evaluate(load_dataset("colored-digits"))


def test_a_model_needs_no_data_and_runs_of_before_have_none_noted(
    directory: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    partition = json.loads((copy / "partition.json").read_text())
    noted = partition.pop("inputs")
    digits = load_dataset("digits")
    assert noted["mean"] == list(digits.mean)
    (copy / "partition.json").write_text(json.dumps(partition))
    (copy / "manifest.json").unlink()
    assert atoll.open_run(copy).inputs == atoll.open_run(directory).inputs


def test_rounds_that_are_not_there_are_named(directory: Path, tmp_path: Path) -> None:
    run = atoll.open_run(directory)
    with pytest.raises(atoll.RunDirectoryError, match="no checkpoint of round 2; expected a round"):
        run.model(2)
    kept_last = finished(tmp_path / "last", run={"keep": "last"}, client={"learning_rate": 2.0})
    run = atoll.open_run(kept_last)
    assert run.kept_rounds == [ROUNDS]
    accuracies = run.rounds.column("server_accuracy").to_pylist()
    if accuracies.index(max(accuracies)) + 1 != ROUNDS:
        with pytest.raises(atoll.RunDirectoryError, match="run.keep = 'best' keeps it"):
            run.model("best")


@pytest.mark.long
def test_a_given_round_is_kept_whatever_the_others(tmp_path: Path, cluster: None) -> None:
    directory = finished(tmp_path / "third", run={"keep": 3})
    run = atoll.open_run(directory)
    assert run.kept_rounds == [3, ROUNDS]
    accuracy = run.rounds.column("server_accuracy").to_pylist()[2]
    assert run.evaluate(round=3)["accuracy"] == accuracy


@pytest.mark.long
def test_what_is_kept_changes_no_bit_and_a_resumed_run_knows_its_best(
    tmp_path: Path, directory: Path
) -> None:
    other = finished(tmp_path / "last", run={"keep": "last", "checkpoint_every": 5})
    results = [atoll.open_run(d).result for d in (directory, other)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0]["parameters_sha256"] == results[1]["parameters_sha256"]
    # A run that stops half-way and continues has kept the same round.
    atoll.run(experiment(run={"rounds": 3}), out=tmp_path / "half")
    again = atoll.run(experiment(), out=tmp_path / "half", resume=True)
    assert again.summary["parameters_sha256"] == results[0]["parameters_sha256"]
    assert atoll.open_run(tmp_path / "half").kept_rounds == atoll.open_run(directory).kept_rounds


def test_a_model_of_somebody_elses_is_not_imported(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    config = (copy / "config.toml").read_text().replace('name = "mlp"', 'name = "planted:model"')
    (copy / "config.toml").write_text(config)
    (copy / "manifest.json").unlink()
    with pytest.raises(atoll.UntrustedCodeError, match="planted:model"):
        atoll.open_run(copy).model()


def test_a_folder_that_is_no_run_and_a_changed_checkpoint(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(atoll.RunDirectoryError, match="is not a run directory"):
        atoll.open_run(tmp_path)
    copy = shutil.copytree(directory, tmp_path / "copy")
    path = copy / "checkpoints" / f"round-{ROUNDS:06d}" / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(atoll.CorruptCheckpointError, match="differs from its manifest"):
        atoll.open_run(copy).model()
