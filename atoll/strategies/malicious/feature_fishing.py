"""Server of feature fishing: a search over rounds for a threshold that leaves a single example.

See :mod:`atoll.clients.models.malicious.fishing_head` for the head (Wen et al., 2022, second half).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.models.malicious.fishing_head import (
    FishingHead,
    find_fishing_head,
    with_threshold,
)
from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import array_record, to_array
from atoll.strategies.mean_only import uses_mean_only

# In units of 1 / scale: how far above the mean of a feature the next threshold is. An example so
# far below it has its gradient to 0.7 %.
MARGIN = 5.0


class FeatureFishing(FedAvg):
    """FedAvg of a malicious server that narrows a class's examples down to one.

    The first round's head (model ``fishing``) lets all examples of the class through. From the mean
    of the updates alone the server reads the mean of each feature over them, and takes the feature
    with the largest mean. The next head lets those through that are below the mean, and so on: some
    log2 of the class's examples rounds, if clients have the same examples and all take part. The
    layers before the head are sent as they were at first in every round. Clients must have examples
    of the class alone: one of another class whose feature is above the threshold is taken for the
    class, and has a gradient of its own.

    Parameters
    ----------
    scale : float
        What the feature is multiplied by: examples closer than about 5 / scale are not separated.
        Clients' steps on the layers before the head grow with it.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        Where it is run, if the model is another.

    Examples
    --------
    >>> from atoll.strategies import FeatureFishing
    >>> FeatureFishing(scale=100.0).scale
    100.0
    """

    def __init__(
        self,
        scale: float = 300.0,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
        )
        self.scale = scale
        self._sent = ArrayRecord()

    def check_model(self, parameters: Mapping[str, Tensor], clients: int) -> None:
        """Refuse a model without a fishing head.

        Parameters
        ----------
        parameters : Mapping[str, Tensor]
            The model's, by name.
        clients : int
            How many there are; any number will do.

        Raises
        ------
        InvalidExperimentError
            With the key and what was expected.
        """
        _head(parameters)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    @uses_mean_only
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model as it was sent, with the next threshold, and FedAvg's metrics."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return mean, metrics
        sent, after = tensors_of(self._sent), tensors_of(mean)
        head = _head(sent)
        weight, bias = next_head(head, sent, after, self.scale)
        new = {head.weight: to_array(weight.numpy()), head.bias: to_array(bias.numpy())}
        next_model = array_record({**self._sent, **new})
        self._sent = ArrayRecord()
        return next_model, metrics


def next_head(
    head: FishingHead, sent: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the next round's head.

    Parameters
    ----------
    head : FishingHead
        What was sent.
    sent, mean : Mapping[str, Tensor]
        By name, what was sent and the mean of what came back.
    scale : float
        What the feature is multiplied by.

    Returns
    -------
    tuple[Tensor, Tensor]
        As sent, if no example of the class has a gradient.
    """
    # What the softmax takes from a class's row it gives to the others. These are read: a large
    # scale is beyond what SecAgg+ lets a parameter be, and would come back clipped.
    others = torch.arange(len(sent[head.weight])) != head.target
    changes = [
        (sent[name] - mean[name])[others].double().sum(0) for name in (head.weight, head.bias)
    ]
    # Descent lowers the other classes' biases wherever the class has an example.
    if not float(changes[1]) > 0.0:
        return sent[head.weight], sent[head.bias]
    features = changes[0] / changes[1]
    feature = int(features.argmax()) if head.feature is None else head.feature
    threshold = float(features[feature]) + MARGIN / scale
    return with_threshold(head, sent[head.weight], feature, scale, threshold)


def _head(parameters: Mapping[str, Tensor]) -> FishingHead:
    head = find_fishing_head(parameters)
    if head is None:
        raise InvalidExperimentError(
            "strategy.name = 'FeatureFishing': the model has no head that fishes for a class; "
            "expected model.name = 'fishing'"
        )
    return head
