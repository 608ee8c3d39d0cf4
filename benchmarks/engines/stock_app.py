"""An app's folder under Flower's own simulation, as ``flwr run`` runs it, in one process."""

from __future__ import annotations

import argparse
import os
import traceback
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_dir, get_project_config, parse_config_args
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

RUN_ID = 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("app", type=Path)
    parser.add_argument("config")
    parser.add_argument("nodes", type=int)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    components = get_project_config(arguments.app)["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(RUN_ID)
    run.primary_task_id, run.federation_id = RUN_ID, NOOP_FEDERATION_ID
    run.override_config = parse_config_args([arguments.config])
    TaskIdentity.task_id = TaskIdentity.run_id = RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    context = Context(
        run_id=RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=get_fused_config_from_dir(arguments.app, run.override_config),
    )
    try:
        _run_simulation(
            server_app_attr=components["serverapp"],
            client_app_attr=components["clientapp"],
            num_supernodes=arguments.nodes,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {"num_cpus": arguments.workers} if arguments.workers else {},
            },
            app_dir=str(arguments.app),
            run=run,
            server_app_context=context,
            is_app=True,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        )
    except Exception:
        traceback.print_exc()
        # Where Ray has not started, the server's thread waits for ever.
        os._exit(1)


if __name__ == "__main__":
    main()
