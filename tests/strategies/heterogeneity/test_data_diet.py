"""The federation's quantile of scores from sums of histograms, against all scores in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from atoll.clients.settings import ClientSettings, SelectionSettings
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.score_bins import BINS, bins_of, lowest_bin
from atoll.platform.config.aggregation import aggregation_of
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.strategies import DataDiet
from tests.support.strategies.small_federation import SmallFederation, hex_of, make_federation

LAYOUT: Sequence[Mapping[str, int]] = [{"photo": 9, "art": 4}, {"art": 9, "sketch": 5}, {"art": 3}]
SIZES = (13, 14, 3)
ALL = {"min_train_nodes": 3, "min_available_nodes": 3}


def federation_of(folder: Path, **selection: Any) -> SmallFederation:
    chosen = SelectionSettings(**selection) if selection else None
    settings = ClientSettings(learning_rate=0.3, batch_size=4, epochs=2, selection=chosen)
    return make_federation(folder, LAYOUT, client=settings)


def rounds(
    strategy: Strategy, federation: SmallFederation, count: int
) -> tuple[ArrayRecord, list[dict[str, Any]]]:
    arrays, found = federation.arrays, []
    for number in range(1, count + 1):
        arrays, metrics = federation.round(strategy, number, arrays)
        found.append(metrics)
    return arrays, found


def scores_of(federation: SmallFederation) -> list[Tensor]:
    """Return each client's mean scores, which its node keeps."""
    states = federation.grid.states
    return [NodeMemory(states[node], "selection").read()["scores"] for node in sorted(states)]


def used_in_last_round(federation: SmallFederation) -> list[int]:
    """Return the examples of each client's last reply, asked once more."""
    replies = federation.grid.send_and_receive(federation.grid.sent[-len(LAYOUT) :])
    return [int(r.content.metric_records["metrics"]["num-examples"]) for r in replies]  # type: ignore[arg-type]


@pytest.mark.parametrize("score", ["el2n", "grand", "random"])
def test_clients_train_on_what_is_above_the_federations_quantile(
    score: str, tmp_path: Path
) -> None:
    federation = federation_of(tmp_path, score=score, drop=0.4, score_rounds=2, over="federation")
    strategy = DataDiet(**ALL)
    _, metrics = rounds(strategy, federation, 3)
    assert [m["scored-examples"] for m in metrics] == [0.0, 30.0, 30.0]
    settings = SelectionSettings(score=score, drop=0.4)  # type: ignore[arg-type]
    own = [bins_of(scores, settings).numpy() for scores in scores_of(federation)]
    pooled = np.sort(np.concatenate(own))
    assert strategy.counts.tolist() == np.bincount(pooled, minlength=BINS).tolist()
    # 12 of 30 may go: the lowest bin that stays is that of the 13th score.
    expected = [max(1, int((bins >= pooled[12]).sum())) for bins in own]
    assert used_in_last_round(federation) == expected
    assert 18 <= sum(expected) < 30
    # A share of each client's own would be another choice.
    assert expected != [max(1, round(0.6 * size)) for size in SIZES] or score == "random"


def test_the_threshold_is_the_quantile_to_a_bin() -> None:
    settings = SelectionSettings(score="grand", drop=0.3)
    scores = torch.rand(5000, generator=torch.Generator().manual_seed(0)).exp()
    counts = torch.bincount(bins_of(scores, settings), minlength=BINS)
    kept = bins_of(scores, settings) >= lowest_bin(counts, 0.3)
    assert 0.0 <= 0.3 - float((~kept).double().mean()) <= float(counts.max()) / 5000
    assert scores[kept].min() >= scores[~kept].max()


def test_before_there_is_a_quantile_it_is_federated_averaging(tmp_path: Path) -> None:
    plain, _ = rounds(FedAvg(**ALL), federation_of(tmp_path / "a"), 2)
    keys = {"drop": 0.4, "score_rounds": 2, "over": "federation"}
    scored, _ = rounds(DataDiet(**ALL), federation_of(tmp_path / "b", **keys), 2)
    assert hex_of(scored) == hex_of(plain)
    plain, _ = rounds(FedAvg(**ALL), federation_of(tmp_path / "c"), 3)
    selected, _ = rounds(DataDiet(**ALL), federation_of(tmp_path / "d", **keys), 3)
    assert hex_of(selected) != hex_of(plain)


def test_the_strategy_uses_sums_alone() -> None:
    assert aggregation_of(DataDiet()).sum_replies


def test_a_strategy_continues_from_a_checkpoint(tmp_path: Path) -> None:
    keys = {"drop": 0.4, "score_rounds": 1, "over": "federation"}
    federation, first = federation_of(tmp_path, **keys), DataDiet(**ALL)
    arrays, _ = rounds(first, federation, 1)
    encoder = StateEncoder()
    tree = encoder.attributes(first, "strategy")
    assert encoder.skipped == []
    whole, _ = federation.round(first, 2, arrays)
    second = DataDiet(**ALL)
    StateDecoder(encoder.arrays).restore_attributes(second, tree)
    assert hex_of(federation.round(second, 2, arrays)[0]) == hex_of(whole)
    assert hex_of(federation.round(DataDiet(**ALL), 2, arrays)[0]) != hex_of(whole)
