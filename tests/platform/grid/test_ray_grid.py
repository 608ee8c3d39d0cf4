"""RayGrid on a real Ray: any strategy, any message, the same bits for any number of workers."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from atoll.errors import InvalidExperimentError
from atoll.platform.config.aggregation import aggregation_of
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import parameters_sha256
from tests.support.apps.faulty_app import app

pytestmark = pytest.mark.usefixtures("cluster")


def initial_arrays() -> ArrayRecord:
    values = {
        "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "bias": np.zeros(3, np.float32),
        "batches": np.array(4, dtype=np.int64),
    }
    return ArrayRecord({key: Array(value) for key, value in values.items()})


def final_hash(workers: int, **options: object) -> str:
    with RayGrid(app, 37, seed=5, workers=workers, chunk_size=4, **options) as grid:
        strategy = FedAvg(fraction_train=0.7, fraction_evaluate=0.2)
        seeded(11)
        return parameters_sha256(run_rounds(strategy, grid, initial_arrays(), 3).arrays)


def seeded(seed: int) -> None:
    from atoll.randomness import seed_everything

    seed_everything(seed)


def test_the_result_is_bitwise_the_same_for_1_2_and_3_workers() -> None:
    assert len({final_hash(1), final_hash(2), final_hash(3)}) == 1


def test_another_seed_gives_another_result() -> None:
    with RayGrid(app, 5, seed=1, workers=1) as grid:
        one = run_rounds(FedAvg(), grid, initial_arrays(), 1).arrays
    with RayGrid(app, 5, seed=2, workers=1) as grid:
        two = run_rounds(FedAvg(), grid, initial_arrays(), 1).arrays
    assert parameters_sha256(one) != parameters_sha256(two)


def test_sums_in_workers_equal_flowers_own_aggregation() -> None:
    results = {}
    for reduce in (True, False):
        with RayGrid(app, 20, seed=3, workers=2) as grid:
            options = RoundOptions(reduce=reduce)
            results[reduce] = run_rounds(FedAvg(), grid, initial_arrays(), 2, options=options)
    summed, kept = results[True], results[False]
    for key, array in kept.arrays.items():
        assert summed.arrays[key].dtype == array.dtype
        np.testing.assert_allclose(summed.arrays[key].numpy(), array.numpy(), rtol=1e-6)
    for server_round in (1, 2):
        ours = summed.train_metrics_clientapp[server_round]
        theirs = kept.train_metrics_clientapp[server_round]
        assert set(ours) == set(theirs)
        for key in theirs:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-12)


@pytest.mark.parametrize(
    ("strategy", "summed"),
    [
        (FedAvg(), True),
        (FedProx(proximal_mu=0.1), True),
        (FedAvgM(server_momentum=0.5), True),
        (FedAdam(), True),
        (FedYogi(), True),
        (FedAdagrad(), True),
        (FedMedian(), False),
        (FedTrimmedAvg(beta=0.2), False),
        (Krum(num_malicious_nodes=1), False),
        (MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), False),
        (Bulyan(num_malicious_nodes=1), False),
        (FedAvg(train_metrics_aggr_fn=lambda records, key: records[0]["metrics"]), False),
        (type("Custom", (FedAvg,), {"aggregate_train": lambda *a: (None, None)})(), False),
        (type("Sampling", (FedAvg,), {"configure_train": FedAvg.configure_train})(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_weighted_means_are_summed_in_workers(strategy: FedAvg, summed: bool) -> None:
    aggregation = aggregation_of(strategy)
    assert aggregation.sum_replies is summed
    assert aggregation.reason
    assert aggregation_of(strategy, requested=False).sum_replies is False


def test_counts_and_empty_shapes_go_through_a_strategy_as_through_flowers_own_start() -> None:
    with RayGrid(app, 8, seed=9, workers=2) as grid:
        theirs = FedAdam().start(grid, initial_arrays(), 2).arrays
        ours = run_rounds(FedAdam(), grid, initial_arrays(), 2).arrays
    for key in theirs:
        np.testing.assert_allclose(ours[key].numpy(), theirs[key].numpy(), rtol=2e-5, atol=1e-6)


def test_query_messages_and_custom_actions_come_back_in_node_order() -> None:
    with RayGrid(app, 9, workers=2, chunk_size=2) as grid:
        for action, expected in (("query.partition", list(range(9))), ("query", [-1] * 9)):
            messages = [
                Message(RecordDict(), dst_node_id=node, message_type=action)
                for node in reversed(grid.get_node_ids())
            ]
            replies = grid.send_and_receive(messages)
            assert [reply.metadata.src_node_id for reply in replies] == list(range(1, 10))
            assert [reply.content["answer"]["partition"] for reply in replies] == expected
            sent = {message.metadata.message_id for message in messages}
            assert {reply.metadata.reply_to_message_id for reply in replies} == sent


def test_context_state_persists_per_node() -> None:
    with RayGrid(app, 4, workers=2, chunk_size=1) as grid:
        result = run_rounds(FedAvg(), grid, initial_arrays(), 3)
        assert result.train_metrics_clientapp[3]["rounds"] == pytest.approx(3)
        assert set(grid.states) == {1, 2, 3, 4}


def test_different_contents_in_one_exchange_reach_the_right_nodes() -> None:
    with RayGrid(app, 6, workers=2, chunk_size=2) as grid:
        messages = []
        for node in grid.get_node_ids():
            arrays = ArrayRecord({"x": Array(np.full(3, float(node)))})
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
            messages.append(Message(content, dst_node_id=node, message_type="train"))
        values = [r.content["arrays"]["x"].numpy()[0] for r in grid.send_and_receive(messages)]
    assert np.all(np.diff(values) > 0.5 - 2.0)
    assert len(set(values)) == 6


def test_pushed_messages_can_be_pulled_one_by_one() -> None:
    with RayGrid(app, 3, workers=1) as grid:
        pushed = grid.push_messages(
            [Message(RecordDict(), dst_node_id=n, message_type="query.partition") for n in (1, 3)]
        )
        replies: list[Message] = []
        left = set(pushed)
        while left:
            replies += grid.pull_messages(left)
            left -= {reply.metadata.reply_to_message_id for reply in replies}
        assert {reply.metadata.reply_to_message_id for reply in replies} == set(pushed)
        # Flower's answer to who asks again.
        assert [reply.error.code for reply in grid.pull_messages(pushed)] == [3, 3]


def test_nobody_is_told_of_what_ends_after_the_reports_were_stopped() -> None:
    begun, told = threading.Event(), list[str]()

    def note(report: ExchangeReport) -> None:
        begun.set()
        time.sleep(0.5)
        told.append(report.kind)

    with RayGrid(app, 2, seed=1, workers=1) as grid:
        grid.report_to(note)
        queries = [Message(RecordDict(), dst_node_id=n, message_type="query") for n in (1, 2)]
        grid.push_messages(queries[:1])
        assert begun.wait(60.0)
        grid.stop_reports()
        # The report that had begun is whole.
        assert told == ["query"]
        assert len(grid.send_and_receive(queries[1:])) == 1
    assert told == ["query"]


def test_a_million_nodes_cost_nothing_until_sampled() -> None:
    with RayGrid(app, 1_000_000, workers=1) as grid:
        assert len(grid.get_node_ids()) == 1_000_000
        strategy = FedAvg(fraction_train=5e-6, fraction_evaluate=0.0, min_train_nodes=2)
        result = run_rounds(strategy, grid, initial_arrays(), 2)
        assert len(result.train_metrics_clientapp) == 2
        assert len(grid.states) <= 10


def test_a_message_to_a_node_that_is_not_there_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("atoll").propagate = True
    with RayGrid(app, 3, workers=1) as grid:
        messages = [Message(RecordDict(), node, "query.partition") for node in (4, 2)]
        [reply] = grid.send_and_receive(messages)
    assert reply.content["answer"]["partition"] == 1
    assert "message to node 4 is not sent: nodes are 1 to 3" in caplog.text


def test_a_gpu_where_there_is_none_is_refused() -> None:
    with pytest.raises(InvalidExperimentError, match=r"gpus_per_worker = 0\.5: there is no GPU"):
        RayGrid(app, 3, gpus_per_worker=0.5)


def test_more_workers_than_cpus_share_them() -> None:
    with RayGrid(app, 12, workers=8, chunk_size=1) as grid:
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type="query.partition")
            for node in grid.get_node_ids()
        ]
        assert len(grid.send_and_receive(messages)) == 12
        assert grid.workers == 8


def test_weighted_mean_is_closer_to_the_exact_one_than_flowers() -> None:
    from atoll.clients.arrays.weighted_sum import WeightedSum

    generator = np.random.default_rng(0)
    replies = [generator.normal(size=1000).astype(np.float32) for _ in range(64)]
    weights = generator.integers(1, 50, 64)
    exact = np.average(np.stack(replies).astype(np.longdouble), axis=0, weights=weights)
    total = WeightedSum()
    records = []
    for values, weight in zip(replies, weights, strict=True):
        record = ArrayRecord({"x": Array(values)})
        total.add(record, float(weight))
        from flwr.app import MetricRecord

        metrics = MetricRecord({"num-examples": int(weight)})
        records.append(RecordDict({"arrays": record, "metrics": metrics}))
    ours = np.abs(total.mean()["x"].numpy() - exact).max()
    theirs = np.abs(aggregate_arrayrecords(records, "num-examples")["x"].numpy() - exact).max()
    assert ours <= theirs
    assert ours <= np.abs(exact).max() * 2**-24
