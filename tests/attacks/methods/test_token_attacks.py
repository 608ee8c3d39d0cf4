"""Attacks on sequences: spans by hand, exact tokens, grown sequences, and bags of words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.methods.texts.dager import Dager
from atoll.attacks.threat.attention_spans import LayerInputs, Span, attention_layers, span_of
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.victims import Attacked, Victim, attack_victims, observe_victims, references_of
from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.tasks.next_token import IGNORED, NextToken
from atoll.errors import AttackError
from tests.support.attacks.other_kinds import (
    CLASSES,
    EXAMPLES,
    LENGTH,
    TABLE,
    TOKENS,
    VOCABULARY,
    dataset_of,
    victim_of,
)

TEXT = {"name": "text-transformer", "width": 64, "heads": 2}
CAUSAL = {"name": "char-transformer", "width": 64, "heads": 2}
NEXT = NextToken(vocabulary=VOCABULARY, length=LENGTH)


def attacked(name: str, dataset: Dataset, victims: list[Victim], **settings: Any) -> list[Attacked]:
    attack = build_attack(name, settings)
    references = references_of(dataset)
    observations = observe_victims(victims, attack, public=references.public)
    return attack_victims(name, attack, victims, observations, candidates=references.candidates)


def test_the_distance_from_a_span_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(rows.T).Q.T
    vector = torch.randn(7, generator=generator, dtype=torch.float64)
    fitted = torch.linalg.lstsq(rows.T, vector[:, None]).solution[:, 0]
    expected = (vector - rows.T @ fitted).norm() / vector.norm()
    torch.testing.assert_close(Span(basis).distances(vector), expected)
    assert float(Span(basis).distances(2 * rows[0] - rows[2])) < 1e-12


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layers_span_is_that_of_its_inputs(layer: int, tmp_path: Path) -> None:
    victim = victim_of(dataset_of(tmp_path, TOKENS, CLASSES), TEXT, examples=2)
    observation = observe(victim.capture, ThreatModel.of(Capability.TRAINING))
    layers = attention_layers(observation)
    assert [len(one.places) for one in layers] == [1, 1]
    tokens = victim.truth.inputs.long()
    span = span_of(observation, layers[layer])
    is_token = tokens != TOKENS.padding
    inputs = LayerInputs(observation.model.module)(layers[layer], tokens)[is_token]
    # Rounding differs by the number of threads; some of its directions may be taken for inputs'.
    assert torch.linalg.matrix_rank(inputs.double()) == int(is_token.sum())
    assert int(is_token.sum()) <= span.rank <= int(is_token.sum()) + 6
    assert float(span.distances(inputs).max()) < 2e-3
    others = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    assert float(span.distances(others).min()) > 0.5


def test_one_text_is_recovered_exactly(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TOKENS, CLASSES)
    victims = [victim_of(dataset, TEXT, seed=seed) for seed in range(4)]
    for result in attacked("dager", dataset, victims):
        assert torch.equal(result.examples, result.truth)
        assert [row["exact_match"] for row in result.rows] == [True]
        assert result.rows[0]["token_accuracy"] == 1.0


def test_a_text_of_few_different_tokens_is_recovered_exactly(tmp_path: Path) -> None:
    """Inputs of one token differ by its places alone: some of that is below the update's rounding.

    Such a direction is missing in the span, and true tokens are further from it than the threshold.
    """
    inputs = TokenInputs(length=48, vocabulary=VOCABULARY)
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 12, (EXAMPLES, inputs.length)).astype(np.int32)
    lengths = generator.integers(24, inputs.length, EXAMPLES)
    tokens[np.arange(inputs.length) >= lengths[:, None]] = inputs.padding
    split = Split(tokens, generator.integers(0, 2, EXAMPLES))
    write_dataset(
        "repeated", Decoded(task=CLASSES, train=split, test=split, inputs=inputs), tmp_path
    )
    dataset = Dataset(tmp_path)
    victims = [victim_of(dataset, TEXT, seed=seed) for seed in range(4)]
    for result in attacked("dager", dataset, victims):
        assert torch.equal(result.examples, result.truth)


@pytest.mark.parametrize("examples", [1, 2, 3])
def test_a_causal_models_sequences_are_told_apart(examples: int, tmp_path: Path) -> None:
    """All tokens but the last of each: nothing follows it, so no gradient depends on it."""
    dataset = dataset_of(tmp_path, TOKENS, NEXT)
    [result] = attacked("dager", dataset, [victim_of(dataset, CAUSAL, examples=examples)])
    for found, truth, labels in zip(
        result.examples, result.truth, result.victim.truth.labels, strict=True
    ):
        counts = int((labels != IGNORED).sum())
        assert torch.equal(found[:counts], truth[:counts])


@pytest.mark.slow
def test_texts_that_share_tokens_at_their_places_are_all_recovered(tmp_path: Path) -> None:
    """Two of one length share their last tokens, where a third goes on."""
    inputs = TokenInputs(length=12, vocabulary=4 + 12 * EXAMPLES)
    tokens = np.arange(4, inputs.vocabulary, dtype=np.int32).reshape(EXAMPLES, 12)
    for row, length in zip(tokens, np.resize([6, 6, 9], EXAMPLES), strict=True):
        row[length:] = inputs.padding
        row[[0, length - 2, length - 1]] = 1, 2, 3
    split = Split(tokens, np.resize([0, 1, 0], EXAMPLES))
    write_dataset("shared", Decoded(task=CLASSES, train=split, test=split, inputs=inputs), tmp_path)
    dataset = Dataset(tmp_path)
    victims = [victim_of(dataset, TEXT, examples=3, seed=seed) for seed in (0, 4)]
    assert all(np.count_nonzero(v.truth.inputs[:, 6]) == 1 for v in victims)
    for result in attacked("dager", dataset, victims, tries=32):
        assert [row["exact_match"] for row in result.rows] == [True, True, True]


@pytest.mark.slow
def test_the_descent_ends_when_its_evaluations_are_spent(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TOKENS, CLASSES)
    victim = victim_of(dataset, TEXT, examples=3)
    [whole] = attacked("dager", dataset, [victim])
    [short] = attacked("dager", dataset, [victim], evaluations=1)
    assert len({tuple(row.tolist()) for row in whole.examples}) == 3
    # One start is made to its end; the other texts are padding.
    assert sum(bool((row != TOKENS.padding).any()) for row in short.examples) == 1


def test_noise_that_covers_the_span_is_told_or_loses_the_tokens(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TOKENS, CLASSES)
    victim = victim_of(dataset, TEXT)
    observation = observe(victim.capture, ThreatModel.of(Capability.TRAINING))
    generator = torch.Generator().manual_seed(0)
    noisy = tuple(
        value + 10 * torch.randn(value.shape, generator=generator) for value in observation.target
    )
    object.__setattr__(observation, "target", noisy)
    try:
        [found] = Dager().run_checked([observation])
    except AttackError as error:
        assert "stands out of noise" in str(error)
    else:
        assert not torch.equal(found.examples, victim.truth.inputs)


def test_models_without_trained_attention_are_refused(tmp_path: Path) -> None:
    victim = victim_of(dataset_of(tmp_path / "a", TOKENS, CLASSES), {"name": "text-mean"})
    with pytest.raises(AttackError, match="no attention layer .*; expected a transformer"):
        observe_victims([victim], Dager())
    table = victim_of(dataset_of(tmp_path / "b", TABLE, CLASSES), {"name": "ft-transformer"})
    with pytest.raises(AttackError, match="Dager reconstructs tokens, .* expected an attack on"):
        observe_victims([table], Dager())


def test_a_bag_of_words_has_each_token_as_often_as_the_text(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TokenInputs(length=LENGTH, vocabulary=VOCABULARY), CLASSES)
    victims = [victim_of(dataset, {"name": "text-mean"}, seed=seed) for seed in range(5)]
    for result in attacked("embedding-rows", dataset, victims):
        found, truth = result.examples[0].tolist(), result.truth[0].tolist()
        assert Counter(found) == Counter(truth)
        assert result.rows[0]["rouge1"] == 1.0


def test_the_words_of_a_batch_are_those_of_all_its_texts(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, TOKENS, CLASSES)
    victim = victim_of(dataset, TEXT, examples=2)
    [result] = attacked("embedding-rows", dataset, [victim])
    found = set(result.examples[0].tolist()) - {TOKENS.padding}
    assert found <= set(victim.truth.inputs.flatten().tolist())
    assert torch.equal(result.examples[0], result.examples[1])
