"""Learned noise schedule of NoProp-CT: the signal level as a function of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# SNR(0) = exp(-7) and SNR(1) = exp(7) before training; both ends are trained.
FIRST_GAMMA = 7.0
HIDDEN = 64
# Points between which the inverse is taken for a line.
GRID = 2049


class LearnedSchedule(nn.Module):
    """``alpha_bar(t) = sigmoid(-gamma(t))`` with a monotone network (the paper's Appendix B).

    ``gamma(t) = gamma_0 + (gamma_1 - gamma_0) (1 - g(t))``, where ``g`` grows from 0 to 1: it is
    a two-layer network whose weights are kept positive by softplus, rescaled at both ends.
    The span ``gamma_1 - gamma_0`` is kept positive in the same way.
    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.randn(hidden))
        self.bias_in = nn.Parameter(torch.randn(hidden))
        self.weight_out = nn.Parameter(torch.randn(hidden))
        self.weight_direct = nn.Parameter(torch.zeros(()))
        self.gamma_0 = nn.Parameter(torch.tensor(-FIRST_GAMMA))
        self.raw_span = nn.Parameter(torch.tensor(2 * FIRST_GAMMA))

    def _raw(self, time: Tensor) -> Tensor:
        hidden = torch.sigmoid(time.unsqueeze(-1) * F.softplus(self.weight_in) + self.bias_in)
        through = (hidden * F.softplus(self.weight_out)).mean(-1)
        return F.softplus(self.weight_direct) * time + through

    def gamma(self, time: Tensor) -> Tensor:
        """Return ``-ln SNR`` at times in [0, 1], of any shape; it falls."""
        ends = self._raw(torch.tensor([0.0, 1.0], dtype=time.dtype, device=time.device))
        grown = (self._raw(time) - ends[0]) / (ends[1] - ends[0])
        return self.gamma_0 + F.softplus(self.raw_span) * (1 - grown)

    def times_of(self, gammas: Sequence[float]) -> list[float]:
        """Return the times at which :meth:`gamma` has these values, to a millionth or so.

        Values that it does not have are at the nearer end.
        """
        with torch.no_grad():
            grid = torch.linspace(0.0, 1.0, GRID).to(self.gamma_0)
            falling = self.gamma(grid).double().cpu().numpy()
        found: list[float] = np.interp(
            [-gamma for gamma in gammas], -falling, np.linspace(0.0, 1.0, GRID)
        ).tolist()
        return found

    def level(self, time: Tensor) -> Tensor:
        """Return ``alpha_bar`` at times in [0, 1], of any shape; it grows."""
        return torch.sigmoid(-self.gamma(time))

    def snr_and_derivative(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return SNR and dSNR/dt at times in [0, 1], of any shape, both differentiable."""
        at = time.detach().requires_grad_(True)
        with torch.enable_grad():
            snr = torch.exp(-self.gamma(at))
            (derivative,) = torch.autograd.grad(snr.sum(), at, create_graph=True)
        return snr, derivative
