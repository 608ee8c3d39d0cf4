"""The clients."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.utils.data import DataLoader

from quickstart.task import Net, load_data
from quickstart.task import test as test_on
from quickstart.task import train as train_on

app = ClientApp()
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def prepare(message: Message, context: Context) -> tuple[Net, DataLoader, DataLoader]:
    """Return the model that came and this client's examples."""
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    config, client = context.run_config, int(context.node_config["partition-id"])
    return net, *load_data(str(config["data"]), client, config["batch-size"])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came on this client's examples."""
    net, loader, _ = prepare(message, context)
    rate = message.content["config"]["lr"]
    loss = train_on(net, loader, context.run_config["local-epochs"], rate, DEVICE)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model that came on this client's examples."""
    net, _, loader = prepare(message, context)
    loss, accuracy = test_on(net, loader, DEVICE)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
