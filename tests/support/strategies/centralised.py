"""The published objectives, centralised, written with plain autograd and nothing of ours.

``objective(model, data, method, weights)`` is a scalar in the graph of all the model's parameters.
Whole Hessians are made row by row, per-example gradients one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
Losses = Callable[[Tensor, Tensor], Tensor]
Data = Mapping[str, tuple[Tensor, Tensor, Tensor]]


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.double(), reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")


class Domain:
    """One domain's loss as a function of the flat head, connected to the model's parameters."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        places: Tensor,
        losses_of: Losses = losses_of,
    ) -> None:
        self.losses_of = losses_of
        self.labels, self.places = labels, places
        self.z = model.body(images)
        self.head = torch.cat([model.head.weight, model.head.bias[:, None]], 1).reshape(-1)
        self.outputs = model.head.weight.shape[0]
        self.model = model
        self.logits = self.logits_at(self.head)
        self.each = losses_of(self.logits, labels)
        self.loss = self.each.mean()

    def logits_at(self, head: Tensor) -> Tensor:
        matrix = head.view(self.outputs, -1)
        return self.z @ matrix[:, :-1].T + matrix[:, -1]

    def gradient(self) -> Tensor:
        return torch.autograd.grad(self.loss, self.head, create_graph=True)[0]

    def hessian(self) -> Tensor:
        gradient = self.gradient()
        rows = [
            torch.autograd.grad(entry, self.head, create_graph=True, retain_graph=True)[0]
            for entry in gradient
        ]
        return torch.stack(rows)

    def squared_gradients(self) -> Tensor:
        each = [
            torch.autograd.grad(loss, self.head, create_graph=True, retain_graph=True)[0]
            for loss in self.each
        ]
        return torch.stack(each).square().mean(0)

    def scale_gradient(self, chosen: Tensor | None = None) -> Tensor:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        each = self.losses_of(self.logits * scale, self.labels)
        loss = each.mean() if chosen is None else each[chosen].mean()
        return torch.autograd.grad(loss, scale, create_graph=True)[0]

    def full_gradient(self) -> Tensor:
        gradients = torch.autograd.grad(
            self.loss, list(self.model.parameters()), create_graph=True, retain_graph=True
        )
        return torch.cat([g.reshape(-1) for g in gradients])


Penalty = Callable[[list[Domain], Tensor], Tensor]


def mean(weights: Tensor, items: list[Tensor]) -> Tensor:
    return sum((w * item for w, item in zip(weights, items, strict=True)), torch.zeros(()))


def to(weights: Tensor, items: list[Tensor], target: Tensor) -> Tensor:
    return mean(weights, [(item - target).square().sum() for item in items])


def irm(domains: list[Domain], w: Tensor) -> Tensor:
    return mean(w, [d.scale_gradient().square() for d in domains])


def irm_released(domains: list[Domain], w: Tensor) -> Tensor:
    products = []
    for d in domains:
        even, odd = d.places % 2 == 0, d.places % 2 == 1
        products.append(d.scale_gradient(even) * d.scale_gradient(odd))
    return mean(w, products)


def vrex(domains: list[Domain], w: Tensor) -> Tensor:
    losses = [d.loss for d in domains]
    return to(w, losses, mean(w, losses))


def vrex_over_pairs(domains: list[Domain], w: Tensor) -> Tensor:
    """For domains that count the same."""
    n, losses = len(domains), [d.loss for d in domains]
    pairs = [(losses[i] - losses[j]) ** 2 for i in range(n) for j in range(i)]
    return torch.stack(pairs).mean()


def gradients(domains: list[Domain], w: Tensor) -> Tensor:
    found = [d.gradient() for d in domains]
    return to(w, found, mean(w, found).detach())


def gradient_norm(domains: list[Domain], w: Tensor) -> Tensor:
    return mean(w, [d.gradient() for d in domains]).square().sum()


def iga(domains: list[Domain], w: Tensor) -> Tensor:
    found = [d.full_gradient() for d in domains]
    return len(domains) * to(w, found, mean(w, found).detach())


def fishr(domains: list[Domain], w: Tensor) -> Tensor:
    found = [d.squared_gradients() - d.gradient().square() for d in domains]
    return to(w, found, mean(w, found)) / len(found[0])


def coral(domains: list[Domain], w: Tensor) -> Tensor:
    n, total = len(domains), torch.zeros((), dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1, n):
            a, b = domains[i].z, domains[j].z
            covariances = [(x - x.mean(0)).T @ (x - x.mean(0)) / (len(x) - 1) for x in (a, b)]
            total = total + (a.mean(0) - b.mean(0)).square().mean()
            total = total + (covariances[0] - covariances[1]).square().mean()
    return 2 / (n * (n - 1)) * total


def mmd(domains: list[Domain], w: Tensor) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = (a[:, None] - b[None]).square().sum(2)
        return sum(torch.exp(-gamma * distances).mean() for gamma in GAMMAS)

    pairs = [(a.z, b.z) for i, a in enumerate(domains) for b in domains[i + 1 :]]
    found = [kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in pairs]
    return torch.stack(found).mean()


