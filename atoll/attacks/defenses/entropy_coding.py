"""Entropy-coded uploads: values as whole numbers of a step, in exponential Golomb codes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll import flower
from atoll.attacks.defenses.base.defense import Compute, Defense, Task
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.clients.arrays.coded_uploads import CODED_BYTES
from atoll.flower.arrays import view

# Orders of the code that are tried; a tensor's is one byte of its code.
ORDERS = range(16)
# More steps than float32 has digits for are no quantisation.
MOST_STEPS = 2**30


class EntropyCoding(Defense):
    """Rounding to multiples of a step, and the size of their exponential Golomb code.

    The reply has the rounded values as arrays, which any strategy can aggregate, and the bytes of
    the code as the metric ``coded-bytes``: the ledger counts these in the place of the arrays'.
    What is no update (integers, running statistics) counts as it is.

    Attributes
    ----------
    step : float
        Of what values are rounded to multiples.
    of : "update" or "model"
        What is rounded and coded: the update, or the model (which BackSlash makes cheap to code).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import EntropyCoding, Task
    >>> update = [torch.tensor([0.6, -0.1, 0.3])]
    >>> EntropyCoding(step=0.25).apply(Task(update), lambda task: update)
    [tensor([0.5000, -0.0000, 0.2500])]
    """

    name: ClassVar[str] = "entropy-coding"

    step: Annotated[float, Field(ge=1e-9, le=1e6)] = 1e-3
    of: Literal["update", "model"] = "update"
    acts_on: Literal["update"] = "update"

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Round."""
        update = compute(task)
        if self.of == "update":
            return [(values / self.step).round() * self.step for values in update]
        models = torch._foreach_add(list(task.parameters), update)
        rounded = [(values / self.step).round() * self.step for values in models]
        return list(torch._foreach_sub(rounded, list(task.parameters)))

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message, with the bytes of the code among the reply's metrics."""
        reply = super().__call__(message, context, call_next)
        if not message.metadata.message_type.startswith("train") or reply.has_error():
            return reply
        sent = SentUpdate(message)
        update = sent.read(reply)
        if self.of == "model":
            update = list(torch._foreach_add(update, sent.parameters))
        coded = sum(len(exp_golomb((values / self.step).round().numpy())) for values in update)
        [arrays] = reply.content.array_records.values()
        of_all = sum(view(array).nbytes for array in arrays.values())
        total = coded + of_all - sum(values.nbytes for values in update)
        for record in reply.content.metric_records.values():
            record[CODED_BYTES] = total
        return reply


def exp_golomb(values: NDArray[np.floating]) -> bytes:
    """Return whole numbers in signed exponential Golomb code, of the order that is shortest.

    The first byte is the order k. A number v is u = 2v - 1 if v > 0, else -2v; the code of u is
    x = u + 2^k in binary, n bits, with n - 1 - k zeros before it.

    Parameters
    ----------
    values : ndarray
        Whole numbers.

    Raises
    ------
    ValueError
        If one is larger than 2^30.

    Examples
    --------
    >>> import numpy as np
    >>> exp_golomb(np.array([0.0, 1.0, -1.0])).hex()  # of order 0: 1, 010, 011 and a zero
    '00a6'
    """
    flat = values.reshape(-1).astype(np.int64)
    if np.abs(flat).max(initial=0) > MOST_STEPS:
        raise ValueError(f"a value is {np.abs(flat).max()} steps, expected at most {MOST_STEPS}")
    unsigned = np.where(flat > 0, 2 * flat - 1, -2 * flat)
    sizes = [_lengths(unsigned, order).sum() for order in ORDERS]
    order = int(np.argmin(sizes))
    lengths, codes = _lengths(unsigned, order), unsigned + (1 << order)
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    widths = _widths(codes)
    for place in range(int(widths.max(initial=0))):
        reaches = widths > place
        bits[ends[reaches] - 1 - place] = (codes[reaches] >> place) & 1
    return bytes([order]) + np.packbits(bits).tobytes()


def _widths(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many binary digits numbers from 1 to 2^31 have; float64 has them exactly."""
    return np.frexp(codes.astype(np.float64))[1].astype(np.int64)


def _lengths(unsigned: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return the bits of each number's code."""
    return 2 * _widths(unsigned + (1 << order)) - 1 - order
