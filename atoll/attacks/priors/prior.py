"""Base class of priors: what an example of the kind looks like, as a value and a proximal map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation


class Prior(ABC):
    """A regulariser R of single examples, with its value, its gradient and its proximal map.

    Images are given in [0, 1], shape (n, channels, height, width); rows of a table relaxed
    (:class:`~atoll.attacks.threat.table_space.TableSpace`), shape (n, width).

    Attributes
    ----------
    kinds : frozenset[str]
        Kinds of inputs that it is a prior of.
    needs : frozenset[Capability]
        What an attacker must have to use it.
    needs_path : bool
        Whether it is read from a file that ``atoll train-prior`` has written.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import PRIORS
    >>> prior = PRIORS["total-variation"](strength=0.1)
    >>> step = torch.tensor([[[[0.0, 1.0]]]])
    >>> prior.value(step), prior.prox(step).round(decimals=2)
    (tensor([0.1000]), tensor([[[[0.1000, 0.9000]]]]))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images"})
    needs: ClassVar[frozenset[Capability]] = frozenset()
    needs_path: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, observation: Observation, path: Path | None, strength: float) -> Self:
        """Return the prior for the examples behind an update.

        Parameters
        ----------
        observation : Observation
            Says what the examples are, and has the public data that its threat model grants.
        path : Path or None
            The file of a trained prior.
        strength : float
            Factor of the value; a trained prior has its own.

        Raises
        ------
        DataUnavailableError
            If the file cannot be read.
        AttackError
            If it is a prior of other examples.
        """

    @abstractmethod
    def value(self, examples: Tensor) -> Tensor:
        """Return R of each example: shape (n,). It can be differentiated."""

    @abstractmethod
    def prox(self, examples: Tensor) -> Tensor:
        """Return the proximal map of each example x: the u of least ``|u - x|^2 / 2 + R(u)``."""
