"""Clients that do nothing: what is left is the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Send back what came."""
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@dataclass(frozen=True)
class Synthetic:
    """A federation of clients that send back what they get."""

    clients: int
    cohort: int
    parameters: int
    arrays_count: int = 1

    @property
    def client_app(self) -> ClientApp:
        """The clients."""
        return app

    def arrays(self) -> ArrayRecord:
        """Return the model: zeros."""
        size = self.parameters // self.arrays_count
        names = map(str, range(self.arrays_count))
        return ArrayRecord({name: Array(np.zeros(size, np.float32)) for name in names})


SYNTHETIC = {
    "noop-1000": Synthetic(1000, 1000, 1000),
    "memory-50x11M": Synthetic(50, 50, 11_000_000, 10),
    "memory-200x11M": Synthetic(200, 200, 11_000_000, 10),
}
