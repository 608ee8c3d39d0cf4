"""A client's pass is made once for all messages at the same parameters, and changes no number."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atoll.clients.models.head import SplitModel
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.example_passes import BATCH, Passes

COUNT = 2 * BATCH + 100


class CountingModel(nn.Module):
    """Knows how many examples it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, 3)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.head(torch.relu(self.body(images.flatten(1))))


@pytest.fixture
def model() -> CountingModel:
    torch.manual_seed(0)
    return CountingModel()


def some_examples(seed: int = 1) -> DomainExamples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(COUNT, 3, 2, 2, generator=generator)
    labels = torch.randint(0, 3, (COUNT,), generator=generator)
    return DomainExamples(images, labels, labels % 2, ["even", "odd"])


def gradient_of(passes: Passes, examples: DomainExamples, model: nn.Module) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in model.parameters()]
    for _, outputs in passes.take(examples):
        found = torch.autograd.grad(outputs.losses.sum(), list(model.parameters()))
        torch._foreach_add_(total, found)
    return total


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(map(torch.equal, found, expected))


def test_a_query_s_pass_serves_later_queries_and_the_gradient(model: CountingModel) -> None:
    examples, passes = some_examples(), Passes(SplitModel(model))
    expected = gradient_of(Passes(SplitModel(model)), examples, model)
    model.seen = 0
    for _ in range(3):
        batches = list(passes.read(examples, graph=False, keep_graph=True))
        assert [part.indices(COUNT)[:2] for part, _ in batches] == [
            (0, BATCH),
            (BATCH, 2 * BATCH),
            (2 * BATCH, COUNT),
        ]
        assert not any(outputs.logits.requires_grad for _, outputs in batches)
    assert_same(gradient_of(passes, examples, model), expected)
    assert model.seen == COUNT


@pytest.mark.parametrize("change", ["parameters", "examples", "used up"])
def test_a_pass_is_made_again_where_it_must(model: CountingModel, change: str) -> None:
    examples, passes = some_examples(), Passes(SplitModel(model))
    list(passes.read(examples, graph=False, keep_graph=True))
    changes: dict[str, Callable[[], object]] = {
        "parameters": lambda: model.body.weight.detach().add_(0.1),
        "examples": lambda: None,
        "used up": lambda: gradient_of(passes, examples, model),
    }
    changes[change]()
    other = some_examples(2) if change == "examples" else examples
    model.seen = 0
    found = gradient_of(passes, other, model)
    assert model.seen == COUNT
    assert_same(found, gradient_of(Passes(SplitModel(model)), other, model))


def test_values_in_place_of_the_same_values_change_nothing(model: CountingModel) -> None:
    examples, passes = some_examples(), Passes(SplitModel(model))
    list(passes.read(examples, graph=False, keep_graph=True))
    # As the next message's parameters are copied into the model.
    for parameter in model.parameters():
        parameter.detach().numpy()[...] = parameter.detach().numpy().copy()
    model.seen = 0
    gradient_of(passes, examples, model)
    assert model.seen == 0


@pytest.mark.parametrize(("limit", "kept"), [(10_000, 0), (150_000, 1), (10_000_000, 2)])
def test_only_what_fits_is_kept(model: CountingModel, limit: int, kept: int) -> None:
    clients = [some_examples(seed) for seed in (1, 2)]
    passes = Passes(SplitModel(model), limit=limit)
    expected = [gradient_of(Passes(SplitModel(model)), own, model) for own in clients]
    for own in clients:
        list(passes.read(own, graph=False, keep_graph=True))
    model.seen = 0
    for own, gradient in zip(clients, expected, strict=True):
        assert_same(gradient_of(passes, own, model), gradient)
    assert model.seen == (2 - kept) * COUNT


@pytest.mark.parametrize("use", ["used up", "forgotten"])
@pytest.mark.slow
def test_what_is_not_kept_any_more_is_freed(model: CountingModel, use: str) -> None:
    examples, passes = some_examples(), Passes(SplitModel(model))
    batches = list(passes.read(examples, graph=True, keep_graph=True))
    references = [weakref.ref(outputs.features) for _, outputs in batches]
    del batches
    assert passes.holds(examples)
    if use == "used up":
        gradient_of(passes, examples, model)
    else:
        model.body.weight.detach().add_(0.1)
    assert not passes.holds(examples)
    gc.collect()
    assert all(reference() is None for reference in references)


def test_a_statistic_that_needs_the_graph_gets_it(model: CountingModel) -> None:
    examples, passes = some_examples(), Passes(SplitModel(model))
    list(passes.read(examples, graph=False, keep_graph=False))
    batches = list(passes.read(examples, graph=True, keep_graph=False))
    assert all(outputs.logits.requires_grad for _, outputs in batches)


def test_of_no_examples_there_is_no_batch(model: CountingModel) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    examples = DomainExamples(torch.zeros(0, 3, 2, 2), empty, empty, [])
    passes = Passes(SplitModel(model))
    assert list(passes.read(examples, graph=False, keep_graph=True)) == []
    assert list(passes.take(examples)) == []
