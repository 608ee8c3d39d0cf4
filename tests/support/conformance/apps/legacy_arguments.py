"""Deprecated ways in: client_fn(cid), ServerApp(config=..., strategy=...), create_reply."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from kit import result


class Client(NumPyClient):
    def __init__(self, cid):
        self.cid = cid

    def fit(self, parameters, config):
        return [p + int(self.cid) for p in parameters], 1, {"cid": self.cid}

    def evaluate(self, parameters, config):
        return float(parameters[0][0]), 1, {"cid": self.cid}


def client_fn(cid: str):
    return Client(cid).to_client()


def replying(message, context, call_next):
    reply = call_next(message, context)
    return message.create_reply(reply.content)


client = ClientApp(client_fn, mods=[replying])


class Told(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        result("fit", server_round, sorted(res.metrics["cid"] for _, res in results), failures)
        return super().aggregate_fit(server_round, results, failures)

    def aggregate_evaluate(self, server_round, results, failures):
        result("evaluate", server_round, sorted(res.loss for _, res in results))
        return super().aggregate_evaluate(server_round, results, failures)


server = ServerApp(
    config=ServerConfig(num_rounds=2),
    strategy=Told(initial_parameters=ndarrays_to_parameters([np.zeros(1)])),
)
