"""``atoll membership`` on a run directory with captures of real clients."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.attacks.captures.capture_files import write_capture
from atoll.clients.settings import ClientSettings
from atoll.errors import CaptureError, RunDirectoryError
from atoll.platform.attack_runs.membership_run import MembershipRun, run_membership
from atoll.platform.config.experiment import Experiment
from tests.support.attacks.captured import a_spec, captured, folder_of

# Its fixtures take longer than its tests.
pytestmark = pytest.mark.xdist_group("membership-run")

NODES = (1, 2, 3, 4)
EXAMPLES = 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    experiment = Experiment.from_dict({"data": {"dataset": "digits"}, "run": {"rounds": 1}})
    (directory / "config.toml").write_text(experiment.to_toml())
    passes = ClientSettings(learning_rate=0.1, batch_size=5, epochs=10)
    spec = dataclasses.replace(a_spec(model="mlp", examples=EXAMPLES), client=passes)
    for node in NODES:
        capture, truth = captured(spec, node - 1)
        write_capture(capture, truth, folder_of(capture, directory / "captures"))
    return directory


@pytest.fixture(scope="module")
def found(directory: Path) -> MembershipRun:
    return run_membership(directory, candidates=50)


def test_candidates_are_a_clients_examples_and_as_many_of_nobody(found: MembershipRun) -> None:
    rows = pq.read_table(found.directory / "membership.parquet").to_pylist()
    assert rows == found.rows
    for node in NODES:
        of_node = [row for row in rows if row["node_id"] == node]
        assert [row["member"] for row in of_node] == [True] * EXAMPLES + [False] * EXAMPLES
        assert len({row["index"] for row in of_node[:EXAMPLES]}) == EXAMPLES
    assert found.threat.name == "eavesdropper"


@pytest.mark.parametrize("method", ["loss drop", "cosine", "FedMIA"])
def test_members_of_an_overfitted_client_are_found(method: str, found: MembershipRun) -> None:
    assert found.figures(method)["AUROC"].low > 0.5


def test_the_table_has_all_candidates_first_and_then_each_client(found: MembershipRun) -> None:
    table = found.table()
    assert table.header == ["node", "method", "AUROC", "TPR at 1.0%", "TPR at 0.1%"]
    assert [row[0] for row in table.rows[:: len(found.methods)]] == ["all", *map(str, NODES)]
    assert str(EXAMPLES * len(NODES)) in table.title


def test_one_seed_draws_the_same_candidates(directory: Path, found: MembershipRun) -> None:
    few = [run_membership(directory, candidates=5, seed=seed).rows for seed in (1, 1, 2)]
    assert few[0] == few[1] != few[2]


def test_a_run_without_captures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        run_membership(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(CaptureError, match="has no captures"):
        run_membership(tmp_path)
