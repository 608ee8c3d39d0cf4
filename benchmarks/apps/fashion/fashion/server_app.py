"""The server: FedAvg over all clients, which says when a round has ended."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fashion.task import Net, load_data

app = ServerApp()


def say(server_round: int, arrays: ArrayRecord) -> None:
    """Print the round that has ended."""
    print(f"ROUND {server_round}", flush=True)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    torch.manual_seed(1)
    _, labels = load_data(str(context.run_config["data"]))
    # Every client, however many had registered when the strategy asked.
    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=len(labels),
        min_available_nodes=len(labels),
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=say,
    )
