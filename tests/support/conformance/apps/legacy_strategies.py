"""Every strategy of flwr.server.strategy on arrays whose means are exact."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig, strategy
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import ServerApp
from kit import partition, result


class Client(NumPyClient):
    def __init__(self, number):
        self.number = number

    def fit(self, parameters, config):
        step = self.number**2 + 1
        return (
            [p + p.dtype.type(step) for p in parameters],
            1,
            {"number": self.number, "keys": len(config)},
        )

    def evaluate(self, parameters, config):
        return float(sum(np.sum(p) for p in parameters)), 1, {}


client = ClientApp(client_fn=lambda context: Client(partition(context)).to_client())
server = ServerApp()


def rounded(ndarray):
    return f"{ndarray.dtype}{ndarray.shape}{[float(f'{x:.5g}') for x in ndarray.ravel()]}"


def strategies():
    start = {
        "initial_parameters": ndarrays_to_parameters([np.ones((2, 2), np.float32), np.zeros(1)])
    }
    for name in ("FedAvg", "FedAvgM", "FedMedian", "FedAdam", "FedAdagrad", "FedYogi"):
        yield name, getattr(strategy, name)(**start)
    for name in ("Krum", "FedTrimmedAvg", "FaultTolerantFedAvg"):
        yield name, getattr(strategy, name)(**start)
    yield "Bulyan", strategy.Bulyan(num_malicious_clients=1, to_keep=0, **start)
    yield "QFedAvg", strategy.QFedAvg(evaluate_fn=lambda *_: (2.0, {}), **start)
    yield "FedProx", strategy.FedProx(proximal_mu=0.5, **start)
    wrapped = strategy.FedAvg(**start)
    yield (
        "DifferentialPrivacyServerSideFixedClipping",
        strategy.DifferentialPrivacyServerSideFixedClipping(wrapped, 0.0, 1.0, 8),
    )


@server.main()
def main(grid, context):
    for name, made in strategies():
        config = ServerConfig(num_rounds=2)
        legacy = LegacyContext(context=context, config=config, strategy=made)
        ended = []
        inner = made.aggregate_fit

        def kept(server_round, results, failures, inner=inner, ended=ended):
            # Bulyan depends on the order in which results came.
            ordered = sorted(results, key=lambda pair: pair[1].metrics["number"])
            found = inner(server_round, ordered, failures)
            ended[:] = parameters_to_ndarrays(found[0])
            return found

        made.aggregate_fit = kept
        DefaultWorkflow()(grid, legacy)
        losses = [(r, float(f"{loss:.5g}")) for r, loss in legacy.history.losses_distributed]
        result(name, [rounded(a) for a in ended], losses)
