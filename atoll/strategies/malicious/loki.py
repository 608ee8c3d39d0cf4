"""Server of LOKI: FedAvg that sends each client of a round kernels of its own.

See :mod:`atoll.clients.models.malicious.loki_block` for the model. The rest of the model is trained
as by FedAvg; the block is sent as it was at first in every round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.models.malicious.loki_block import block_prefix, kernels_of_set
from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import array_record, to_array
from atoll.strategies.mean_only import uses_mean_only


class LOKI(FedAvg):
    """FedAvg of a malicious server, which keeps clients apart within the sum of their updates.

    The i-th client of a round, by its node's id, gets the model ``loki`` with the i-th set of
    kernels (Zhao et al., 2024). Its parameters are those of Flower's ``FedAvg``.

    Raises
    ------
    InvalidExperimentError
        Where it is run, if the model is another, or has fewer sets of kernels than a round has
        clients.

    Examples
    --------
    >>> from atoll.strategies import LOKI
    >>> LOKI(fraction_train=0.5).fraction_train
    0.5
    """

    # The parameters of the model's block, as they were sent in this round.
    _block = ArrayRecord()

    def check_model(self, parameters: Mapping[str, Tensor], clients: int) -> None:
        """Refuse a model that does not have a set of kernels for each client of a round.

        Parameters
        ----------
        parameters : Mapping[str, Tensor]
            The model's, by name.
        clients : int
            How many there are.

        Raises
        ------
        InvalidExperimentError
            With the key, the value and what was expected.
        """
        prefix = _prefix(parameters)
        kernels, channels, *_ = parameters[f"{prefix}kernels.weight"].shape
        cohort = max(int(self.fraction_train * clients), self.min_train_nodes)
        _check_sets(kernels // channels, min(clients, cohort))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages, each with the kernels of its client."""
        prefix = _prefix(arrays)
        self._block = array_record(
            {key: array for key, array in arrays.items() if key.startswith(prefix)}
        )
        kernels = {
            part: tensor_of(arrays[f"{prefix}kernels.{part}"]) for part in ("weight", "bias")
        }
        messages = list(super().configure_train(server_round, arrays, config, grid))
        total, channels, *_ = kernels["weight"].shape
        _check_sets(total // channels, len(messages))
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        for place, message in enumerate(ordered):
            own = {
                f"{prefix}kernels.{part}": to_array(values.numpy())
                for part, values in kernels_of_set(kernels, place).items()
            }
            content = dict(message.content.items())
            content[self.arrayrecord_key] = array_record({**arrays, **own})
            message.content = RecordDict(content)
        return messages

    @uses_mean_only
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the clients' mean, with the block as it was sent, and FedAvg's metrics."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is not None:
            mean = array_record({**mean, **self._block})
        self._block = ArrayRecord()
        return mean, metrics


def _prefix(names: Iterable[str]) -> str:
    prefix = block_prefix(names)
    if prefix is None:
        raise InvalidExperimentError(
            "strategy.name = 'LOKI': the model has no kernels to keep clients apart; expected "
            "model.name = 'loki'"
        )
    return prefix


def _check_sets(sets: int, clients: int) -> None:
    if sets < clients:
        raise InvalidExperimentError(
            f"model.sets = {sets}: a round has {clients} clients, and strategy.name = 'LOKI' sends "
            f"each a set of kernels of its own; expected at least {clients}"
        )
