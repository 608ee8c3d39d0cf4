"""Sentiment of short texts from four sources: tweets, products, films and a newspaper, as domains.

Hutto and Gilbert (2014), "VADER": sentences with the mean of 20 people's scores, from -4 to 4.
Sentences of one review or editorial belong together: they are a group, and lie on one side of the
split.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.texts.tokenizers import MINILM, Tokenizer, make_tokenizer
from atoll.clients.ranges import Share
from atoll.clients.settings import Section
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression
from atoll.errors import DataUnavailableError

# Domains, and the beginnings of their files' names.
SOURCES = {
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "films": "movieReviewSnippets",
    "newspaper": "nytEditorialSnippets",
}
CLASSES = ("negative", "positive")


class SentimentOptions(Section):
    """``[data.options]`` of the sentiment of short texts.

    Attributes
    ----------
    task : "classification" or "regression"
        Two classes by the sign of the score, without the texts that have 0; or the score.
    length : int
        Tokens of a text; longer ones are cut.
    tokenizer : str
        "minilm", "characters", or the path of a ``tokenizer.json``.
    test_fraction : float
        The share of each source's texts for test.
    """

    task: Literal["classification", "regression"] = "classification"
    length: Annotated[int, Field(ge=2, le=10_000)] = 48
    tokenizer: str = MINILM
    test_fraction: Share = 0.2


class _Snippet(NamedTuple):
    text: str
    score: float
    domain: int
    group: str


def decode_sentiment(folder: Path, options: SentimentOptions) -> Decoded:
    """Decode the four ``*_GroundTruth.txt`` below ``folder``, or in an archive there.

    Raises
    ------
    DataUnavailableError
        If one is missing or broken.
    """
    snippets = _snippets(folder)
    if options.task == "classification":
        snippets = [snippet for snippet in snippets if snippet.score != 0.0]
    names = {group: number for number, group in enumerate(dict.fromkeys(s.group for s in snippets))}
    train = [snippet for snippet in snippets if not _is_test(snippet.group, options)]
    test = [snippet for snippet in snippets if _is_test(snippet.group, options)]
    tokenizer = make_tokenizer(options.tokenizer, [snippet.text for snippet in train])
    is_class = options.task == "classification"
    return Decoded(
        Classification(classes=CLASSES) if is_class else Regression(),
        _encode(train, names, tokenizer, options),
        _encode(test, names, tokenizer, options),
        domains=tuple(SOURCES),
        inputs=TokenInputs(
            length=options.length, vocabulary=tokenizer.vocabulary, padding=tokenizer.padding
        ),
        tokenizer=tokenizer.to_json(),
    )


def _snippets(folder: Path) -> list[_Snippet]:
    files = _files(folder)
    found = []
    for domain, (name, prefix) in enumerate(SOURCES.items()):
        file = f"{prefix}_GroundTruth.txt"
        if file not in files:
            raise DataUnavailableError(f"{folder}: has no {file} in it")
        try:
            for line in files[file].decode("utf-8-sig").splitlines():
                place, score, text = line.split("\t")
                group = f"{name} {place.partition('_')[0]}"
                found.append(_Snippet(text, float(score), domain, group))
        except ValueError as error:
            raise DataUnavailableError(f"{file}: is not of VADER's data ({error})") from error
    return found


def _files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files by name; the package has them in an archive of its own."""
    try:
        found = {path.name: path.read_bytes() for path in folder.rglob("*_GroundTruth.txt")}
        for archive in folder.rglob("hutto_ICWSM_2014.tar.gz"):
            with tarfile.open(archive) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is not None and member.name.endswith("_GroundTruth.txt"):
                        found[Path(member.name).name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataUnavailableError(f"{folder}: cannot be read ({error})") from error
    return found


def _is_test(group: str, options: SentimentOptions) -> bool:
    drawn = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4])
    return drawn < options.test_fraction * 2**32


def _encode(
    snippets: list[_Snippet],
    groups: dict[str, int],
    tokenizer: Tokenizer,
    options: SentimentOptions,
) -> Split:
    scores = np.array([snippet.score for snippet in snippets])
    is_class = options.task == "classification"
    return Split(
        tokenizer.sequences([snippet.text for snippet in snippets], options.length),
        (scores > 0).astype(np.int64) if is_class else scores.astype(np.float32),
        domains=np.array([snippet.domain for snippet in snippets], np.int64),
        groups=np.array([groups[snippet.group] for snippet in snippets], np.int64),
    )