def hgp(target: str) -> Penalty:
    def penalty(domains: list[Domain], w: Tensor) -> Tensor:
        grads, hessians = [d.gradient() for d in domains], [d.hessian() for d in domains]
        products = [h @ g for h, g in zip(hessians, grads, strict=True)]
        wanted = mean(w, products) if target == "mean" else mean(w, hessians) @ mean(w, grads)
        if target == "detached":
            wanted = wanted.detach()
        return 0.7 * to(w, products, wanted) + 0.3 * gradients(domains, w)

    return penalty


def diagonal(domains: list[Domain], w: Tensor) -> Tensor:
    found = [d.hessian().diagonal() for d in domains]
    return 0.7 * to(w, found, mean(w, found)) + 0.3 * gradients(domains, w)


def cma(domains: list[Domain], w: Tensor) -> Tensor:
    found = [d.hessian().diagonal() for d in domains]
    return 0.7 / 3 * gradients(domains, w) + 0.3 / 9 * to(w, found, mean(w, found))


def shared_probes(probes: Tensor) -> Penalty:
    def penalty(domains: list[Domain], w: Tensor) -> Tensor:
        found = [probes @ d.hessian() for d in domains]
        spread = to(w, found, mean(w, found)) / len(probes)
        return 0.7 * spread + 0.3 * gradients(domains, w)

    return penalty


def independent_probes(own: list[Tensor], shared: Tensor, detached: bool) -> Penalty:
    def estimate(hessian: Tensor, probes: Tensor) -> Tensor:
        return (probes * (probes @ hessian)).mean(0)

    def penalty(domains: list[Domain], w: Tensor) -> Tensor:
        hessians = [d.hessian() for d in domains]
        found = [estimate(h, p) for h, p in zip(hessians, own, strict=True)]
        target = estimate(mean(w, hessians), shared)
        spread = to(w, found, target.detach() if detached else target)
        return 0.7 * spread + 0.3 * gradients(domains, w)

    return penalty


def group_dro(domains: list[Domain], w: Tensor) -> Tensor:
    losses = torch.stack([d.loss for d in domains])
    q = torch.softmax(0.5 * losses.detach(), 0)
    return q @ losses - w @ losses


def quantile(domains: list[Domain], w: Tensor) -> Tensor:
    """The quantile's gradient by central differences of a bisection."""
    losses = torch.stack([d.loss for d in domains])

    def of(values: Tensor) -> float:
        width = float(1.06 * values.std() * len(values) ** -0.2)
        low, high = float(values.min()) - 9 * width, float(values.max()) + 9 * width
        for _ in range(200):
            middle = (low + high) / 2
            below = (
                torch.distributions.Normal(values, width)
                .cdf(torch.tensor(middle, dtype=torch.float64))
                .mean()
            )
            low, high = (middle, high) if float(below) < 0.75 else (low, middle)
        return (low + high) / 2

    step = 1e-5
    gradient = []
    for place in range(len(losses)):
        shift = torch.zeros_like(losses)
        shift[place] = step
        moved = of(losses.detach() + shift) - of(losses.detach() - shift)
        gradient.append(moved / (2 * step))
    return torch.tensor(gradient, dtype=torch.float64) @ losses - w @ losses


def quantile_released(domains: list[Domain], w: Tensor) -> Tensor:
    """The quantile by the released code's bisection, and its gradient through it."""
    losses = torch.stack([d.loss for d in domains])
    width = 1.06 * losses.std() * len(losses) ** -0.2
    normal, alpha = torch.distributions.Normal, torch.tensor(0.75, dtype=torch.float64)
    ends = [normal(losses.min(), width).icdf(alpha), normal(losses.max(), width).icdf(alpha)]
    for _ in range(32):
        middle = 0.5 * (ends[0] + ends[1])
        ends[int(normal(losses, width).cdf(middle).mean() > alpha)] = middle
    return 0.5 * (ends[0] + ends[1]) - w @ losses


def squared_logits(domains: list[Domain], w: Tensor) -> Tensor:
    return mean(w, [d.logits.square().mean() for d in domains])


def squared_features(domains: list[Domain], w: Tensor) -> Tensor:
    return mean(w, [d.z.square().sum(1).mean() for d in domains])


def none(domains: list[Domain], w: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def make_domains(model: nn.Module, data: Data, losses: Losses = losses_of) -> list[Domain]:
    return [Domain(model, *data[name], losses) for name in sorted(data)]


def weights_of(data: Data, weighting: str) -> Tensor:
    counts = torch.tensor([float(len(data[name][1])) for name in sorted(data)]).double()
    return counts / counts.sum() if weighting == "examples" else torch.ones_like(counts) / len(data)


def objective_gradient(
    model: nn.Module,
    data: Data,
    penalty: Penalty,
    weight: float,
    weighting: str,
    l2: float = 0.0,
    losses: Losses = losses_of,
) -> dict[str, Tensor]:
    """Return the gradient of mean loss + weight * penalty + l2 * squared norm, by name."""
    domains, w = make_domains(model, data, losses), weights_of(data, weighting)
    loss = mean(w, [d.loss for d in domains]) + weight * penalty(domains, w)
    loss = loss + l2 * sum(p.square().sum() for p in model.parameters())
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
