"""Sequences of one length: cut out of longer ones, and padded at their end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atoll.clients.tasks.next_token import IGNORED


def padded(sequences: Sequence[NDArray[np.int32]], length: int, padding: int) -> NDArray[np.int32]:
    """Return sequences of at most ``length`` tokens as one array: int32, shape (n, length)."""
    rows = np.full((len(sequences), length), padding, np.int32)
    for row, tokens in zip(rows, sequences, strict=True):
        row[: len(tokens)] = tokens
    return rows


def next_tokens(
    tokens: NDArray[np.int32], length: int, padding: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Cut a text into sequences, one after another, each with the tokens that follow.

    Every token but the first is a target once. What is before a sequence is not seen in it.

    Parameters
    ----------
    tokens : NDArray[int32]
        The text.
    length : int
        Places of a sequence; the last one is padded.
    padding : int
        The token that fills it.

    Returns
    -------
    tuple[NDArray[int32], NDArray[int64]]
        Inputs and targets, both of shape (n, length); n is 0 for less than two tokens. Targets
        are ``IGNORED`` where nothing follows.

    Examples
    --------
    >>> import numpy as np
    >>> inputs, targets = next_tokens(np.array([5, 6, 7, 8], np.int32), length=2, padding=0)
    >>> inputs.tolist(), targets.tolist()
    ([[5, 6], [7, 0]], [[6, 7], [8, -100]])
    """
    count = max(0, -(-(len(tokens) - 1) // length))
    inputs = np.full(count * length, padding, np.int32)
    targets = np.full(count * length, IGNORED, np.int64)
    inputs[: max(0, len(tokens) - 1)] = tokens[:-1]
    targets[: max(0, len(tokens) - 1)] = tokens[1:]
    return inputs.reshape(count, length), targets.reshape(count, length)


def last_tokens(
    tokens: NDArray[np.int32], length: int, stride: int, before: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ``length`` tokens before every ``stride``-th token of a text, which is the target.

    Parameters
    ----------
    tokens : NDArray[int32]
        The text.
    length : int
        Places of a sequence.
    stride : int
        From one target to the next.
    before : int
        The token that fills places before the text.

    Returns
    -------
    tuple[NDArray[int32], NDArray[int64]]
        Inputs and targets, both of shape (n, length); targets are ``IGNORED`` but at the last
        place.

    Examples
    --------
    >>> import numpy as np
    >>> inputs, targets = last_tokens(np.array([5, 6, 7], np.int32), length=2, stride=2, before=1)
    >>> inputs.tolist(), targets.tolist()
    ([[1, 1], [5, 6]], [[-100, 5], [-100, 7]])
    """
    extended = np.concatenate([np.full(length, before, np.int32), tokens])
    windows = np.lib.stride_tricks.sliding_window_view(extended, length)[: len(tokens) : stride]
    targets = np.full(windows.shape, IGNORED, np.int64)
    targets[:, -1] = tokens[::stride]
    return windows.astype(np.int32), targets
