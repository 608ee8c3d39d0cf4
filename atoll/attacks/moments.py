"""What clients give away by the moments that alignment strategies ask for.

The sum of the head's gradients over a client's examples of a domain is the gradient of an update
that nobody averaged: it says how often each label occurs. (Hessians of cross-entropy do not depend
on labels.)
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from atoll.attacks.captures import Capture, FederationInfo
from atoll.attacks.labels import counts_by_bias
from atoll.attacks.observation import ImageSpace
from atoll.attacks.victim_model import VictimModel, build_victim
from atoll.clients.moments.messages import DOMAINS, MOMENTS, QUERY
from atoll.clients.moments.statistics import HeadGradient
from atoll.errors import AttackError


def label_counts_of_moments(capture: Capture, public: Tensor | None = None) -> dict[str, Tensor]:
    """Return how often each label occurs in each of a client's domains.

    Parameters
    ----------
    capture : Capture
        Of a "query.moments" message that asked for the head's gradient.
    public : Tensor, optional
        Public images, float32, shape (n, channels, height, width), in [0, 1]. Of many examples
        labels can only be counted if the model's mean probabilities are known, and these tell.

    Returns
    -------
    dict[str, Tensor]
        By domain: int64, shape (classes,).

    Raises
    ------
    AttackError
        If the message did not ask for the head's gradient, or the head is not a linear layer with
        a bias and an output a class.
    """
    is_query = capture.message_type == QUERY
    texts = capture.sent.value("statistics") if is_query else ()
    asked = [json.loads(text)["name"] for text in texts or ()]
    if HeadGradient.name not in asked:
        raise AttackError(
            f"{capture.name} was not asked for {HeadGradient.name!r} (but for "
            f"{', '.join(asked) or 'nothing'}): labels are counted from the head's gradient"
        )
    place, info = asked.index(HeadGradient.name), capture.federation
    classes = len(info.classes)
    model = build_victim(info.model, info.image_shape, classes, capture.broadcast)
    at_weight, at_bias = model.head_index()
    shape = list(model.parameters.values())[at_weight].shape
    if at_bias is None or shape[0] != classes:
        raise AttackError(
            f"the model's head has {shape[0]} outputs and {'a' if at_bias else 'no'} bias; "
            f"expected {classes} outputs and a bias"
        )
    probability = None if public is None else _mean_probability(model, info, public)
    found = {}
    names = capture.reply.values[DOMAINS]["names"]
    for domain, examples in zip(names, capture.reply.value("counts"), strict=True):
        mean = capture.reply.arrays[MOMENTS][f"{place}/{domain}"] / max(1, examples)
        weight, bias = mean[: shape.numel()].view(shape), mean[shape.numel() :]
        found[domain] = counts_by_bias(weight, bias, examples, model, probability)
    return found


def _mean_probability(model: VictimModel, info: FederationInfo, public: Tensor) -> Tensor:
    images = ImageSpace(info.image_shape, info.mean, info.std).normalize(public)
    with torch.no_grad():
        return torch.softmax(model.logits(model.parameters, images), 1).mean(0)
