"""The promise that only the mean is used belongs to the method, not to the class."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from atoll.platform.config.aggregation import aggregation_of
from atoll.platform.messages.packing import broadcast_arrays
from atoll.strategies.alignment.methods.reweighting import ERM
from atoll.strategies.mean_only import is_mean_only


class Changed(ERM):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, list(replies)[:1])


class Inherited(ERM):
    pass


def test_an_override_does_not_inherit_the_promise() -> None:
    assert is_mean_only(ERM.aggregate_train)
    assert aggregation_of(Inherited()).sum_replies
    assert aggregation_of(Inherited()).weighted_by == "weight"
    assert not is_mean_only(Changed.aggregate_train)
    assert not aggregation_of(Changed()).sum_replies


def test_the_model_of_a_message_with_more_arrays_is_the_one_called_arrays() -> None:
    model, other = (ArrayRecord({"w": Array(np.ones(1))}) for _ in range(2))
    assert broadcast_arrays(RecordDict({"weights": model})) is model
    assert broadcast_arrays(RecordDict({"cotangents": other, "arrays": model})) is model
    assert broadcast_arrays(RecordDict({"one": other, "two": model})) is None
