"""Base class of statistics: a function of examples, as its inner product with a cotangent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs


@dataclass(frozen=True)
class DomainContext:
    """Context of a statistic of one domain, beside the examples.

    Attributes
    ----------
    domain : str
        The domain's name.
    vectors : Tensor or None
        Shape (k, h), of the head's parameters, for statistics that depend on vectors.
    examples : int
        Number of the client's examples of the domain in the round.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import DomainContext, HessianProduct, ModelSizes
    >>> sizes = ModelSizes(features=4, outputs=3, head=15, parameters=100)
    >>> context = DomainContext("photo", vectors=torch.zeros(2, 15), examples=8)
    >>> HessianProduct().shape(sizes, context)  # the shape of the given vectors
    (2, 15)
    """

    domain: str
    vectors: Tensor | None = None
    examples: int = 0


@dataclass(frozen=True)
class Statistic(ABC):
    """A function of examples that is summed over a client's examples of a domain.

    A statistic of one's own is a frozen dataclass at the top level of a module, with fields that
    JSON has, and travels to the clients as ``module:Class``.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import torch
    >>> from atoll.clients import Statistic
    >>> from atoll.strategies import Domains
    >>> @dataclass(frozen=True)
    ... class CubedFeatures(Statistic):
    ...     '''The third powers of the features, a vector of shape (features,).'''
    ...
    ...     def shape(self, sizes, context):
    ...         return (sizes.features,)
    ...
    ...     def inner(self, outputs, cotangent, context):
    ...         return (outputs.features**3).sum(0) @ cotangent
    >>> images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> domains = Domains.of_model(torch.nn.Linear(2, 2), {"a": (images, labels)})
    >>> domains.moment(CubedFeatures()).tolist()
    [[14.0, 4.0]]
    """

    # In the ledger and in messages; a class that says none has its own name.
    name: ClassVar[str] = ""
    # Whether its value is one row an example, at the example's place, in the place of a sum.
    of_examples: ClassVar[bool] = False
    # Whether it exists in closed form only, for a head that is one linear layer.
    needs_linear_head: ClassVar[bool] = False
    # Whether it needs the graph from the model's parameters to its output, even to be summed.
    needs_graph: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @abstractmethod
    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return the moment's shape."""

    @abstractmethod
    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """Return <cotangent, sum of phi over the examples>: a scalar, in the graph of both."""

    def total(
        self,
        outputs: HeadOutputs,
        sizes: ModelSizes,
        context: DomainContext,
        *,
        create_graph: bool = False,
    ) -> Tensor:
        """Return the sum of phi over the examples, the gradient of :meth:`inner`.

        Parameters
        ----------
        create_graph : bool
            Whether the sum is to be differentiated by the model's parameters.
        """
        shape = self.shape(sizes, context)
        with torch.enable_grad():
            # Penalties are of small differences of scalars, and eight bytes are nothing to send.
            dtype = outputs.logits.dtype if shape else torch.float64
            cotangent = outputs.logits.new_zeros(shape, dtype=dtype, requires_grad=True)
            value = self.inner(outputs, cotangent, context)
            (gradient,) = torch.autograd.grad(value, cotangent, create_graph=create_graph)
        return gradient if create_graph else gradient.detach()


def vectors_of(context: DomainContext) -> Tensor:
    """Return the vectors of a statistic that depends on some.

    Raises
    ------
    ValueError
        If the message had none.
    """
    if context.vectors is None:
        raise ValueError(f"the message has no vectors for domain {context.domain!r}")
    return context.vectors
