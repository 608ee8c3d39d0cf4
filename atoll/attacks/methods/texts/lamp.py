"""LAMP: optimised embeddings in turns with changes of word order that a language model judges.

Balunovic, Dimitrov, Jovanovic and Vechev, NeurIPS 2022, arXiv 2202.08827. Their language model is
GPT-2; here it is one of pairs of tokens, estimated on public texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.optim.language_prior import BigramPrior
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.embedded_texts import EmbeddedClient
from atoll.attacks.threat.labels import head_gradient, infer_labels
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.ranges import Iterations, NonNegativeCount, Rate, Repetitions, Weight
from atoll.clients.tasks.classification import Classification
from atoll.errors import AttackError
from atoll.randomness import derive_seed


class Lamp(SeparateAttack):
    """Adam on embeddings whose update matches, and the best of random reorderings in between.

    Labels are inferred from the update. It is for classifications: labels of the next token are
    the tokens that it looks for.

    Defaults are those of the released code with the cosine cost, but for the language model. The
    released code knows how long each text is; this attack knows the longest of a batch at most.

    Attributes
    ----------
    starts : int
        Random embeddings of which the one that matches best is optimised.
    turns : int
        Turns of optimisation and reordering.
    steps : int
        Steps of Adam a turn.
    reorderings : int
        Orders of each text that are tried a turn.
    learning_rate : float
        Of Adam; it falls by ``decay`` each turn.
    decay : float
        Factor of the learning rate from turn to turn.
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    length_weight : float
        Weight of the squared difference between the mean length of the embeddings and that of the
        vocabulary's.
    language_weight : float
        Weight of the language model's negative log-likelihood when orders are compared.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"tokens"})
    needs = frozenset({Capability.TRAINING, Capability.PUBLIC_DATA})

    starts: Repetitions = 500
    turns: Repetitions = 40
    steps: Iterations = 50
    reorderings: NonNegativeCount = 200
    learning_rate: Rate = 0.01
    decay: Rate = 0.89
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "layerwise-cosine"
    length_weight: Weight = 1.0
    language_weight: Weight = 0.2

    def check(self, observation: Observation) -> None:
        """Refuse other tasks, models without an embedding, and labels that cannot be inferred."""
        if not isinstance(observation.task, Classification):
            raise AttackError(
                f"{observation.name}: the client learns {observation.task.kind}; expected a "
                "classification: Lamp infers labels, and does not optimise them"
            )
        EmbeddedClient(observation)
        head_gradient(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Optimise and reorder in turns."""
        inputs = observation.inputs
        assert isinstance(inputs, TokenInputs)
        own = derive_seed(seed, "lamp", observation.server_round, observation.node_id)
        search = _Search(self, observation, inputs, torch.Generator().manual_seed(own))
        embeddings, rate = search.started(), self.learning_rate
        for _ in range(self.turns):
            embeddings = search.optimised(embeddings, rate)
            embeddings = search.reordered(embeddings)
            rate *= self.decay
        found = search.client.nearest(embeddings)
        tokens = torch.full((len(found), inputs.length), inputs.padding, dtype=torch.int32)
        tokens[:, : found.shape[1]] = found.to(torch.int32)
        return Reconstruction(
            tokens, search.labels, "inferred", cost=float(search.cost(embeddings))
        )


class _Search:
    """What an attack on one update has: costs of embeddings, and random numbers."""

    def __init__(
        self,
        settings: Lamp,
        observation: Observation,
        inputs: TokenInputs,
        generator: torch.Generator,
    ) -> None:
        assert observation.public is not None
        self.client = EmbeddedClient(observation)
        self.labels = infer_labels(observation, "auto")
        self._settings, self._generator = settings, generator
        self._target = [observation.target[place][None] for place in self.client.matched]
        self._compare = COSTS[settings.cost]
        self._mean_length = self.client.table.norm(dim=1).mean()
        self._spread = float(self.client.table.std())
        self._language = BigramPrior.of(
            observation.public.examples, inputs.vocabulary, inputs.padding
        )

    def cost(self, embeddings: Tensor) -> Tensor:
        """Return the matching cost of embeddings (n, length, width), and of their length."""
        update = self.client.update(embeddings, self.labels)
        matching: Tensor = self._compare([tensor[None] for tensor in update], self._target)[0]
        lengths = embeddings.norm(dim=-1).mean()
        cost: Tensor = (
            matching + self._settings.length_weight * (lengths - self._mean_length).square()
        )
        return cost

    def started(self) -> Tensor:
        """Return the best of random embeddings."""
        shape = (len(self.labels), self.client.length, self.client.table.shape[1])
        starts = (
            self._spread * torch.randn(shape, generator=self._generator)
            for _ in range(self._settings.starts)
        )
        return self._best(starts, self.cost)

    def optimised(self, embeddings: Tensor, rate: float) -> Tensor:
        """Return the best embeddings of some steps of Adam."""
        moved = embeddings.clone().requires_grad_(True)
        adam = torch.optim.Adam([moved], lr=rate)
        best, least = embeddings, torch.tensor(torch.inf)
        for _ in range(self._settings.steps):
            cost = self.cost(moved)
            [moved.grad] = torch.autograd.grad(cost, [moved])
            is_better = cost.detach() < least
            best = torch.where(is_better, moved.detach(), best)
            least = torch.where(is_better, cost.detach(), least)
            adam.step()
        return best

    def reordered(self, embeddings: Tensor) -> Tensor:
        """Return embeddings with each text in the best of some orders, its own among them."""
        for text in range(len(embeddings)):
            orders = (
                self._in_another_order(embeddings, text) for _ in range(self._settings.reorderings)
            )
            embeddings = self._best(chain([embeddings], orders), self._total)
        return embeddings

    def _total(self, embeddings: Tensor) -> Tensor:
        likelihood = self._language(self.client.nearest(embeddings)).mean()
        return self.cost(embeddings) + self._settings.language_weight * likelihood

    @torch.no_grad()
    def _best(self, candidates: Iterable[Tensor], cost: Callable[[Tensor], Tensor]) -> Tensor:
        best, least = None, torch.inf
        for candidate in candidates:
            found = float(cost(candidate))
            if best is None or found < least:
                best, least = candidate, found
        assert best is not None
        return best

    def _in_another_order(self, embeddings: Tensor, text: int) -> Tensor:
        changed, length = embeddings.clone(), embeddings.shape[1]
        changed[text] = embeddings[text][another_order(self._drawn(4), length, self._drawn)]
        return changed

    def _drawn(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self._generator))


def another_order(kind: int, length: int, drawn: Callable[[int], int]) -> list[int]:
    """Return an order of a text's places (sec. 4.2 of the paper).

    Parameters
    ----------
    kind : int
        0: two tokens are swapped; 1: one is moved; 2: a part is moved; 3: the beginning goes to
        the end.
    length : int
        The number of places.
    drawn : Callable
        Returns a random number below the one it is given.
    """
    order = list(range(length))
    first, second = drawn(length), drawn(length)
    if kind == 0:
        order[first], order[second] = order[second], order[first]
        return order
    if kind == 1:
        order.insert(second, order.pop(first))
        return order
    if kind == 2:
        start, end = sorted((first, second))
        part, rest = order[start : end + 1], order[:start] + order[end + 1 :]
        place = drawn(len(rest) + 1)
        return rest[:place] + part + rest[place:]
    return order[first:] + order[:first]
