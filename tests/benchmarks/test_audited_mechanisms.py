"""Mechanisms that ``benchmarks.privacy.audits`` audits: how they are broken, what a server sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.clients.settings import ModSettings
from atoll.platform.attack_runs.audit_run import claim_of
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.privacy.one_run import audit_scores, epsilon_bound
from benchmarks.privacy.audited_mechanisms import (
    CONFIDENCE,
    DELTA,
    MECHANISMS,
    ROUNDS,
    audit_table,
    experiment_of,
    experiments_of,
    noise_of,
    seen_by_the_server,
)
from tests.support.attacks.captured_run import captured_run


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_can_be_run_and_claims_what_its_name_says(name: str) -> None:
    given, right = experiments_of(name, 0)
    check_settings(given)
    claim, delta = claim_of(right, prepare(right), ROUNDS)
    assert delta == DELTA
    _, _, epsilon = name.rpartition(", epsilon ")
    if epsilon.isdecimal():
        assert claim == pytest.approx(float(epsilon), rel=0.01)
    if name.startswith("broken"):
        assert claim is not None
        assert claim < 2.0
        actual, _ = claim_of(given, prepare(given), ROUNDS)
        # Without clipping the accountant sees another norm and the same noise by it.
        assert actual is not None
        assert actual > 5 * claim


def test_what_is_broken_is_one_thing() -> None:
    tenth, right = experiments_of("broken central: a tenth of the noise", 0)
    unclipped, _ = experiments_of("broken central: no clipping", 0)
    assert right.privacy is not None
    assert tenth.privacy is not None
    assert unclipped.privacy is not None
    assert noise_of(tenth) == pytest.approx(noise_of(right) / 10)
    assert tenth.privacy.clipping_norm == right.privacy.clipping_norm
    # The deviation of the noise is the right one's; the norm that it should hide is ten times that.
    deviation = noise_of(unclipped) * unclipped.privacy.clipping_norm
    assert deviation == pytest.approx(noise_of(right) * right.privacy.clipping_norm)
    local, right = experiments_of("broken local: a tenth of the noise", 0)
    [broken, honest] = [experiment.client.mods[0] for experiment in (local, right)]
    assert isinstance(broken, ModSettings)
    assert isinstance(honest, ModSettings)
    assert broken.arguments == {**honest.arguments, "sensitivity": 0.2}


@pytest.mark.slow
def test_the_server_sees_every_coin_where_nothing_hides_it(tmp_path: Path) -> None:
    tables = {
        **experiment_of({}, 3).to_dict(),
        "data": {"dataset": "digits", "clients": 24, "examples_per_client": 4},
        "audit": {"canaries": 20, "norm": 1.0},
    }
    given = Experiment.from_dict(tables)
    found = seen_by_the_server(captured_run(given, tmp_path / "run"), given)
    coins = [True] * 10 + [False] * 10
    everything = audit_scores([1.0 * coin for coin in coins], coins, DELTA, CONFIDENCE)
    assert found["right"] == found["guesses"] == everything.right
    level = 1 - (1 - CONFIDENCE) / 4
    assert found["bound"] == pytest.approx(epsilon_bound(20, 20, 20, DELTA, level))


def test_a_row_counts_the_seeds_that_refute_the_claim() -> None:
    same = {"mechanism": "a", "claim": 1.0, "estimate": 2.0, "right": 3, "guesses": 4}
    trials = [{**same, "seed": seed, "bound": bound} for seed, bound in enumerate((0.5, 1.5, 2.5))]
    none = {**same, "mechanism": "b", "claim": None, "bound": 3.0, "seed": 0}
    [a, b] = audit_table([*trials, none]).rows
    assert list(a) == ["a", "1.00", "1.50 (0.50 to 2.50)", "2.00", "0.75", "2 of 3"]
    assert list(b) == ["b", "none", "3.00 (3.00 to 3.00)", "2.00", "0.75", "-"]
