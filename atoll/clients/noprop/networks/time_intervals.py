"""Time intervals of the blocks of a continuous-time network.

Equal parts of [0, 1]; or, of CT, ranges of noise with equal probability as in DiffusionBlocks
(Shing, Koyama and Akiba, ICLR 2026, arXiv 2506.14202): their noise sigma, relative to the signal,
is log-normal in training (Karras et al., "Elucidating the Design Space of
Diffusion-Based Generative Models", NeurIPS 2022), and each block has the same share of it.
"""

from __future__ import annotations

from statistics import NormalDist

from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.noise_schedule import FIRST_GAMMA
from atoll.clients.noprop.noprop_settings import ContinuousTimeSettings

# Of ln sigma: the mean and standard deviation of both papers.
LOG_NOISE = NormalDist(-1.2, 1.2)


def noise_cuts(blocks: int) -> list[float]:
    """Return the falling ``ln sigma`` between the intervals of neighbouring blocks.

    ``sigma^2 = (1 - alpha_bar) / alpha_bar``, from e^3.5 to e^-3.5 as CT's schedule has it before
    training; between these each block has the same probability.
    """
    most, least = (LOG_NOISE.cdf(sign * FIRST_GAMMA / 2) for sign in (1, -1))
    return [LOG_NOISE.inv_cdf(most - (most - least) * block / blocks) for block in range(1, blocks)]


def interval_edges(design: Design, shared: SharedPart) -> list[float]:
    """Return the times at which the blocks' intervals begin, and 1 at the end.

    Intervals of equal probability keep their noise: their times follow the schedule as it learns.
    """
    settings, blocks = design.settings, design.blocks
    if isinstance(settings, ContinuousTimeSettings) and settings.intervals == "equal-probability":
        assert shared.schedule is not None
        # gamma is -ln SNR, and so 2 ln sigma.
        inner = shared.schedule.times_of([2 * cut for cut in noise_cuts(blocks)])
        return [0.0, *inner, 1.0]
    return [block / blocks for block in range(blocks + 1)]
