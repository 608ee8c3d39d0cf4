"""Differential privacy: the wrappers on the server, and clipping mods on the clients."""

import numpy as np
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from kit import answer, arrays, partition, result

server = ServerApp()


def chosen(message, context, call_next):
    """Clips where the server asks for it: two of the wrappers do."""
    if KEY_CLIPPING_NORM not in message.content["config"]:
        return call_next(message, context)
    mod = adaptiveclipping_mod if context.run_config["adaptive"] else fixedclipping_mod
    return mod(message, context, call_next)


client = ClientApp(mods=[chosen])


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy()
    step = np.full_like(w, 3.0 * (partition(context) + 1))
    return answer(message, arrays=arrays(w=w + step), metrics={"num-examples": 1, "loss": 0.5})


def wrapped(adaptive):
    base = {"strategy": FedAvg(fraction_evaluate=0.0), "noise_multiplier": 0.0}
    if adaptive:
        yield DifferentialPrivacyClientSideAdaptiveClipping(**base, num_sampled_clients=4)
        yield DifferentialPrivacyServerSideAdaptiveClipping(**base, num_sampled_clients=4)
    else:
        fixed = {**base, "clipping_norm": 4.0, "num_sampled_clients": 4}
        yield DifferentialPrivacyClientSideFixedClipping(**fixed)
        yield DifferentialPrivacyServerSideFixedClipping(**fixed)


@server.main()
def main(grid, context):
    for strategy in wrapped(context.run_config["adaptive"]):
        try:
            ended = strategy.start(grid, arrays(w=np.zeros(4)), num_rounds=2)
        except Exception as error:
            result(type(strategy).__name__, type(error).__name__, error)
            continue
        found = [float(f"{x:.5g}") for x in ended.arrays["w"].numpy()]
        result(type(strategy).__name__, found, sorted(ended.train_metrics_clientapp))
