"""Closed forms against plain autograd, in float64, to 1e-12."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.models.images.gaussian_model import GaussianHead
from atoll.clients.moments.head_statistics import (
    HeadGradient,
    HessianDiagonal,
    HessianProbes,
    HessianProduct,
    ProbedDiagonal,
    SquaredHeadGradient,
    rademacher,
)
from atoll.clients.moments.latent_statistics import ConditionalInformation, LatentNorm, LatentSquare
from atoll.clients.moments.statistic import DomainContext, Statistic
from atoll.clients.moments.statistic_names import STATISTICS, statistic_from_json, to_json
from atoll.clients.moments.statistics import (
    FeatureMean,
    FeatureProducts,
    Gradient,
    Loss,
    ScaleGradient,
    ScaleGradientHalves,
    SquaredFeatures,
    SquaredLogits,
)
from atoll.randomness import derive_seed

N, FEATURES = 11, 5
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
HEADS = [(1, True), (4, True), (4, False)]


def make(outputs: int, bias: bool = True, depth: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    head: nn.Module = nn.Linear(FEATURES, outputs, bias=bias)
    if depth == 2:
        head = nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh(), nn.Linear(3, outputs))
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, FEATURES), nn.Tanh())
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", head)
    labels = torch.randint(0, max(outputs, 2), (N,))
    return model.double(), torch.randn(N, 1, 2, 3, dtype=torch.float64), labels


def run(model: nn.Module, images: Tensor, labels: Tensor) -> HeadOutputs:
    return SplitModel(model)(images, labels, torch.arange(len(labels)))


def total(
    statistic: Statistic, model: nn.Module, images: Tensor, labels: Tensor, **context: object
) -> Tensor:
    split = SplitModel(model)
    outputs = run(model, images, labels)
    where = DomainContext("a", **context)  # type: ignore[arg-type]
    return statistic.total(outputs, split.sizes(outputs), where)


class Reference:
    """The head's summed loss as a function of one flat vector, laid out as ours."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.features = model.body(images).detach()  # type: ignore[operator]
        self.labels, self.head = labels, model.head
        weight = self.head.weight.detach()  # type: ignore[union-attr]
        bias = self.head.bias  # type: ignore[union-attr]
        self.has_bias = bias is not None
        columns = [weight] if bias is None else [weight, bias.detach()[:, None]]
        self.flat = torch.cat(columns, 1).reshape(-1)

    def losses(self, flat: Tensor) -> Tensor:
        matrix = flat.reshape(-1, FEATURES + self.has_bias)
        logits = self.features @ matrix[:, :FEATURES].T
        if self.has_bias:
            logits = logits + matrix[:, FEATURES]
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(
                logits[:, 0], self.labels.double(), reduction="none"
            )
        return F.cross_entropy(logits, self.labels, reduction="none")

    def gradient(self) -> Tensor:
        return torch.func.grad(lambda flat: self.losses(flat).sum())(self.flat)

    def hessian(self) -> Tensor:
        return torch.func.hessian(lambda flat: self.losses(flat).sum())(self.flat)

    def per_example(self) -> Tensor:
        return torch.func.jacrev(self.losses)(self.flat)


@pytest.mark.parametrize(("outputs", "bias"), HEADS)
def test_closed_forms_equal_autograd(outputs: int, bias: bool) -> None:
    parts = make(outputs, bias)
    reference = Reference(*parts)
    hessian, h = reference.hessian(), len(reference.flat)
    vectors = torch.randn(3, h, dtype=torch.float64)
    expected: dict[Statistic, Tensor] = {
        Loss(): reference.losses(reference.flat).sum(),
        HeadGradient(): reference.gradient(),
        HessianDiagonal(): hessian.diagonal(),
        SquaredHeadGradient(): reference.per_example().square().sum(0),
    }
    for statistic, value in expected.items():
        torch.testing.assert_close(total(statistic, *parts), value, **TIGHT)
    products = total(HessianProduct(), *parts, vectors=vectors)
    torch.testing.assert_close(products, vectors @ hessian, **TIGHT)


@pytest.mark.parametrize("outputs", [1, 4])
def test_probes_are_seeded_and_give_the_hessian_on_average(outputs: int) -> None:
    parts = make(outputs)
    hessian = Reference(*parts).hessian()
    h, count = len(hessian), 40
    shared = rademacher(5, (count, h)).double()
    torch.testing.assert_close(total(HessianProbes(5, count), *parts), shared @ hessian, **TIGHT)
    own = rademacher(derive_seed(5, "a"), (count, h)).double()
    for zeta, statistic in (
        (own, ProbedDiagonal(5, count)),
        (shared, ProbedDiagonal(5, count, False)),
    ):
        expected = (zeta * (zeta @ hessian)).mean(0)
        torch.testing.assert_close(total(statistic, *parts), expected, **TIGHT)
    many = rademacher(1, (20_000, h)).double()
    estimate = (many @ hessian).square().sum(1).mean()
    assert float(estimate) == pytest.approx(float(hessian.square().sum()), rel=0.05)


