"""Experiments as Python runs them: our clients' sums, and what of them cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import atoll
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.federation import prepare

pytestmark = pytest.mark.usefixtures("cluster")


def experiment(**tables: dict[str, Any]) -> Experiment:
    base: dict[str, dict[str, Any]] = {
        "run": {"rounds": 2, "seed": 4},
        "data": {"dataset": "digits", "clients": 30},
        "model": {"name": "mlp", "hidden": [16]},
        "client": {"batch_size": 8, "learning_rate": 0.1, "vectorize": False},
        "ray": {"workers": 2},
    }
    if "name" in tables.get("model", {}):
        base["model"] = {}
    names = {*base, *tables}
    return Experiment.from_dict({k: {**base.get(k, {}), **tables.get(k, {})} for k in names})


@pytest.mark.long
def test_the_bits_do_not_depend_on_where_replies_are_added_up(tmp_path: Path) -> None:
    def sha256(name: str, **tables: dict[str, Any]) -> str:
        result = atoll.run(experiment(**tables), out=tmp_path / name)
        return str(result.summary["parameters_sha256"])

    in_the_app = sha256("app")
    # A client that is watched is trained by itself, and its reply is added to the chunk's sum.
    assert sha256("engine", client={"timeout": 100.0}) == in_the_app
    assert sha256("workers", ray={"workers": 3}) == in_the_app


@pytest.mark.long
def test_together_is_bitwise_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    for steps in ({"batch_size": 8}, {"batch_size": 64}):
        found = {
            atoll.run(
                experiment(client={"vectorize": True, **steps}, ray={"workers": workers}),
                out=tmp_path / f"{steps['batch_size']}-{workers}",
            ).summary["parameters_sha256"]
            for workers in (1, 3)
        }
        assert len(found) == 1


@pytest.mark.long
def test_together_and_in_turn_end_close_to_each_other(tmp_path: Path) -> None:
    arrays = [
        atoll.run(experiment(client={"vectorize": together}), out=tmp_path / str(together)).arrays
        for together in (True, False)
    ]
    for key, array in arrays[0].items():
        np.testing.assert_allclose(array.numpy(), arrays[1][key].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("vectorize", "batch_size"),
    [
        (True, 8),
        (False, 1),
        pytest.param(True, 1, marks=pytest.mark.long),
        pytest.param(False, 8, marks=pytest.mark.long),
    ],
)
def test_a_client_whose_training_gives_nan_is_found_and_the_others_count(
    tmp_path: Path, vectorize: bool, batch_size: int
) -> None:
    random = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "images" / f"domain-{number % 6}" / f"class-{number // 12}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (8, 8), dtype=np.uint8)
        if number % 6 == 4:
            pixels[:] = 0
        for copy in range(5):
            Image.fromarray(np.roll(pixels, copy)).save(folder / f"{number}-{copy}.png")
    settings = experiment(
        run={"rounds": 1},
        data={
            "dataset": "folder",
            "path": str(tmp_path / "images"),
            "clients": 6,
            "partition": {"name": "natural-id"},
        },
        model={"name": "tests.support.user_code.black_image_model:standardising"},
        client={"vectorize": vectorize, "batch_size": batch_size},
        strategy={"fraction_evaluate": 0.0},
        ray={"chunk_size": 3},
    )
    result = atoll.run(settings, out=tmp_path / "run")
    rows = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    bad = [row for row in rows if row["status"] == "error"]
    assert len(rows) == 6
    assert len(bad) == 1
    assert bad[0]["domain"] == "domain-4"
    assert result.summary["errors"] == 1
    assert bad[0]["reason"].startswith("NaN or infinite values in 'layer.")
    for array in result.arrays.values():
        assert np.isfinite(array.numpy()).all()
    assert CheckpointStore(tmp_path / "run" / "checkpoints").rounds() == [1]


def test_together_where_it_cannot_be_is_refused() -> None:
    settings = experiment(client={"vectorize": True}, model={"name": "resnet8", "norm": "batch"})
    with pytest.raises(InvalidExperimentError, match=r"client\.vectorize = True.*running statist"):
        prepare(settings)
