"""The clients."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fashion.task import Net, load_data, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train the model that came on this client's examples."""
    config = context.run_config
    images, labels = load_data(str(config["data"]))
    client = int(context.node_config["partition-id"])
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = train(net, images[client], labels[client], config["batch-size"], config["learning-rate"])
    metrics = MetricRecord({"loss": loss, "num-examples": len(labels[client])})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)
