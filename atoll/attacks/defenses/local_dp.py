"""Local differential privacy, Flower's: the update is clipped and gets noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from flwr.app import Context, Message, Metadata, RecordDict
from flwr.clientapp.mod import LocalDpMod
from torch import Tensor

from atoll.attacks.defenses.base.defense import Compute, Task
from atoll.attacks.defenses.base.observed import BoundedDefense
from atoll.attacks.defenses.base.privacy_accounting import count_uses, gaussian_epsilon
from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.ranges import Delta, Epsilon, Norm
from atoll.clients.training.step_mods import LocalStep
from atoll.extras import require
from atoll.flower.arrays import array_record, to_array, view


class LocalDP(BoundedDefense):
    """Flower's ``LocalDpMod``, which also says what a client's rounds have spent so far.

    The reply's metrics get ``epsilon``, at the same delta, for the exchange of all of a client's
    data for other data: two clipped updates are up to 2 ``clipping_norm`` apart.

    Attributes
    ----------
    clipping_norm, sensitivity, epsilon, delta : float
        As of Flower's mod: the noise's deviation is sensitivity sqrt(2 ln(1.25 / delta)) /
        epsilon. ``sensitivity`` is 2 ``clipping_norm`` unless it is given.

    Examples
    --------
    >>> from atoll.attacks import LocalDP
    >>> defense = LocalDP(clipping_norm=1.0, epsilon=8.0, delta=1e-5)
    >>> round(defense.std, 4)  # 2 sqrt(2 ln(1.25 / delta)) / epsilon
    1.2112
    """

    name: ClassVar[str] = "local-dp"

    acts_on: Literal["update"] = "update"
    clipping_norm: Norm = 1.0
    sensitivity: Norm | None = None
    epsilon: Epsilon = 8.0
    delta: Delta = 1e-5

    def model_post_init(self, context: Any, /) -> None:
        """Refuse to go without the extra ``dp``, whose packages say what is spent."""
        require("opacus", what=self.name)

    @property
    def std(self) -> float:
        """The noise's deviation."""
        return self._sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    @property
    def _sensitivity(self) -> float:
        return 2 * self.clipping_norm if self.sensitivity is None else self.sensitivity

    @cached_property
    def _mod(self) -> LocalDpMod:
        return LocalDpMod(self.clipping_norm, self._sensitivity, self.epsilon, self.delta)

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Give the update to Flower's mod."""
        update = compute(task)
        arrays = {str(index): to_array(values.numpy()) for index, values in enumerate(update)}
        zeros = {key: to_array(np.zeros_like(view(array))) for key, array in arrays.items()}
        message = _train_message(RecordDict({"arrays": array_record(zeros)}))
        answered = _train_message(RecordDict({"arrays": array_record(arrays)}))

        def answer(message: Message, context: Context) -> Message:
            return answered

        with _numpy_seeded(int(torch.randint(2**32, (), generator=task.generator))), _quiet():
            reply = self._mod(message, Context(1, 1, {}, RecordDict(), {}), answer)
        defended = reply.content.array_records["arrays"]
        return [
            tensor_of(array).to(values.dtype)
            for array, values in zip(defended.values(), update, strict=True)
        ]

    def metrics(self, context: Context, steps: Sequence[LocalStep]) -> dict[str, float]:
        """Return the epsilon that the client's rounds have spent."""
        uses = count_uses(context, self.name, 1)
        multiplier = self.std / (2 * self.clipping_norm)
        return {"epsilon": gaussian_epsilon(multiplier, uses, self.delta)}


def _train_message(content: RecordDict) -> Message:
    """Return a message for Flower's mod, made without the app that Flower's own need."""
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=1,
        dst_node_id=1,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
        src_task_id=None,
        dst_task_id=None,
    )
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which Flower's mod draws from, and give it back as it was."""
    earlier = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(earlier)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower from two lines of log a client."""
    logger = logging.getLogger("flwr")
    earlier = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(earlier)
