"""Label counts from the answers to queries of strategies that align domains.

A query for moments is answered with sums over a client's examples of a domain, and their number.
For a linear head with softmax, the sum of head gradients holds s_c - n_c at the bias of class c:
n_c is how often the label occurs, s_c the sum of the class's probabilities. The server has the
head, so s_c can be estimated (:func:`atoll.attacks.threat.labels.counts_of_head`), or, better
where the examples are many, taken from the model on public images of the same kind. The diagonal
of the Hessian holds D_c = sum p_c (1 - p_c) there; as the sum of p_c^2 is at least s_c^2 / N, s_c
is at least the smaller root of s - s^2 / N = D_c. So with both, n_c is bounded from below, and
exactly known where predictions are alike.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

from atoll.attacks.captures.capture import Capture, Content
from atoll.attacks.threat.image_space import ImageSpace
from atoll.attacks.threat.labels import counts_of_head, whole_numbers
from atoll.attacks.threat.victim_model import load_state
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import build_model
from atoll.clients.moments.head_statistics import HeadGradient, HessianDiagonal
from atoll.clients.moments.moment_messages import ALIGNMENT, DOMAINS, MOMENTS, MomentsQuery
from atoll.errors import AttackError, CaptureError


@dataclass(frozen=True)
class LeakedLabels:
    """Label counts of a client in one domain, as one answer to a query reveals them.

    Attributes
    ----------
    domain : str
        Name of the domain.
    examples : int
        Number of examples that the client reports.
    counts : Tensor
        int64, shape (classes,): how often each label is estimated to occur.
    at_least : Tensor or None
        int64, shape (classes,): how often it surely occurs, where the query had the Hessian's
        diagonal too.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import LeakedLabels
    >>> leaked = LeakedLabels("photo", 5, torch.tensor([2, 3]), torch.tensor([1, 3]))
    >>> leaked.counts.sum().item(), leaked.at_least.sum().item()  # four labels are certain
    (5, 4)
    """

    domain: str
    examples: int
    counts: Tensor
    at_least: Tensor | None


def asks_for_labels(capture: Capture) -> list[str]:
    """Return the statistics that a captured query asks for, if labels can be counted from them."""
    if ALIGNMENT not in capture.sent.values or MOMENTS not in capture.reply.arrays:
        return []
    statistics = _query(capture.sent).statistics
    if not any(isinstance(statistic, HeadGradient) for statistic in statistics):
        return []
    return [statistic.name for statistic in statistics]


def leaked_labels(capture: Capture, public: Tensor | None = None) -> list[LeakedLabels]:
    """Return the label counts that a captured answer to a query for moments reveals.

    Parameters
    ----------
    capture : Capture
        Capture of a ``query.moments`` message.
    public : Tensor, optional
        Public images, float32, shape (n, channels, height, width), in [0, 1].

    Raises
    ------
    AttackError
        If the model's head is not linear with a bias and an output a class, or no head gradients
        were asked for.
    CaptureError
        If the capture is of another message.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll.attacks import find_captures, leaked_labels, read_capture
    >>> queries = find_captures(Path("runs/alignment-leakage"), "query.moments")  # doctest: +SKIP
    >>> [leaked.counts for leaked in leaked_labels(read_capture(queries[0]))]  # doctest: +SKIP
    """
    if ALIGNMENT not in capture.sent.values or MOMENTS not in capture.reply.arrays:
        raise CaptureError(
            f"{capture.directory or capture.name}: holds no answer to a query for moments; "
            "expected a capture of a 'query.moments' message"
        )
    model, head = _model_of(capture)
    probability = None if public is None else _mean_probability(model, capture, public)
    query = _query(capture.sent)
    places = {type(statistic): place for place, statistic in enumerate(query.statistics)}
    if HeadGradient not in places:
        asked = ", ".join(statistic.name for statistic in query.statistics) or "none"
        raise AttackError(f"{capture.name}: was not asked for head gradients (statistics: {asked})")
    names = capture.reply.values[DOMAINS]["names"]
    examples = capture.reply.values["metrics"]["counts"]
    arrays = capture.reply.arrays[MOMENTS]
    found = []
    for domain, count in zip(names, map(int, examples), strict=True):
        if count == 0:
            continue
        gradient = arrays[f"{places[HeadGradient]}/{domain}"]
        diagonal = None
        if HessianDiagonal in places:
            diagonal = arrays[f"{places[HessianDiagonal]}/{domain}"]
        found.append(_of_domain(str(domain), count, gradient, diagonal, head, probability))
    return found


def _mean_probability(model: nn.Module, capture: Capture, public: Tensor) -> Tensor:
    info = capture.federation
    assert isinstance(info.inputs, ImageInputs)
    images = ImageSpace.of(info.inputs).normalize(public)
    with torch.no_grad():
        return torch.softmax(model.eval()(images).double(), 1).mean(0)


def _of_domain(
    domain: str,
    count: int,
    gradient: Tensor,
    diagonal: Tensor | None,
    head: nn.Linear,
    probability: Tensor | None,
) -> LeakedLabels:
    mean = _as_matrix(gradient, head) / count
    if probability is None:
        weight, bias = head.weight.double(), head.bias.double()
        counts = counts_of_head(mean[:, :-1], mean[:, -1], weight, bias, count)
    else:
        counts = whole_numbers(count * (probability - mean[:, -1]), count)
    at_least = None
    if diagonal is not None:
        variance = _as_matrix(diagonal, head)[:, -1] / count
        least = (1 - (1 - 4 * variance).clamp_min(0.0).sqrt()) / 2
        # Less than a thousandth of an example is rounding.
        at_least = ((least - mean[:, -1]) * count - 1e-3).ceil().clamp_min(0.0).long()
        # The rest is dealt as the gradient alone has it.
        rest = (counts - at_least).clamp_min(0)
        counts = at_least + whole_numbers(rest, count - int(at_least.sum()))
    return LeakedLabels(domain, count, counts, at_least)


def _as_matrix(values: Tensor, head: nn.Linear) -> Tensor:
    """Return a vector of the head's parameters as (classes, features + 1), the bias last."""
    return values.double().view(head.out_features, head.in_features + 1)


def _model_of(capture: Capture) -> tuple[nn.Module, nn.Linear]:
    info = capture.federation
    model = build_model(info.model, info.inputs, info.task, info.model_seed)
    load_state(model, capture.broadcast)
    head = find_head(model.requires_grad_(False))
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise AttackError(
            f"model.name = {info.model.name!r}: its head is a {type(head).__name__}; labels can be "
            "counted for a linear layer with a bias"
        )
    if head.out_features != len(info.classes):
        raise AttackError(
            f"model.name = {info.model.name!r}: its head has {head.out_features} outputs for "
            f"{len(info.classes)} classes; labels can be counted from one output a class"
        )
    return model, head


def _query(sent: Content) -> MomentsQuery:
    return MomentsQuery.from_records(
        RecordDict({ALIGNMENT: ConfigRecord(dict(sent.values[ALIGNMENT]))})
    )


def share_recovered(counts: Tensor, labels: Tensor) -> float:
    """Return the share of labels that estimated counts get right, as multisets.

    Parameters
    ----------
    counts : Tensor
        int64, shape (classes,).
    labels : Tensor
        int64, shape (n,): the truth.
    """
    found = Counter(dict(enumerate(counts.tolist())))
    return (found & Counter(labels.tolist())).total() / max(1, len(labels))
