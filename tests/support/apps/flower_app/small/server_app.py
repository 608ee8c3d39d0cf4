import time

import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


class OwnLoop(strategies.FedAvg):
    """Overrides ``start``, and calls Flower's at its end."""

    def start(self, grid, initial_arrays, **named):
        print("SERVER own start")
        return super().start(grid, initial_arrays, **named)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    while len(list(grid.get_node_ids())) < 6:
        time.sleep(0.1)
    nodes = list(grid.get_node_ids())
    questions = [Message(RecordDict(), dst_node_id=n, message_type="query.size") for n in nodes]
    sizes = [r.content["size"]["size"] for r in grid.send_and_receive(questions)]
    print("SERVER sizes", sorted(sizes))
    name = config["strategy"]
    strategy = OwnLoop() if name == "OwnLoop" else getattr(strategies, name)()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"w": Array(np.zeros(4, np.float32))}),
        num_rounds=config["num-server-rounds"],
        train_config=ConfigRecord({"lr": config["lr"]}),
        evaluate_fn=lambda server_round, arrays: MetricRecord({"round": server_round}),
    )
    visits = result.train_metrics_clientapp[config["num-server-rounds"]]["visits"]
    print("SERVER visits", round(visits, 6))
    if config["out"]:
        np.save(config["out"], result.arrays["w"].numpy())
