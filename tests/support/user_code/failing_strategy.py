"""A strategy that ends every run in its first round, as no check before it can know."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import FedAvg


class Failing(FedAvg):
    def configure_train(self, *arguments: Any) -> Any:
        raise ValueError("nothing comes of it")
