"""The older clients asked by hand: FitIns as records, a driver that is told so by its name."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat
from flwr.serverapp import ServerApp
from kit import partition, result, text, wait_for


class Client(NumPyClient):
    def __init__(self, number):
        self.number = number

    def get_properties(self, config):
        return {"number": self.number, "keys": len(config)}

    def fit(self, parameters, config):
        return [p + self.number for p in parameters], 1 + self.number, {"tag": config["tag"]}

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 1, {}


client = ClientApp(client_fn=lambda context: Client(partition(context)).to_client())
server = ServerApp()


@server.main()
def main(driver, context):
    nodes = wait_for(driver, 3)
    model = ndarrays_to_parameters([np.zeros(2), np.ones((1, 2), np.float32)])
    fit = compat.fitins_to_recorddict(FitIns(model, {"tag": "x"}), keep_input=True)
    judge = compat.evaluateins_to_recorddict(EvaluateIns(model, {}), keep_input=True)
    sent = [driver.create_message(fit, "train", node, "1") for node in nodes]
    for reply in driver.send_and_receive(sent):
        found = compat.recorddict_to_fitres(reply.content, keep_input=False)
        arrays = [text(a) for a in parameters_to_ndarrays(found.parameters)]
        if found.num_examples == 2:
            result("fit", arrays, found.num_examples, found.metrics, list(reply.content))
    names = driver.push_messages([driver.create_message(judge, "evaluate", n, "2") for n in nodes])
    replies = []
    while len(replies) < 3:
        replies += driver.pull_messages(
            [n for n in names if n not in {r.metadata.reply_to_message_id for r in replies}]
        )
    losses = [compat.recorddict_to_evaluateres(r.content).loss for r in replies]
    result("evaluate", losses, sorted({r.metadata.group_id for r in replies}))
