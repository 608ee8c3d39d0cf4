"""``atoll membership`` on a run directory with captures of real clients."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.attacks.captures.capture_files import write_capture
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.settings import ClientSettings
from atoll.errors import AttackError, CaptureError, RunDirectoryError
from atoll.platform.attack_runs.membership_run import MembershipRun, run_membership
from atoll.platform.attack_runs.shadows.shadow_attacks import ShadowSettings
from atoll.platform.config.experiment import Experiment
from atoll.platform.reports.membership_report import roc_figure
from tests.support.attacks.captured import a_spec, captured, folder_of

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
    assert table.header == ["node", "method", "AUROC", "TPR at 1.0%", "TPR at 0.1%", "least FPR"]
    assert [row[0] for row in table.rows[:: len(found.methods)]] == ["all", *map(str, NODES)]
    assert str(EXAMPLES * len(NODES)) in table.title
    assert table.rows[0][-1] == f"{1 / (EXAMPLES * len(NODES)):.2g}"
    assert table.rows[-1][-1] == f"{1 / EXAMPLES:.2g}"


def test_the_page_has_roc_curves_by_method_and_tables(found: MembershipRun) -> None:
    page = (found.directory / "membership.html").read_text()
    for text in ("false-positive rate", "FedMIA", "Clopper and Pearson", "eavesdropper"):
        assert text in page
    curves = roc_figure(found.rows, found.methods)
    assert [curve.name for curve in curves.series] == [*found.methods, "chance"]
    assert curves.powers
    loss = curves.series[0]
    others = sum(not row["member"] for row in found.rows)
    # From a rate of 0, drawn at half of the least, to 1.
    assert loss.x[0] == math.log10(0.5 / others)
    assert (loss.x[-1], loss.y[-1]) == (0.0, 0.0)
    assert all(a <= b for a, b in itertools.pairwise(loss.y))  # type: ignore[operator]


def test_others_can_have_the_classes_of_the_members(directory: Path) -> None:
    rows = run_membership(directory, candidates=10, same_classes=True).rows
    digits = load_dataset("digits")
    for node in NODES:
        own = [row for row in rows if row["node_id"] == node]
        members = [int(digits.train.labels[row["index"]]) for row in own if row["member"]]
        others = [int(digits.test.labels[row["index"]]) for row in own if not row["member"]]
        assert sorted(members) == sorted(others)


def test_settings_out_of_range_are_refused_before_a_file_is_read() -> None:
    for given, message in (
        ({"attack": ["lyra"]}, "attack = 'lyra': expected lira, rmia, active"),
        ({"ascent": -1.0}, "ascent = -1: expected 0 to 10"),
        ({"shadows": ShadowSettings(7)}, "shadows = 7: expected an even number, at least 4"),
        ({"shadows": ShadowSettings(a=2.0)}, "rmia-a = 2: expected 0 to 1"),
        ({"shadows": ShadowSettings(gamma=0.5)}, "rmia-gamma = 0.5: expected at least 1"),
        ({"shadows": ShadowSettings(variance="none")}, "variance = 'none': expected auto"),
    ):
        with pytest.raises(AttackError, match=re.escape(message)):
            run_membership(Path("nowhere"), **given)  # type: ignore[arg-type]


def test_one_seed_draws_the_same_candidates(directory: Path, found: MembershipRun) -> None:
    few = [run_membership(directory, candidates=5, seed=seed).rows for seed in (1, 1, 2)]
    assert few[0] == few[1] != few[2]


def test_a_run_without_captures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        run_membership(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(CaptureError, match="has no captures"):
        run_membership(tmp_path)