def test_the_heads_that_are_not_linear_use_autograd() -> None:
    model, images, labels = make(3, depth=2)
    features = model.body(images).detach()  # type: ignore[operator]
    head = model.head
    assert isinstance(head, nn.Module)
    names = [name for name, _ in head.named_parameters()]
    shapes = [p.shape for p in head.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        logits = torch.func.functional_call(head, values, (features,))
        return F.cross_entropy(logits, labels, reduction="sum")

    flat = torch.cat([p.detach().reshape(-1) for p in head.parameters()])
    vectors = torch.randn(2, len(flat), dtype=torch.float64)
    torch.testing.assert_close(
        total(HeadGradient(), model, images, labels), torch.func.grad(loss)(flat), **TIGHT
    )
    torch.testing.assert_close(
        total(HessianProduct(), model, images, labels, vectors=vectors),
        vectors @ torch.func.hessian(loss)(flat),
        **TIGHT,
    )


@pytest.mark.parametrize("outputs", [1, 4])
def test_other_statistics_are_what_they_say(outputs: int) -> None:
    model, images, labels = make(outputs)
    z = model.body(images).detach()  # type: ignore[operator]
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    reference = Reference(model, images, labels)

    def scaled(chosen: slice) -> Tensor:
        losses = reference.losses(reference.flat * scale)
        return torch.autograd.grad(losses[chosen].sum(), scale)[0]

    parts = (model, images, labels)
    torch.testing.assert_close(total(ScaleGradient(), *parts), scaled(slice(None)), **TIGHT)
    halves = total(ScaleGradientHalves(), *parts)
    even, odd = scaled(slice(0, None, 2)), scaled(slice(1, None, 2))
    sizes = torch.tensor([6.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(halves, torch.cat([torch.stack([even, odd]), sizes]), **TIGHT)
    torch.testing.assert_close(total(FeatureMean(), *parts), z.sum(0), **TIGHT)
    rows, columns = torch.triu_indices(FEATURES, FEATURES)
    torch.testing.assert_close(total(FeatureProducts(), *parts), (z.T @ z)[rows, columns], **TIGHT)
    logits = model(images)
    torch.testing.assert_close(
        total(SquaredLogits(), *parts), logits.square().sum() / logits.shape[1], **TIGHT
    )
    torch.testing.assert_close(total(SquaredFeatures(), *parts), z.square().sum(), **TIGHT)
    whole = torch.autograd.grad(reference_loss(model, images, labels), list(model.parameters()))
    torch.testing.assert_close(
        total(Gradient(), *parts), torch.cat([g.reshape(-1) for g in whole]), **TIGHT
    )


def reference_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = model(images)
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.double(), reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")


# The norm of a draw has noise of its own in every call.
@pytest.mark.parametrize("name", [name for name in STATISTICS if name != LatentNorm.name])
@pytest.mark.parametrize("outputs", [1, 4])
def test_each_is_linear_additive_and_differentiable(name: str, outputs: int) -> None:
    """<k, sum of phi> is linear in k, adds up over examples, and has the sum's own gradient."""
    arguments = {
        "hessian-probes": {"seed": 1, "probes": 2},
        "probed-diagonal": {"seed": 1, "probes": 20},
    }
    statistic = STATISTICS[name](**arguments.get(name, {}))  # type: ignore[arg-type]
    statistic = statistic_from_json(to_json(statistic))
    model, images, labels = make(outputs)
    if name in (LatentSquare.name, ConditionalInformation.name):
        model.head = GaussianHead(2, outputs, max(outputs, 2)).double()
        model.body.append(nn.Linear(FEATURES, 4).double())  # type: ignore[operator]
    split = SplitModel(model)
    outputs_of_all = run(model, images, labels)
    sizes = split.sizes(outputs_of_all)
    vectors = torch.randn(2, sizes.head, dtype=torch.float64)
    context = DomainContext("a", vectors, N)
    sums = statistic.total(outputs_of_all, sizes, context, create_graph=True)
    assert tuple(sums.shape) == statistic.shape(sizes, context)
    parts = [
        statistic.total(outputs_of_all.select(chosen), sizes, context)
        for chosen in torch.split(torch.arange(N), 4)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), sums.detach(), **TIGHT)
    cotangent = torch.randn(sums.shape, dtype=torch.float64)
    inner = statistic.inner(outputs_of_all, cotangent, context)
    torch.testing.assert_close(inner, (cotangent * sums).sum(), **TIGHT)
    if inner.grad_fn is None:
        return
    wanted = list(model.parameters())
    of_inner = torch.autograd.grad(
        inner, wanted, retain_graph=True, materialize_grads=True, allow_unused=True
    )
    of_sums = torch.autograd.grad(
        (cotangent * sums).sum(), wanted, materialize_grads=True, allow_unused=True
    )
    for one, other in zip(of_inner, of_sums, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match="a statistic that there is not"):
        statistic_from_json('{"name": "hessian"}')
