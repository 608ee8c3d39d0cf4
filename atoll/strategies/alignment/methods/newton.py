"""Newton steps of the head by gradient-normalized smoothness (Semenov, Jaggi and Doikov, 2025).

The step is -(H + (||g||/gamma) I)^-1 g with the head's gradient g and Hessian H over the clients'
examples. gamma is halved until the step is good, and doubled afterwards (algorithm 1 and the
released code's search). H is known by its products with a few vectors, of a Krylov basis of g: the
steps for all gamma lie in the same basis, so that one round of products serves the whole search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from atoll.clients.moments.head_statistics import HeadGradient
from atoll.clients.moments.statistics import Loss
from atoll.errors import EngineError, InvalidExperimentError
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.alignment.methods.gradients import DomainGradients, GradientStrategy
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.moments.domain_weights import Weighting
from atoll.strategies.strategy_fields import Count, NonNegative, Positive

# Of the released code: halvings of gamma in a round, its least value, and what is added to it.
MOST_TRIALS, LEAST_SMOOTHNESS, EPSILON = 40, 1e-9, 1e-8
# A direction that is this much shorter than the product it is left of adds nothing to a basis.
SHORTEST = 1e-10


@dataclass(kw_only=True, eq=False)
class GNS(GradientStrategy):
    """Gradient-regularized Newton steps of the head; a round is one step, and clients take none.

    With gamma = ``smoothness`` at first, the regularisation ||g||/gamma and the step d, a trial is
    good if f(w) - f(w + d) >= ||g(w + d)||^2 gamma / (8 ||g(w)||). The model's body stays.

    Parameters
    ----------
    smoothness : float
        gamma of the first trial.
    products : int
        Hessian products a round, at most: the size of the Krylov basis. With as many as the head
        has parameters a step is exact.
    trials : int
        Steps that clients evaluate in one exchange.

    Raises
    ------
    InvalidExperimentError
        If an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, GNS
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    >>> images, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 0])
    >>> strategy = GNS()
    >>> domains = Domains.of_model(model, {"a": (images, labels)}, "examples")
    >>> move, losses = strategy.newton_step(domains)
    >>> tuple(move.shape), strategy.memory["smoothness"].item() > strategy.smoothness
    ((6,), True)
    """

    min_domains: ClassVar[int] = 1
    domain_weights: Weighting = "examples"
    penalty_weight: NonNegative = 0.0
    server_optimizer: Literal["sgd"] = "sgd"
    server_learning_rate: Positive | None = 1.0
    smoothness: Positive = 1.0
    products: Count = 20
    trials: Count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server_learning_rate != 1.0 or self.server_weight_decay or self.l2:
            raise InvalidExperimentError(
                "strategy.name = 'GNS': its step has no learning rate and no decay; expected "
                "neither server_learning_rate, server_weight_decay nor l2"
            )

    @property
    def needs_linear_head(self) -> bool:
        """The server must know which arrays are the head's."""
        return True

    def new_arrays(self, gradients: DomainGradients) -> ArrayRecord:
        """Return the model with its head moved."""
        exchange = replace(gradients.exchange, before_gradient=False)
        move, losses = self.newton_step(Domains(exchange, gradients.counts, self.domain_weights))
        gradients.loss.update(zip(gradients.names, losses.tolist(), strict=True))
        return moved_head(exchange.arrays, self._trained, move)

    def newton_step(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """Return the head's move, float64, shape (h,), and the domains' losses, shape (n,).

        The move is zero if no trial was good. :attr:`memory` has the gamma of the next round's
        first trial.
        """
        losses, gradients = (found.detach() for found in domains.moments(Loss(), HeadGradient()))
        loss = float(domains.mean(losses))
        gradient = domains.mean(gradients).double()
        norm = float(torch.linalg.vector_norm(gradient))
        smoothness = float(self.memory.get("smoothness", self.smoothness))
        self._report.update({"head_loss": loss, "gradient_norm": norm, "accepted": 0.0})
        if not norm:
            return torch.zeros_like(gradient), losses
        basis, projected = krylov_basis(domains, gradient, self.products)
        for first in range(0, MOST_TRIALS, self.trials):
            tried = [smoothness / 2**place for place in range(first, first + self.trials)]
            penalties = [norm / (gamma + EPSILON) for gamma in tried]
            moves = torch.stack([_solved(basis, projected, gradient, p) for p in penalties])
            risks, after = domains.moved_head_risks(moves)
            norms = torch.linalg.vector_norm(domains.mean(after).double(), dim=1)
            gains = loss - domains.mean(risks).double()
            for place, penalty in enumerate(penalties):
                if bool(moves[place].any()) and gains[place] >= norms[place] ** 2 / (8 * penalty):
                    gamma = tried[place]
                    self._report.update({"accepted": 1.0, "smoothness": gamma})
                    following = max(2 * gamma, LEAST_SMOOTHNESS)
                    self.memory["smoothness"] = torch.tensor(following, dtype=torch.float64)
                    return moves[place], losses
        return torch.zeros_like(gradient), losses


def krylov_basis(domains: Domains, gradient: Tensor, products: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of g, Hg, H^2 g, ..., and the Hessian in it.

    Parameters
    ----------
    domains : Domains
        Asked for one product after another.
    gradient : Tensor
        g, shape (h,), not zero.
    products : int
        The most vectors.

    Returns
    -------
    tuple[Tensor, Tensor]
        Shapes (k, h) and (k, k).
    """
    basis, images = [gradient / torch.linalg.vector_norm(gradient)], []
    while True:
        vectors = basis[-1].expand(len(domains), 1, -1)
        image = domains.mean(domains.hessian_products(vectors).detach())[0].double()
        images.append(image)
        rows = torch.stack(basis)
        if len(basis) == min(products, len(gradient)):
            break
        left = image
        # Twice, so that rounding leaves no part of the basis.
        for _ in range(2):
            left = left - rows.mT @ (rows @ left)
        length = torch.linalg.vector_norm(left)
        if float(length) <= SHORTEST * float(torch.linalg.vector_norm(image)):
            break
        basis.append(left / length)
    projected = rows @ torch.stack(images).mT
    return rows, (projected + projected.mT) / 2


def _solved(basis: Tensor, projected: Tensor, gradient: Tensor, penalty: float) -> Tensor:
    """Return -(H + penalty I)^-1 g in the basis; zeros if that is no descent direction."""
    values, vectors = torch.linalg.eigh(projected)
    if float(values[0]) + penalty <= 0.0:
        return torch.zeros_like(gradient)
    shares = vectors.mT @ (basis @ gradient) / (values + penalty)
    direction: Tensor = basis.mT @ (vectors @ shares)
    return -direction


def moved_head(arrays: ArrayRecord, trained: list[str], move: Tensor) -> ArrayRecord:
    """Return a model's arrays with its linear head moved.

    Parameters
    ----------
    arrays : ArrayRecord
        The model's.
    trained : list[str]
        The keys of its parameters, in order.
    move : Tensor
        Each output's weights and then its bias, shape (h,).

    Raises
    ------
    EngineError
        If no weight matrix among them, with its bias, has as many numbers.
    """
    for key in reversed(trained):
        shape = arrays[key].shape
        if len(shape) != 2:
            continue
        bias = f"{key.removesuffix('weight')}bias"
        has_bias = bias in trained
        if math.prod(shape) + has_bias * shape[0] != len(move):
            continue
        rows = move.reshape(shape[0], -1).numpy()
        moves = {key: rows[:, : shape[1]]} | ({bias: rows[:, -1]} if has_bias else {})
        return array_record(
            {
                k: to_array(np.asarray(view(a) + moves[k], dtype=view(a).dtype))
                if k in moves
                else a
                for k, a in arrays.items()
            }
        )
    raise EngineError(f"no layer of {trained} has the {len(move)} parameters of the head")
