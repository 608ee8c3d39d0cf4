"""A client's check of the model that it got: weights and biases as malicious servers need them.

An imprint block's rows are all alike, and a fishing head's are zero but for one. LOKI's kernels are
the identity or zero. The biases of both blocks are quantiles: in their order, neighbouring gaps are
nearly equal. Weights and biases that were drawn or trained are not so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from flwr.app import Context, Error, Message
from torch import Tensor

from atoll import flower
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.clients.ranges import Fraction
from atoll.clients.settings import Section

# Rows of a matrix that are compared: the first ones.
ROWS = 512
# Fewer rows may be alike by chance, or by design; so may the gaps of fewer biases.
FEWEST = 4
FEWEST_BIASES = 16


class ModelCheck(Section):
    """Check of the received model: a client refuses what malicious servers need of weights.

    It does not train, and its reply is an error with the reason. A server evades it by rows that
    differ more in direction, kernels that are no longer zero, and biases that are drawn at random.

    Attributes
    ----------
    repeated : float
        Share of a weight's rows, or columns, that may be parallel to another one or zero, and of a
        convolution's kernels that may be zero but for one value. A weight that is zero as a whole,
        as an adapter begins, passes.
    tolerance : float
        Rows are parallel if 1 - cosine of their directions is less.
    spacing : float
        Median change from one gap to the next, by their sum, of a layer's biases in their order:
        about a half where they were drawn independently of each other. A layer of 16 biases or more
        that differ is refused if it is less; 0 turns the check off.
    """

    name: ClassVar[str] = "model-check"

    repeated: Fraction = 0.5
    tolerance: Fraction = 1e-4
    spacing: Fraction = 0.1

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message, as a Flower mod."""
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        weights = _weights(message)
        for reason in self._reasons(weights):
            text = f"the client refuses the model: {reason}"
            return Message(Error(flower.PRECONDITION_FAILED, text), reply_to=message)
        return call_next(message, context)

    def _reasons(self, weights: Mapping[str, Tensor]) -> Iterator[str]:
        """Yield what is wrong with a model, each in one line."""
        allowed = f"expected at most {self.repeated:.0%}"
        kinds = {
            "the rows of a weight repeat each other": suspicious_weights(
                weights, self.repeated, self.tolerance
            ),
            "the kernels of a convolution are zero or the identity": bare_kernels(
                weights, self.repeated
            ),
        }
        for what, found in kinds.items():
            if found:
                yield f"{max(found.values()):.0%} of {what} ({', '.join(found)}), {allowed}"
        spaced = spaced_biases(weights, self.spacing)
        if spaced:
            yield (
                f"the biases of a layer are spaced evenly ({', '.join(spaced)}): their gaps change "
                f"by {min(spaced.values()):.1%}, expected at least {self.spacing:.0%}"
            )


def suspicious_weights(
    weights: Mapping[str, Tensor], repeated: float, tolerance: float = 1e-4
) -> dict[str, float]:
    """Return the share of repeated rows or columns of each weight where it is above ``repeated``.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        By name; those of two dimensions or more are looked at, each row flattened.
    repeated, tolerance : float
        In [0, 1]; see :class:`ModelCheck`.
    """
    found = {}
    for name, weight in weights.items():
        if weight.dim() < 2 or not weight.any():
            continue
        sides = [weight.flatten(1)]
        if weight.dim() == 2:
            sides.append(weight.T)
        share = max(_repeated_share(side[:ROWS].double(), tolerance) for side in sides)
        if share > repeated:
            found[name] = share
    return found


def bare_kernels(weights: Mapping[str, Tensor], repeated: float) -> dict[str, float]:
    """Return the share of kernels with at most one value that is not zero, where it is above that.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        By name; convolutions with kernels of several values are looked at. One that is zero as a
        whole passes.
    repeated : float
        In [0, 1].
    """
    found = {}
    for name, weight in weights.items():
        if weight.dim() < 3 or weight[0, 0].numel() < 2 or not weight.any():
            continue
        share = float(((weight != 0).flatten(1).sum(1) <= 1).double().mean())
        if share > repeated:
            found[name] = share
    return found


def spaced_biases(weights: Mapping[str, Tensor], spacing: float) -> dict[str, float]:
    """Return how much the gaps of each layer's biases change, where it is less than ``spacing``.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        By name; vectors with at least 16 values that differ, named as biases are, are looked at: as
        they are, and divided by the sizes of the rows of their layer's weight.
    spacing : float
        In [0, 1]: the median over neighbouring gaps a and b, in order, of |a - b| / (a + b).
    """
    found = {}
    for name, bias in weights.items():
        if bias.dim() != 1 or not name.endswith("bias"):
            continue
        forms = [bias.double()]
        rows = weights.get(f"{name.removesuffix('bias')}weight")
        if rows is not None and rows.dim() > 1 and len(rows) == len(bias):
            sizes = rows.double().flatten(1).norm(dim=1)
            forms.append(forms[0] / torch.where(sizes == 0, 1.0, sizes))
        change = min(map(_change_of_gaps, forms))
        if change < spacing:
            found[name] = change
    return found


def _change_of_gaps(values: Tensor) -> float:
    """Return how much neighbouring gaps of the values differ; 1 where too few values differ."""
    # Biases that begin at zero, or at a few values, are no grid.
    distinct = torch.unique(values)
    if len(distinct) < max(FEWEST_BIASES, len(values) / 2):
        return 1.0
    gaps = distinct.diff()
    return float((gaps.diff().abs() / (gaps[1:] + gaps[:-1])).median())


def _repeated_share(rows: Tensor, tolerance: float) -> float:
    """Return the share of rows that are zero, or parallel to another row."""
    if min(rows.shape) < FEWEST:
        return 0.0
    sizes = rows.norm(dim=1, keepdim=True)
    is_zero = sizes[:, 0] == 0
    directions = rows / torch.where(sizes == 0, 1.0, sizes)
    cosines = (directions @ directions.T).abs().fill_diagonal_(0.0)
    return float(((cosines > 1 - tolerance).any(1) | is_zero).double().mean())


def _weights(message: Message) -> dict[str, Tensor]:
    update = SentUpdate(message)
    return dict(zip(update.keys, update.parameters, strict=True))
