"""A recording strategy: each hook, in order, with its arguments, and what start itself does."""

from flwr.app import ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy() + partition(context)
    config = message.content["config"]
    metrics = {"num-examples": 1, "loss": 0.5 * config["server-round"], "lr": config["lr"]}
    return answer(message, arrays=arrays(w=w), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    metrics = {"num-examples": 1, "seen": float(message.content["arrays"]["w"].numpy()[0])}
    return answer(message, metrics=metrics)


def described(replies):
    kind = type(replies).__name__
    return kind, sorted(text(reply.content) for reply in replies)


class Recording(FedAvg):
    def summary(self):
        result("summary", sorted(vars(self)))
        super().summary()

    def configure_train(self, server_round, arrays_, config, grid):
        result("configure_train", server_round, text(arrays_), text(config))
        config["lr"] = 0.5 / server_round
        messages = list(super().configure_train(server_round, arrays_, config, grid))
        result("messages", len(messages), {m.metadata.message_type for m in messages})
        return iter(messages)

    def aggregate_train(self, server_round, replies):
        result("aggregate_train", server_round, *described(replies))
        found = super().aggregate_train(server_round, replies)
        result("aggregated", *map(text, found))
        return found

    def configure_evaluate(self, server_round, arrays_, config, grid):
        result("configure_evaluate", server_round, text(arrays_), text(config))
        return super().configure_evaluate(server_round, arrays_, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        result("aggregate_evaluate", server_round, *described(replies))
        return super().aggregate_evaluate(server_round, replies)


def judged(server_round, arrays_):
    result("evaluate_fn", server_round, text(arrays_))
    return MetricRecord({"round": server_round, "acc": 0.125 * server_round})


@server.main()
def main(grid, context):
    initial, config = arrays(w=[0.0, 2.0]), ConfigRecord({"lr": 1.0, "tag": "t", "raw": b"r"})
    ended = Recording().start(
        grid,
        initial,
        num_rounds=2,
        timeout=600,
        train_config=config,
        evaluate_config=ConfigRecord({"e": 1}),
        evaluate_fn=judged,
    )
    result("ended", type(ended).__name__, text(ended.arrays), text(config), text(initial))
    for found in (
        ended.train_metrics_clientapp,
        ended.evaluate_metrics_clientapp,
        ended.evaluate_metrics_serverapp,
    ):
        result({k: text(v) for k, v in found.items()})

    # Positional arguments, no evaluation by clients, an evaluate_fn that returns nothing.
    strategy = Recording(fraction_evaluate=0.0)
    ended = strategy.start(grid, initial, 1, 600, config, None, lambda *_: None)
    result("ended", text(ended.arrays), ended.evaluate_metrics_serverapp)
    ended = strategy.start(grid, initial_arrays=initial, num_rounds=0)
    result("no rounds", text(ended.arrays), str(ended).count("{}"))
