"""MMD's exact kernels: blocks, its share of bytes, and domains that are not here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.clients.moments.head_statistics import HeadGradient
from atoll.clients.moments.statistics import ExampleFeatures
from atoll.errors import EngineError, InvalidExperimentError
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.methods import kernels
from atoll.strategies.alignment.methods.kernels import kernel_mean
from atoll.strategies.alignment.moments.domain_moments import Domains
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, make_federation, values

STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1.0,
}


def points(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_()


# With the widest and the narrowest kernel alone, whose gradients differ by orders of magnitude.
@pytest.mark.parametrize("gammas", [c.GAMMAS, (0.001,), (1000.0,)])
@pytest.mark.parametrize("block", [1, 40, 2**22])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_a_kernels_mean_and_gradients_are_those_of_autograd(
    gammas: tuple[float, ...], block: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BLOCK", block)
    x, y = points(11, 5, 1), points(7, 5, 2)
    distances = (scale * (x[:, None] - y[None])).square().sum(2)
    expected = torch.stack([torch.exp(-gamma * distances).mean() for gamma in gammas]).sum()
    found = kernel_mean(scale * x, scale * y, gammas)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    wanted, own = (torch.autograd.grad(value, (x, y)) for value in (expected, found))
    for one, other in zip(own, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_a_set_with_itself_has_the_gradient_of_both_sides() -> None:
    x = points(9, 4, 3)
    distances = (x[:, None] - x[None]).square().sum(2)
    (expected,) = torch.autograd.grad(torch.exp(-0.1 * distances).mean(), x)
    (found,) = torch.autograd.grad(kernel_mean(x, x, (0.1,)), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_each_node_gets_the_cotangents_of_its_own_examples_alone(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["domains split over unequal clients"])
    _, metrics = federation.round(build_strategy("MMD", {"penalty_weight": 1.0}))
    trained = [m for m in federation.grid.sent if m.metadata.message_type == "train"]
    rows = [next(iter(m.content["cotangents"].values())).shape for m in trained]
    assert rows == [(3, 4), (6, 4), (2, 4), (10, 4), (1, 4), (7, 4)]
    # 29 examples with 4 features of 8 bytes.
    assert metrics["bytes_up_example-features"] == 29 * 4 * 8
    assert metrics["bytes_down_example-features"] == 29 * 4 * 8
    assert metrics["sums_suffice"] == 0.0


def test_an_absent_domain_takes_part_with_its_last_features(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    strategy = build_strategy("MMD", {**STEP, "stale_moments": True, "penalty_weight": 3.0})
    arrays, _ = federation.round(strategy)
    federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
    then = c.Domain(federation.model, *federation.data["sketch"])
    then.z = then.z.detach()
    after, metrics = federation.round(strategy, 2, arrays)
    assert metrics["stale_domains"] == 1.0
    model = federation.model
    model.load_state_dict({k: torch.tensor(v) for k, v in values(arrays).items()})
    here = [c.Domain(model, *federation.data[name]) for name in ("art", "photo")]
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    # Of the three domains' objective, the part that the two have a gradient in, 3/2 as long.
    whole = (here[0].loss + here[1].loss) / 3 + 3.0 * c.mmd([*here, then], third)
    expected = torch.autograd.grad(1.5 * whole, list(model.parameters()))
    for (key, _), gradient in zip(model.named_parameters(), expected, strict=True):
        moved = values(arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, gradient.numpy(), atol=1e-10)


def test_widths_that_are_none_are_refused() -> None:
    for wrong in ([], [0.1, -1.0]):
        with pytest.raises(InvalidExperimentError, match="strategy.gammas = "):
            build_strategy("MMD", {"gammas": wrong})


class Mistaken(AlignmentStrategy):
    """Asks for a sum as rows, or for rows as a sum."""

    def penalty(self, domains: Domains) -> torch.Tensor:
        if self.l2:
            return domains.moment(ExampleFeatures()).sum()
        return domains.examples(HeadGradient())[0].sum()


@pytest.mark.parametrize(
    ("l2", "message"),
    [
        (0.0, r"Mistaken.penalty raised ValueError: head-gradient is a sum over examples"),
        (0.1, r"Mistaken.penalty raised ValueError: example-features has a row an example"),
    ],
)
def test_rows_and_sums_are_not_mistaken_for_each_other(
    l2: float, message: str, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    with pytest.raises(EngineError, match=message):
        federation.round(Mistaken(penalty_weight=1.0, l2=l2))
