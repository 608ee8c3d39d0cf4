"""LegacyContext and DefaultWorkflow in a main function; a workflow of the app's own."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import ServerApp
from kit import partition, result


class Client(NumPyClient):
    def __init__(self, number):
        self.number = number

    def fit(self, parameters, config):
        return [p + self.number for p in parameters], 1, {"number": self.number}

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 1, {"number": self.number}


client = ClientApp(client_fn=lambda context: Client(partition(context)).to_client())
server = ServerApp()


def evaluated(server_round, ndarrays, config):
    return float(server_round), {"sum": float(ndarrays[0].sum())}


def numbers(pairs):
    return {"all": str(sorted(metrics["number"] for _, metrics in pairs))}


def made_strategy():
    return FedAvg(
        initial_parameters=ndarrays_to_parameters([np.zeros(2)]),
        evaluate_fn=evaluated,
        fit_metrics_aggregation_fn=numbers,
    )


@server.main()
def main(grid, context):
    strategy = made_strategy()
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    DefaultWorkflow()(grid, legacy)
    for name in ("losses_distributed", "losses_centralized", "metrics_distributed_fit"):
        result(name, getattr(legacy.history, name))
    result(sorted(legacy.state.array_records), sorted(legacy.state.config_records))

    # Evaluation alone.
    def counted(grid, context):
        counted.calls += 1

    counted.calls, strategy = 0, made_strategy()
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    DefaultWorkflow(fit_workflow=counted)(grid, legacy)
    result("own workflow", counted.calls, legacy.history.losses_distributed)
