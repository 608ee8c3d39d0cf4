"""Recording clients' messages: what is recorded is real, and the run does not notice."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

import atoll
from atoll.attacks.capture_validation.replay import diagnose_capture
from atoll.attacks.captures.capture_files import CAPTURES, find_captures, read_capture, read_truth
from atoll.attacks.threat.label_leakage import leaked_labels, share_recovered
from atoll.attacks.victims import references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError, CaptureError, InvalidExperimentError
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.attack_runs.label_counts import run_labels
from atoll.platform.cli.application import application
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.run_report import write_report

pytestmark = pytest.mark.usefixtures("cluster")


def experiment(**tables: dict[str, Any]) -> Experiment:
    base: dict[str, dict[str, Any]] = {
        "run": {"rounds": 2, "seed": 4},
        "data": {"dataset": "digits", "clients": 12},
        "model": {"name": "mlp", "hidden": [16]},
        "client": {"batch_size": 8, "learning_rate": 0.1, "vectorize": False},
        "strategy": {"fraction_evaluate": 0.0},
        "ray": {"workers": 1},
    }
    if "name" in tables.get("model", {}):
        base["model"] = {}
    names = {*base, *tables}
    return Experiment.from_dict({k: {**base.get(k, {}), **tables.get(k, {})} for k in names})


def sha256(directory: Path, **tables: dict[str, Any]) -> str:
    return str(atoll.run(experiment(**tables), out=directory).summary["parameters_sha256"])


THIRD_AND_FIFTH: dict[str, Any] = {"nodes": [3, 5], "rounds": [1, 2]}


@pytest.mark.parametrize(
    "tables",
    [
        {},
        pytest.param({"client": {"vectorize": True}}, marks=pytest.mark.long),
        pytest.param(
            {"client": {"mods": ["tests.support.user_code.doubling_mod:doubled"]}},
            marks=pytest.mark.long,
        ),
    ],
)
def test_recording_does_not_change_the_run_by_a_bit(
    tmp_path: Path, tables: dict[str, dict[str, Any]]
) -> None:
    recorded = sha256(tmp_path / "recorded", capture=THIRD_AND_FIFTH, **tables)
    assert recorded == sha256(tmp_path / "plain", **tables)
    found = find_captures(tmp_path / "recorded")
    assert [path.name for path in found] == [
        f"round-00000{r}-node-00000{n}-train" for r in (1, 2) for n in (3, 5)
    ]
    assert not (tmp_path / "plain" / CAPTURES).exists()
    causes = {diagnose_capture(path).cause for path in found}
    assert causes == ({"defense"} if "mods" in tables.get("client", {}) else {None})


def test_what_is_recorded_is_the_message_and_the_truth_beside_it(tmp_path: Path) -> None:
    result = atoll.run(
        experiment(capture={"nodes": "all", "rounds": [2]}, data={"clients": 3}),
        out=tmp_path / "run",
    )
    captures = [read_capture(path) for path in find_captures(tmp_path / "run")]
    truths = [read_truth(path) for path in find_captures(tmp_path / "run")]
    weights = [capture.examples for capture in captures]
    for key, array in result.arrays.items():
        mean = sum(
            w * capture.update[key].double() for w, capture in zip(weights, captures, strict=True)
        ) / sum(weights)
        np.testing.assert_array_equal(array.numpy(), mean.float().numpy())
    split = load_dataset("digits").train
    for capture, truth in zip(captures, truths, strict=True):
        assert capture.sent.value("server-round") == 2
        assert capture.learning_rate == 0.1
        np.testing.assert_array_equal(truth.pixels.numpy(), split.images[truth.indices.numpy()])
        np.testing.assert_array_equal(truth.labels.numpy(), split.labels[truth.indices.numpy()])
        assert len(truth.labels) == capture.examples


def test_clients_examples_are_marked_and_in_no_report(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    atoll.run(experiment(capture=THIRD_AND_FIFTH), out=directory)
    for path in find_captures(directory):
        assert json.loads((path / "truth.json").read_text())["contains"] == "raw client data"
        with safe_open(path / "truth.safetensors", "pt") as file:
            assert file.metadata() == {"contains": "raw client data"}
    report = write_report(directory)
    with_captures = without_ids(report.read_text())
    shutil.rmtree(directory / CAPTURES)
    assert without_ids(write_report(directory).read_text()) == with_captures
    assert not list(directory.rglob("*.png"))


def without_ids(page: str) -> str:
    """Return a report without random ids."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", page)


