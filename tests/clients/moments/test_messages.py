"""Messages about moments survive Flower's wire format."""

from __future__ import annotations

import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given
from hypothesis import strategies as st

from atoll.clients.models.head import ModelSizes
from atoll.clients.moments.head_statistics import (
    HeadGradient,
    HessianProbes,
    HessianProduct,
    ProbedDiagonal,
)
from atoll.clients.moments.moment_messages import DomainSums, MomentsQuery, Term, TrainingTerms
from atoll.clients.moments.statistic import DomainContext
from atoll.clients.moments.statistics import Loss
from atoll.flower import dump_records, load_records

names = st.lists(st.text(min_size=1, max_size=8), min_size=0, max_size=4, unique=True)


def sent(records: RecordDict) -> RecordDict:
    return load_records(dump_records(records))


@given(names)
def test_queries_and_answers_come_back_as_they_were(domains: list[str]) -> None:
    statistics = (HessianProduct(), HessianProbes(3, 2), ProbedDiagonal(7, 2, False))
    vectors = {(0, name): torch.randn(2, 3, dtype=torch.float64) for name in domains}
    query = MomentsQuery(statistics, vectors, examples=5)
    back = MomentsQuery.from_records(sent(RecordDict(dict(query.records()))))
    assert (back.statistics, back.examples) == (statistics, 5)
    assert back.vectors.keys() == vectors.keys()
    assert all(torch.equal(back.vectors[key], value) for key, value in vectors.items())
    sums = {(1, name): torch.randn(4) for name in domains} | {
        (0, name): torch.tensor(2.5) for name in domains
    }
    answer = DomainSums({name: place for place, name in enumerate(domains)}, sums, ["w", "b"])
    received = DomainSums.from_records(sent(answer.records()))
    assert list(received.counts.items()) == list(answer.counts.items())
    assert list(received.parameters) == ["w", "b"]
    assert all(torch.equal(received.sums[key], value) for key, value in sums.items())


@given(names)
def test_a_client_gets_the_terms_of_its_own_domains(domains: list[str]) -> None:
    everyone = [*domains, "another domain"]
    terms = TrainingTerms(
        weights={name: 0.1 * place for place, name in enumerate(everyone)},
        loss_weights=dict.fromkeys(everyone, 2.0),
        terms=(
            Term(
                Loss(), {n: torch.tensor(1.5) for n in everyone}, {}, dict.fromkeys(everyone, 3.0)
            ),
            Term(
                HessianProduct(),
                {n: torch.randn(1, 3) for n in everyone},
                {n: torch.randn(1, 3) for n in everyone},
            ),
            Term(HeadGradient(), {n: torch.randn(3) for n in everyone}),
        ),
        l2=0.25,
        scale=0.125,
        replies_gradient=True,
        examples=9,
        mixup=0.2,
    )
    back = TrainingTerms.from_records(sent(RecordDict(dict(terms.records(domains)))))
    assert back is not None
    assert back.weights == {name: terms.weights[name] for name in domains}
    assert (back.l2, back.scale, back.replies_gradient, back.examples, back.mixup) == (
        0.25,
        0.125,
        True,
        9,
        0.2,
    )
    for found, own in zip(back.terms, terms.terms, strict=True):
        assert found.statistic == own.statistic
        assert set(found.cotangents) == set(domains)
        assert all(torch.equal(found.cotangents[n], own.cotangents[n]) for n in domains)
        assert all(torch.equal(found.vectors[n], own.vectors[n]) for n in found.vectors)
        assert all(found.curvatures.get(n, 0.0) == own.curvatures.get(n, 0.0) for n in domains)


def test_a_message_without_terms_has_none_and_plain_ones_are_known() -> None:
    assert TrainingTerms.from_records(RecordDict()) is None
    assert TrainingTerms({"a": 1.0}, {"a": 1.0}).is_plain
    for change in ({"l2": 0.1}, {"scale": 0.5}, {"mixup": 0.2}):
        assert not TrainingTerms({"a": 1.0}, {"a": 1.0}, **change).is_plain  # type: ignore[arg-type]
    assert not TrainingTerms({"a": 1.0}, {"a": 1.5}).is_plain


def test_vectors_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="no vectors for domain 'a'"):
        HessianProduct().shape(ModelSizes(1, 1, 2, 2), DomainContext("a"))
