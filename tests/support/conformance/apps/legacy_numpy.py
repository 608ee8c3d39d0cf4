"""The older API at its plainest: NumPyClient, client_fn, server_fn, FedAvg with all callbacks."""

import numpy as np
from flwr.app import MetricRecord
from flwr.client import ClientApp, NumPyClient
from flwr.common import parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from kit import partition, result, text


class Client(NumPyClient):
    def __init__(self, context):
        self.partition, self.state = partition(context), context.state

    def get_parameters(self, config):
        return [np.zeros((2, 2), np.float32), np.array(1.0), np.array([], np.int64)]

    def fit(self, parameters, config):
        seen = self.state.setdefault("seen", MetricRecord({"n": 0}))
        seen["n"] += 1
        moved = [p + p.dtype.type(self.partition) for p in parameters]
        metrics = {"p": self.partition, "n": seen["n"], "name": str(config), "raw": b"\x00"}
        return moved, 1, metrics

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 1 + self.partition % 2 * 2, {"acc": 0.25, "ok": True}


def client_fn(context):
    return Client(context).to_client()


client = ClientApp(client_fn=client_fn)


class Told(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        for _, found in sorted(results, key=lambda pair: pair[1].metrics["p"]):
            arrays = [text(a) for a in parameters_to_ndarrays(found.parameters)]
            result("fit", server_round, arrays, found.num_examples, sorted(found.metrics.items()))
            result(found.status, len(failures), found.parameters.tensor_type)
        return super().aggregate_fit(server_round, results, failures)


def averaged(pairs):
    total = sum(n for n, _ in pairs)
    return {"acc": sum(n * found["acc"] for n, found in pairs) / total, "of": len(pairs)}


def judged(server_round, ndarrays, config):
    result("evaluate_fn", server_round, [text(a) for a in ndarrays], config)
    return 0.5 * server_round, {"round": server_round}


def server_fn(context):
    strategy = Told(
        evaluate_fn=judged,
        on_fit_config_fn=lambda r: {"round": r, "lr": 0.1, "tag": "t", "on": True, "raw": b"r"},
        on_evaluate_config_fn=lambda r: {"e": r},
        evaluate_metrics_aggregation_fn=averaged,
        min_available_clients=4,
    )
    config = ServerConfig(num_rounds=context.run_config["rounds"], round_timeout=60.0)
    return ServerAppComponents(strategy=strategy, config=config)


server = ServerApp(server_fn=server_fn)
