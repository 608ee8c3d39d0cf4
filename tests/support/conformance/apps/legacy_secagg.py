"""Secure aggregation (SecAgg+): several kinds of message a round, state on the clients."""

import numpy as np
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from kit import partition, result


class Client(NumPyClient):
    def __init__(self, number):
        self.number = number

    def fit(self, parameters, config):
        return [p + self.number for p in parameters], 1, {}

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 1, {}


client = ClientApp(
    client_fn=lambda context: Client(partition(context)).to_client(), mods=[secaggplus_mod]
)
server = ServerApp()


@server.main()
def main(grid, context):
    class Kept(FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            found, metrics = super().aggregate_fit(server_round, results, failures)
            sums = [np.round(a, 2).tolist() for a in parameters_to_ndarrays(found)]
            result("round", server_round, sums, len(failures))
            return found, metrics

    strategy = Kept(initial_parameters=ndarrays_to_parameters([np.zeros(3)]), fraction_evaluate=0.0)
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    workflow = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, timeout=30.0)
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
    result("done", legacy.history.losses_distributed)
