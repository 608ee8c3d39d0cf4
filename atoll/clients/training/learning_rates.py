"""Learning-rate schedules of clients over the rounds."""

from __future__ import annotations

import math

from atoll.clients.settings import ClientSettings


def learning_rate_at(settings: ClientSettings, server_round: int, num_rounds: int) -> float:
    """Return the learning rate of a round.

    Parameters
    ----------
    settings : ClientSettings
        ``client.learning_rate`` is where it starts; ``client.schedule`` says how it goes down.
    server_round : int
        The round, from 1.
    num_rounds : int
        How many there are; a cosine is at ``schedule.final`` after the last, as torch's is after
        ``T_max`` steps, so that the last round trains too.
    """
    schedule = settings.schedule
    warmup = schedule.warmup_rounds
    if server_round <= warmup:
        return settings.learning_rate * server_round / (warmup + 1)
    past = server_round - 1 - warmup
    start = settings.learning_rate
    if schedule.name == "step":
        return start * schedule.factor ** (past // schedule.every)
    if schedule.name == "exponential":
        return float(start * schedule.factor**past)
    if schedule.name == "cosine":
        progress = min(1.0, past / max(1, num_rounds - warmup))
        return schedule.final + (start - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    return start