@pytest.mark.long
def test_the_doctor_finds_what_strategy_and_schedule_did_consistent(tmp_path: Path) -> None:
    settings = experiment(
        capture=THIRD_AND_FIFTH,
        data={"clients": 60},
        model={"name": "resnet8", "norm": "batch"},
        client={"epochs": 2, "momentum": 0.9, "schedule": {"name": "step", "every": 1}},
        strategy={
            "name": "FedProx",
            "proximal_mu": 0.5,
            "fraction_evaluate": 0.0,
            "fraction_train": 0.9,
        },
    )
    atoll.run(settings, out=tmp_path / "run")
    for path in find_captures(tmp_path / "run"):
        found = diagnose_capture(path)
        assert found.consistent, (path.name, found)


def test_queries_and_gradients_of_alignment_are_recorded(tmp_path: Path) -> None:
    strategy = {"name": "HGP", "fraction_evaluate": 0.0}
    atoll.run(
        experiment(capture={"nodes": [2], "rounds": [1]}, strategy=strategy), out=tmp_path / "run"
    )
    queries = find_captures(tmp_path / "run", "query.moments")
    asked = [read_capture(query).sent.value("statistics") for query in queries]
    assert [] in asked
    assert ['{"name": "head-gradient"}'] in asked
    assert sum("hessian-product" in str(statistics) for statistics in asked) == 2
    assert read_capture(queries[-1]).reply.arrays
    truth = read_truth(queries[0])
    assert len(truth.batches) == 0
    asking = next(q for q in queries if "head-gradient" in str(read_capture(q).sent.values))
    public = references_of(load_dataset("digits")).public.images
    [leaked] = leaked_labels(read_capture(asking), public)
    assert share_recovered(leaked.counts, truth.labels) >= 0.9
    counted = run_labels(tmp_path / "run", public=True)
    assert [row["counts"] for row in counted.rows] == [leaked.counts.tolist()]
    assert counted.rows[0]["recovered"] == share_recovered(leaked.counts, truth.labels)
    assert pq.read_table(counted.directory / "labels.parquet").num_rows == 1
    with pytest.raises(CaptureError, match="no answer to a query for moments"):
        leaked_labels(read_capture(find_captures(tmp_path / "run", "train")[0]))
    assert find_captures(tmp_path / "run", "train")


def test_layers_that_noprop_clients_train_are_recorded_replayed_and_attacked(
    tmp_path: Path,
) -> None:
    settings = experiment(
        capture={"nodes": [1, 2], "rounds": [1, 2]},
        data={"examples_per_client": 3},
        model={"name": "noprop-dt", "block": "small", "steps": 3, "norm": "group"},
        strategy={"name": "Layerwise", "layers_per_client": 2},
    )
    atoll.run(settings, out=tmp_path / "run")
    found = find_captures(tmp_path / "run")
    assert len(found) == 4
    for path in found:
        assert diagnose_capture(path).consistent, path.name
        layers = {key.split(".")[1] for key in read_capture(path).update if "blocks" in key}
        assert len(layers) == 2
    with pytest.raises(CaptureError, match="has no captures of 'query"):
        find_captures(tmp_path / "run", "query.capacity")
    attacked = run_attack(
        tmp_path / "run",
        "inverting-gradients",
        victims=["1:2"],
        settings={"steps": 5},
        lpips=False,
    )
    assert [row["layers"] for row in attacked.rows] == [2, 2, 2]
    assert [row["label_accuracy"] for row in attacked.rows] == [1.0] * 3


