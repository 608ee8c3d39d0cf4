"""The conformance apps by group; a group is one test file, with one process for each engine."""

from __future__ import annotations

from tests.support.conformance.two_engines import Case

RECORDS = [
    Case("scaffold", workers=2),
    Case("heterofl"),
    Case("missing", nodes=4),
    Case("buffers", nodes=4, workers=2),
    Case("unweighted"),
    Case("many_records"),
    Case("some_metrics", nodes=3),
    Case("empty_replies"),
    Case(
        "configs",
        config={"lr": 0.1, "name": "x", "flag": True, "nested.depth": 2},
        run_config=("lr=0.5 name='y z'", "flag=false"),
    ),
    Case("dtypes", nodes=2),
    Case("large", nodes=4, workers=2),
    Case("odd_values", nodes=2, workers=2, flower_log=False),
    Case("record_classes", nodes=1),
]

FAILURES = [
    Case("client_errors", nodes=5, workers=2),
    Case("exceptions", nodes=2, workers=2),
    Case("inconsistent", stock_code=1),
    Case("all_fail", atoll_code=1),
    Case("wrong_return", workers=2),
    Case("server_raises", stock_code=1),
    # An app that says how it ends is believed; stock knows Exceptions only.
    Case("server_exits", atoll_code=3),
    Case("shadowed", nodes=2),
    Case("client_import", nodes=2, stock_code=1, flower_log=False),
]

GRID = [
    Case("grid_unknown"),
    Case("grid_run", config={"lr": 0.1, "name": "x"}, run_config=("lr=0.5",)),
    Case("metadata", nodes=2),
    Case("grid_same_message", nodes=2),
    Case("grid_proxy", nodes=4),
    Case("actions", nodes=2),
    Case("many_to_one", workers=2),
    Case("node_state", workers=2),
    Case("node_sets", workers=2),
    Case("reply_metadata", nodes=1),
]

ASYNCHRONOUS = [
    Case("grid_async", nodes=2, workers=2, at_once=2),
    Case("fire_and_forget", workers=2),
    Case("grid_threads", nodes=4, workers=2, at_once=2),
    Case("push_during_exchange", workers=2, at_once=2),
    Case("grid_ttl", nodes=2, workers=2, at_once=2),
    Case("grid_timeout", nodes=2, workers=2, at_once=2),
    Case("at_once", nodes=4, workers=2, at_once=2, flower_log=False),
]

STRATEGIES = [
    Case("recording", nodes=4),
    Case("own_start", nodes=4),
    Case("own_loop", nodes=4),
    Case("every_strategy", nodes=8, workers=2, seconds=300.0),
    Case("boosted"),
    Case("private_fixed", app="private", nodes=4, config={"adaptive": False}),
    Case("private_adaptive", app="private", nodes=4, config={"adaptive": True}),
    Case("mods", workers=2),
    Case("lifespan", nodes=2, config={"a": 1}),
    Case("strange_strategy", nodes=2),
    Case(
        "strange_checkpoints",
        app="strange_strategy",
        nodes=2,
        atoll_options=("--checkpoint-every", "1"),
    ),
    Case("surroundings", nodes=2),
    Case("odd_results"),
]

LEGACY = [
    Case("legacy_numpy", nodes=4, config={"rounds": 2}, workers=2),
    Case("legacy_client", nodes=4),
    Case("legacy_workflow", nodes=4),
    Case("legacy_strategies", nodes=8, seconds=300.0),
    Case("legacy_secagg", workers=2),
    Case("legacy_arguments", nodes=4),
    Case("legacy_messages"),
]

ALL = [*LEGACY, *STRATEGIES, *RECORDS, *FAILURES, *GRID, *ASYNCHRONOUS]
