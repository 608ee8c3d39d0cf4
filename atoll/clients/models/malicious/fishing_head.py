"""Model of a malicious server: a head that lets the examples of one class through alone.

Class fishing (Wen et al., 2022, "Fishing for user data in large-batch federated learning via
gradient magnification", arXiv 2202.00580): the head's rows of all other classes are zero, and their
biases so large that the class's own probability is about 0. An example of another class then has no
gradient by the features, and one of the class has a full one: the update of the layers before the
head is that of the class's examples, whatever the batch, or the sum over clients.

Feature fishing, the second half of the same paper, is for clients with many examples of the class:
the row looks at a single feature, and those of the class's examples alone have a gradient whose
feature is below a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models import MODELS
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import given_arguments
from atoll.clients.ranges import Positive
from atoll.clients.tasks.classification import classes_of

Class = Annotated[int, Field(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class FishingHead:
    """Head that fishes for the examples of a class, or for those of them with a small feature.

    Attributes
    ----------
    weight, bias : str
        Names of its parameters.
    target : int
        The class.
    logit : float
        Logit of every other class.
    feature : int or None
        The one feature that the class's row looks at; None if it looks at several.
    scale : float
        What the row multiplies that feature by; 1 without one.
    threshold : float
        Examples of the class whose feature is below it have a gradient; infinity without one.
    """

    weight: str
    bias: str
    target: int
    logit: float
    feature: int | None = None
    scale: float = 1.0
    threshold: float = math.inf


def find_fishing_head(parameters: Mapping[str, Tensor]) -> FishingHead | None:
    """Return the fishing head among a model's parameters, by name; None if there is none.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.models.malicious.fishing_head import find_fishing_head
    >>> row, others = torch.tensor([[0.5, -0.2]]), torch.zeros(2, 2)
    >>> head = {"fc.weight": torch.cat([others, row]), "fc.bias": torch.tensor([7.0, 7.0, 0.0])}
    >>> find_fishing_head(head).target
    2
    """
    for name, weight in parameters.items():
        bias_name = f"{name.removesuffix('weight')}bias"
        if not name.endswith("weight") or weight.dim() != 2 or bias_name not in parameters:
            continue
        rows = weight.abs().sum(1).nonzero().flatten()
        if len(rows) != 1 or len(weight) < 2:
            continue
        target, bias = int(rows[0]), parameters[bias_name]
        logit = float(bias[0 if target else 1])
        features = weight[target].nonzero().flatten()
        if len(features) > 1:
            return FishingHead(name, bias_name, target, logit)
        feature = int(features[0])
        scale = float(weight[target, feature])
        # At the threshold the class is as probable as all others together.
        threshold = (logit + math.log(len(weight) - 1) - float(bias[target])) / scale
        return FishingHead(name, bias_name, target, logit, feature, scale, threshold)
    return None


def with_threshold(
    head: FishingHead, weight: Tensor, feature: int, scale: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a head that fishes for small values of one feature.

    Parameters
    ----------
    head : FishingHead
        Whose class and logit it has.
    weight : Tensor
        The head's weight, shape (classes, features).
    feature : int
        Which feature.
    scale : float
        What it is multiplied by, above 0: the larger, the sharper the threshold.
    threshold : float
        In units of the feature.
    """
    row = torch.zeros_like(weight)
    row[head.target, feature] = scale
    bias = torch.full_like(weight[:, 0], head.logit)
    bias[head.target] = head.logit + math.log(len(weight) - 1) - scale * threshold
    return row, bias


def fishing(
    image_shape: tuple[int, int, int],
    classes: int,
    target: Class = 0,
    logit: Positive = 7.0,
    base: str = "lenet",
    **arguments: Any,
) -> nn.Module:
    """Return a model whose head fishes for the examples of one class.

    Parameters
    ----------
    target : int
        The class.
    logit : float
        Logit of every other class; SecAgg+ clips parameters to 8 in size by default.
    base : str
        The model's name, or ``module:callable``; other arguments are its own.

    Raises
    ------
    ValueError
        If there is no such class, or the base has no linear head with a bias.
    """
    if target >= classes:
        raise ValueError(f"target = {target}: expected a class below {classes}")
    make = MODELS.find(base, "model.base")
    model = make(**given_arguments(make, images_of(image_shape), classes_of(classes)), **arguments)
    head = find_head(model)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(f"the head of {base!r} is a {type(head).__name__}; expected a Linear")
    with torch.no_grad():
        row = head.weight[target].clone()
        head.weight.zero_()
        head.weight[target] = row
        head.bias.fill_(logit)
        head.bias[target] = 0.0
    return model
