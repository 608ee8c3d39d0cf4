"""The examples of shadow federations: who has what in each, with every candidate in half of them.

A shadow federation has the clients of the victim's, of the same sizes and classes, with examples
drawn from a pool that no client of the victim has. Of a target's candidates, members and others
alike, a random half is among its examples. Shadow federations come in pairs, of which the second
has the other half.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from atoll.randomness import derive_seed

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """A client of which membership is asked, and its candidates.

    Attributes
    ----------
    client : int
        Its partition, from 0.
    members : NDArray[int64]
        Shape (n,): candidates that it has.
    others : NDArray[int64]
        Shape (n,): as many that no client has.
    """

    client: int
    members: Indices
    others: Indices

    @property
    def candidates(self) -> Indices:
        """The members, then the others: shape (2 n,)."""
        return np.concatenate([self.members, self.others])


@dataclass(frozen=True)
class ShadowDesign:
    """Rule by which shadow federations' examples are drawn.

    All indices are places in one data set, which has the victim's examples and the pool's.

    Attributes
    ----------
    seed : int
        What all draws derive from.
    classes : NDArray[int64]
        The class of each example of the data set; zeros where no class is predicted.
    clients : tuple[NDArray[int64], ...]
        The examples of each client of the victim federation.
    pool : NDArray[int64]
        Examples that no client of it has, and that are no candidates.
    targets : tuple[Target, ...]
        Whose candidates are asked about.

    Examples
    --------
    >>> import numpy as np
    >>> target = Target(client=0, members=np.array([0, 1]), others=np.array([4, 5]))
    >>> clients, pool = (np.array([0, 1, 2]), np.array([3])), np.arange(6, 12)
    >>> design = ShadowDesign(0, np.zeros(12, np.int64), clients, pool, (target,))
    >>> [len(examples) for examples in design.examples(0)]
    [3, 1]
    >>> first, second = design.included(0, target), design.included(1, target)
    >>> int(first.sum()), bool((first ^ second).all())
    (2, True)
    """

    seed: int
    classes: Indices
    clients: tuple[Indices, ...]
    pool: Indices
    targets: tuple[Target, ...]

    def included(self, shadow: int, target: Target) -> NDArray[np.bool_]:
        """Return which of a target's candidates it has in a shadow federation.

        Parameters
        ----------
        shadow : int
            The federation's number, from 0.
        target : Target
            One of :attr:`targets`.

        Returns
        -------
        NDArray[bool]
            Shape (2 n,), in the order of ``target.candidates``; n of them are true.
        """
        count = 2 * len(target.members)
        of_pair = derive_seed(self.seed, "candidates", shadow // 2, target.client)
        chosen = np.zeros(count, np.bool_)
        chosen[np.random.default_rng(of_pair).permutation(count)[: count // 2]] = True
        return chosen if shadow % 2 == 0 else ~chosen

    def examples(self, shadow: int) -> list[Indices]:
        """Return the examples of each client in a shadow federation.

        A class of which the pool has too few examples is drawn from with replacement, and one of
        which it has none is made up for by any class.
        """
        by_client = {target.client: target for target in self.targets}
        found = []
        for client, own in enumerate(self.clients):
            generator = np.random.default_rng(derive_seed(self.seed, "pool", shadow, client))
            target = by_client.get(client)
            if target is None:
                found.append(self._like(own, generator))
                continue
            others = self._like(np.setdiff1d(own, target.members), generator)
            found.append(np.concatenate([target.candidates[self.included(shadow, target)], others]))
        return found

    @cached_property
    def _by_class(self) -> dict[int, Indices]:
        classes = self.classes[self.pool]
        return {int(label): self.pool[classes == label] for label in np.unique(classes)}

    def _like(self, examples: Indices, generator: np.random.Generator) -> Indices:
        """Return examples of the pool with the classes of these."""
        labels, counts = np.unique(self.classes[examples], return_counts=True)
        drawn = [np.zeros(0, np.int64)]
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            available = self._by_class.get(label, self.pool)
            repeats = count > len(available)
            drawn.append(generator.choice(available, count, replace=repeats))
        return np.concatenate(drawn)
