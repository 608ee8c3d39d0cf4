"""Random states: each is derived from the run's seed by hashing, so one seed gives one result.

A derived seed depends on its parts alone (never on order, worker or process), so a client draws
the same numbers wherever and whenever it runs.
"""

from __future__ import annotations

import hashlib
import random
import sys

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all ``parts`` and on nothing else.

    ``derive_seed(seed, server_round, "train", partition)`` is the seed of a client's training.
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and (where it is loaded) PyTorch's global generators.

    Parameters
    ----------
    seed : int
        In 0 .. 2**63 - 1; NumPy's legacy generator takes its low 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch = sys.modules.get("torch")
    if torch is None:
        return
    # torch.manual_seed would queue a call (with a formatted stack) for a CUDA that is not there.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
