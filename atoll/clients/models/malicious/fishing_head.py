"""Model of a malicious server: a head that lets the examples of one class through alone.

Class fishing (Wen et al., 2022, "Fishing for user data in large-batch federated learning via
gradient magnification", arXiv 2202.00580): the head's rows of all other classes are zero, and their
biases so large that the class's own probability is about 0. An example of another class then has no
gradient by the features, and one of the class has a full one: the update of the layers before the
head is that of the class's examples, whatever the batch, or the sum over clients.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models import MODELS
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import given_arguments
from atoll.clients.ranges import Positive
from atoll.clients.tasks.classification import classes_of

Class = Annotated[int, Field(ge=0, le=1_000_000)]


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