@pytest.mark.long
def test_a_run_that_is_resumed_has_the_same_captures(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "capture": {"nodes": [3], "rounds": [2]},
        "run": {"rounds": 2, "checkpoint_every": 1},
    }

    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atoll.run(experiment(**tables), out=tmp_path / "cut", callbacks=[stop])
    atoll.resume(tmp_path / "cut")
    atoll.run(experiment(**tables), out=tmp_path / "whole")
    [cut], [whole] = (find_captures(tmp_path / name) for name in ("cut", "whole"))
    for file in ("messages.safetensors", "truth.safetensors", "capture.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()


def test_a_client_that_was_not_sampled_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("atoll")
    logger.addHandler(caplog.handler)
    try:
        strategy = {"fraction_train": 0.1, "fraction_evaluate": 0.0, "min_train_nodes": 1}
        capture = {"nodes": list(range(1, 13)), "rounds": [1]}
        atoll.run(experiment(strategy=strategy, capture=capture), out=tmp_path / "run")
    finally:
        logger.removeHandler(caplog.handler)
    assert len(find_captures(tmp_path / "run")) == 1
    assert "nothing was captured of nodes" in caplog.text


@pytest.mark.parametrize(
    ("capture", "text"),
    [
        (
            {"nodes": [13], "rounds": [1]},
            r"capture\.nodes = \[13\]: there is no 13 .* from 1 to 12",
        ),
        ({"nodes": [1], "rounds": [1, 3]}, r"capture\.rounds = \[1, 3\]: there is no 3 .*1 to 2"),
        ({"nodes": [0], "rounds": [1]}, r"capture\.nodes.*greater than 0"),
        ({"nodes": [], "rounds": [1]}, r"capture\.nodes.*at least 1"),
        ({"nodes": "some", "rounds": [1]}, r"capture\.nodes = 'some': expected 'all'"),
        ({"nodes": "all"}, r"capture\.rounds is not set"),
    ],
)
def test_what_does_not_exist_cannot_be_recorded(capture: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidExperimentError, match=text):
        experiment(capture=capture)


@pytest.fixture(scope="module")
def captured(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clients of a federation that takes one step on two images."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    tables: dict[str, Any] = {
        "run": {"rounds": 1, "seed": 4},
        "client": {"batch_size": 2, "steps": 1, "learning_rate": 1.0},
        "model": {"name": "lenet-sigmoid"},
        "capture": {"nodes": [3, 5], "rounds": [1]},
    }
    atoll.run(experiment(**tables), out=directory)
    return directory


def test_a_run_is_attacked_from_the_command_line(captured: Path) -> None:
    command = ["attack", str(captured), "--attack", "idlg", "--victim", "1:3"]
    done = CliRunner().invoke(application, [*command, "--set", "steps=40", "--lpips", "none"])
    assert done.exit_code == 0, done.output
    for text in ("PSNR", "identification rate", "label accuracy", "informed eavesdropper"):
        assert text in done.output
    rows = pq.read_table(captured / "attacks" / "idlg" / "rows.parquet").to_pylist()
    assert [(row["round"], row["node_id"], row["image"]) for row in rows] == [(1, 3, 0), (1, 3, 1)]
    assert {row["label_source"] for row in rows} == {"inferred"}
    with Image.open(captured / "attacks" / "idlg" / "pictures.png") as picture:
        assert picture.size == (2 * 68 + 4, 2 * 68 + 4 + 14)
    assert (captured / "attacks" / "idlg" / "attack.json").is_file()
    page = (captured / "attacks" / "idlg" / "attack.html").read_text()
    assert page.count("data:image/png") == 4
    assert "round 1, node 3, image 1; idlg" in page


def test_the_doctor_speaks_on_the_command_line(captured: Path, tmp_path: Path) -> None:
    [capture, _] = find_captures(captured)
    done = CliRunner().invoke(application, ["doctor", str(capture)])
    assert done.exit_code == 0, done.output
    assert "the capture is consistent" in done.output
    done = CliRunner().invoke(application, ["doctor", str(tmp_path)])
    assert done.exit_code == 2


def test_bad_attacks_are_refused_before_anything_is_computed(captured: Path) -> None:
    with pytest.raises(CaptureError, match=r"--victim 1:4: was not captured; .*1:3, 1:5"):
        run_attack(captured, "idlg", victims=["1:4"])
    with pytest.raises(AttackError, match="grants 'defense', and there is none"):
        run_attack(captured, "idlg", settings={"defense": "adaptive"}, lpips=False)
    with pytest.raises(AttackError, match="no imprint block"):
        run_attack(captured, "imprint", lpips=False)
    assert not (captured / "attacks" / "imprint").exists()


def test_victims_of_a_run_are_attacked_together(captured: Path) -> None:
    result = run_attack(captured, "idlg", settings={"steps": 3, "restarts": 1}, lpips=False)
    assert [attacked.victim.capture.node_id for attacked in result.attacked] == [3, 5]
    assert len(result.rows) == 4
    assert result.means()["lpips"] is None
    torch.testing.assert_close(
        result.attacked[0].victim.truth.images,
        read_truth(find_captures(captured)[0]).images[
            read_truth(find_captures(captured)[0]).batches[0].sort().values
        ],
    )
