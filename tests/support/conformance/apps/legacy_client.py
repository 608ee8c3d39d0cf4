"""Client itself, with results, properties and statuses of its own; clients that fail."""

import numpy as np
from flwr.client import Client, ClientApp
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import Server, ServerApp, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.criterion import Criterion
from flwr.server.strategy import FedAvg
from kit import partition, result, text

FINE = Status(Code.OK, "fine")


class Own(Client):
    def __init__(self, number):
        self.number = number

    def get_properties(self, ins):
        return GetPropertiesRes(FINE, {"number": self.number, "asked": str(ins.config)})

    def get_parameters(self, ins):
        return GetParametersRes(FINE, Parameters([b"model bytes"], "own.format"))

    def fit(self, ins):
        if self.number == 1:
            raise RuntimeError("client 1 fails")
        status = Status(Code.FIT_NOT_IMPLEMENTED, "no") if self.number == 2 else FINE
        if ins.parameters.tensor_type == "own.format":
            ndarrays = [np.zeros(2)]
        else:
            ndarrays = parameters_to_ndarrays(ins.parameters)
        moved = ndarrays_to_parameters([a + self.number for a in ndarrays])
        return FitRes(status, moved, 2, {"number": self.number})

    def evaluate(self, ins):
        return EvaluateRes(FINE, 0.5, 2, {"config": len(ins.config)})


client = ClientApp(client_fn=lambda context: Own(partition(context)).to_client())


class OnlyEven(Criterion):
    def select(self, client):
        found = client.get_properties(GetPropertiesIns({"why": "even"}), timeout=30.0, group_id=0)
        return found.properties["number"] % 2 == 0


class Choosing(FedAvg):
    def initialize_parameters(self, client_manager):
        every = client_manager.all().values()
        asked = GetPropertiesIns({"a": 1})
        found = [c.get_properties(asked, timeout=30.0, group_id=0) for c in every]
        for line in sorted(f"{res.properties} {res.status}" for res in found):
            result("properties", line)
        result("even", len(client_manager.sample(2, criterion=OnlyEven())))

    def aggregate_fit(self, server_round, results, failures):
        statuses = sorted(f"{res.metrics} {res.status}" for _, res in results)
        result("fit", server_round, statuses, sorted(type(f).__name__ for f in failures))
        fine = [(proxy, res) for proxy, res in results if res.status.code == Code.OK]
        return super().aggregate_fit(server_round, fine, [])

    def aggregate_evaluate(self, server_round, results, failures):
        result("evaluate", server_round, sorted(str(res.metrics) for _, res in results))
        return super().aggregate_evaluate(server_round, results, failures)


class OwnServer(Server):
    def fit(self, num_rounds, timeout):
        history, seconds = super().fit(num_rounds, timeout)
        result("ended", [text(a) for a in parameters_to_ndarrays(self.parameters)])
        result(history.losses_distributed, history.metrics_distributed)
        return history, seconds


def server_fn(context):
    manager = SimpleClientManager()
    made = OwnServer(client_manager=manager, strategy=Choosing(min_available_clients=4))
    return ServerAppComponents(
        server=made, config=ServerConfig(num_rounds=2), client_manager=manager
    )


server = ServerApp(server_fn=server_fn)
