"""DAGER: exact recovery of tokens from the gradients of attention.

Petrov et al., NeurIPS 2024, arXiv 2405.15586.

The gradients of a layer's projections span the layer's inputs. Of the first layer these are known
for each token at each place, so the tokens at a place are those whose input is in the span. Which
of them are of one sequence is told by the second layer in the same way: its inputs depend on the
sequence. A causal model's sequences are grown token by token, and each prefix is checked exactly.
Of other models whole sequences are checked; the paper tries all combinations, here a descent over
places looks for sequences whose inputs are in the span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.threat.attention_spans import (
    AttentionLayer,
    LayerInputs,
    Span,
    attention_layers,
    span_of,
)
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.embedded_texts import longest_text
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.ranges import Repetitions, Share, Steps
from atoll.randomness import derive_seed

# Where noise leaves no token within the threshold, it is so much of the nearest token's distance.
RELAXED = 1.5
# Candidates at a place, and prefixes that are kept, per sequence of the batch.
PER_SEQUENCE = 4
# Passes over the places of a sequence that is not causal.
SWEEPS = 6


class Dager(SeparateAttack):
    """Tokens whose inputs are in the span of the first layers' gradients.

    It takes fewer tokens in the batch than the model is wide: else every token is in the span.

    Attributes
    ----------
    threshold : float
        The distance from the span, as a share of an input's length, below which it is in it.
    tries : int
        Starts of the descent for each sequence, where the model is not causal.
    evaluations : int
        Sequences after whose trial the descent ends; what is left of the batch is not found.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"tokens"})
    needs = frozenset({Capability.TRAINING})

    threshold: Share = 5e-3
    tries: Repetitions = 8
    evaluations: Steps = 100_000

    def check(self, observation: Observation) -> None:
        """Refuse a model without attention layers that are trained."""
        attention_layers(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Find the tokens of each place, then the sequences."""
        inputs = observation.inputs
        assert isinstance(inputs, TokenInputs)
        search = _Search.of(observation, inputs, self.threshold)
        count = observation.num_examples
        if count == 1 or search.second is None:
            found = search.nearest(count)
        elif search.is_causal():
            found = search.grown(count)
        else:
            own = derive_seed(seed, "dager", observation.server_round, observation.node_id)
            generator = torch.Generator().manual_seed(own)
            found = search.descended(count, self.tries, self.evaluations, generator)
        tokens = torch.full((count, inputs.length), inputs.padding, dtype=torch.int32)
        for place, sequence in enumerate(found[:count]):
            tokens[place, : len(sequence)] = torch.tensor(sequence, dtype=torch.int32)
        return Reconstruction(
            tokens,
            torch.full((count,), -1),
            "none",
            found=torch.arange(count) < len(found),
        )


@dataclass(frozen=True)
class _Scored:
    """A sequence, and how far its inputs of the second layer are from the span."""

    distance: float
    tokens: list[int]


@dataclass(frozen=True)
class _Search:
    """Candidates at each place, and the second layer's span by which sequences are told."""

    inputs_of: LayerInputs
    inputs: TokenInputs
    threshold: float
    candidates: list[list[int]]
    second: tuple[AttentionLayer, Span] | None

    @classmethod
    def of(cls, observation: Observation, inputs: TokenInputs, threshold: float) -> _Search:
        layers = attention_layers(observation)
        inputs_of = LayerInputs(observation.model.module)
        distances = _token_distances(inputs_of, layers[0], span_of(observation, layers[0]), inputs)
        distances[inputs.padding] = torch.inf
        limit = max(threshold, RELAXED * float(distances[:, 0].min()))
        most = PER_SEQUENCE * observation.num_examples
        longest = longest_text(observation, inputs.length)
        knows_longest = longest < inputs.length
        candidates = []
        for of_place in distances.T[:longest]:
            nearest = of_place.argsort(stable=True)[:most]
            within = nearest[of_place[nearest] <= limit].tolist()
            if not within and not knows_longest:
                break
            # Of a token that is repeated, the places' share of the span can be below rounding.
            candidates.append(within or nearest[:1].tolist())
        second = (layers[1], span_of(observation, layers[1])) if len(layers) > 1 else None
        return cls(inputs_of, inputs, limit, candidates, second)

    def nearest(self, count: int) -> list[list[int]]:
        """Return the k-th nearest tokens of each place as the k-th sequence."""
        return [[within[k] for within in self.candidates if k < len(within)] for k in range(count)]

    def is_causal(self) -> bool:
        """Tell whether the second layer's inputs at a place depend on no later token."""
        assert self.second is not None
        one = torch.full((2, 2), self.inputs.padding)
        tokens = [t for t in range(self.inputs.vocabulary) if t != self.inputs.padding]
        one[:, 0], one[0, 1], one[1, 1] = tokens[0], tokens[0], tokens[-1]
        seen = self.inputs_of(self.second[0], self._padded(one))
        return bool(torch.allclose(seen[0, 0], seen[1, 0], rtol=1e-5, atol=1e-6))

    def grown(self, count: int) -> list[list[int]]:
        """Grow sequences from the first place on; keep prefixes whose inputs are in the span."""
        ended: list[_Scored] = []
        kept = self._within([[token] for token in self.candidates[0]], count)
        for within in self.candidates[1:]:
            longer = self._within([[*one.tokens, t] for one in kept for t in within], count)
            continued = {tuple(one.tokens[:-1]) for one in longer}
            ended += [one for one in kept if tuple(one.tokens) not in continued]
            if not longer:
                break
            kept = longer
        else:
            ended += kept
        ended.sort(key=lambda one: (-len(one.tokens), one.distance))
        return [one.tokens for one in ended]

    def _within(self, prefixes: list[list[int]], count: int) -> list[_Scored]:
        """Return the prefixes whose last input is in the second layer's span, nearest first."""
        last = self._distances(torch.tensor(prefixes))[:, -1]
        order = last.argsort(stable=True)[: PER_SEQUENCE * count].tolist()
        return [_Scored(float(last[k]), prefixes[k]) for k in order if last[k] <= self.threshold]

    def descended(
        self, count: int, tries: int, evaluations: int, generator: torch.Generator
    ) -> list[list[int]]:
        """Look for sequences one after another; the tokens of those that are right are left out."""
        left = [list(within) for within in self.candidates]
        found: list[list[int]] = []
        for _ in range(count):
            options = [within for within in left if within]
            if not options or evaluations <= 0:
                break
            ends: list[_Scored] = []
            while len(ends) < tries and evaluations > 0:
                end, tried = self._descend(left, self._drawn_start(left, generator))
                ends.append(end)
                evaluations -= tried
            best = min(ends, key=lambda one: one.distance)
            if best.distance > self.threshold:
                # Where one of its tokens has gone with a sequence that shares it.
                for start in self._starts_near(best.tokens):
                    end, tried = self._descend(self.candidates, start)
                    evaluations -= tried
                    if end.distance <= self.threshold and end.tokens not in found:
                        best = min(best, end, key=lambda one: one.distance)
            found.append(best.tokens)
            if best.distance > self.threshold:
                continue
            for place, token in enumerate(best.tokens):
                if token in left[place]:
                    left[place].remove(token)
                # Sequences that are not found yet share their tokens there, or end before.
                left[place] = left[place] or list(self.candidates[place])
        return found

    def _drawn_start(self, left: list[list[int]], generator: torch.Generator) -> list[int]:
        """Return a sequence of a length that one may have, with any token of each place."""

        def drawn(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        # Where one sequence is longer than the others, its end shows until it is found.
        lengths = sorted(_lengths(left) | _lengths(self.candidates))
        length = lengths[drawn(len(lengths))]
        return [within[drawn(len(within))] for within in left[:length]]

    def _starts_near(self, tokens: list[int]) -> list[list[int]]:
        """Return a sequence with each length that one may have: cut, or with any tokens after."""
        longer = tokens + [within[0] for within in self.candidates[len(tokens) :] if within]
        return [longer[:length] for length in sorted(_lengths(self.candidates))]

    def _descend(self, left: list[list[int]], start: list[int]) -> tuple[_Scored, int]:
        """Change one place after another to the token that brings the sequence nearest.

        Returns
        -------
        tuple[_Scored, int]
            The sequence at the end, and how many were tried.
        """
        tokens, least, tried = start, torch.inf, 0
        for _ in range(SWEEPS):
            before = least
            for place in range(len(tokens)):
                tries = [[*tokens[:place], t, *tokens[place + 1 :]] for t in left[place]]
                tried += len(tries)
                distances = self._distances(torch.tensor(tries)).mean(1)
                tokens, least = tries[int(distances.argmin())], float(distances.min())
            if least >= before:
                break
        return _Scored(least, tokens), tried

    def _distances(self, tokens: Tensor) -> Tensor:
        """Return the distances of sequences' inputs of the second layer: (n, length)."""
        assert self.second is not None
        layer, span = self.second
        seen = self.inputs_of(layer, self._padded(tokens))[:, : tokens.shape[1]]
        return span.distances(seen)

    def _padded(self, tokens: Tensor) -> Tensor:
        """Return sequences padded to the model's length."""
        missing = self.inputs.length - tokens.shape[1]
        return torch.nn.functional.pad(tokens, (0, missing), value=self.inputs.padding)


def _token_distances(
    inputs_of: LayerInputs, layer: AttentionLayer, span: Span, inputs: TokenInputs
) -> Tensor:
    """Return how far each token's input is from the span at each place: (vocabulary, length)."""
    parts = []
    for tokens in torch.split(torch.arange(inputs.vocabulary), 256):
        sequences = tokens[:, None].expand(-1, inputs.length)
        parts.append(span.distances(inputs_of(layer, sequences)))
    return torch.cat(parts)


def _lengths(left: list[list[int]]) -> set[int]:
    """Return the lengths that a sequence may have: up to a place after which there are fewer."""
    longest = next((k for k, within in enumerate(left) if not within), len(left))
    return {k for k in range(1, longest) if len(left[k]) < len(left[k - 1])} | {longest}
