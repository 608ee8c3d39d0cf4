"""Shakespeare's plays and the sentiment of short texts, decoded from small files of their kind."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from atoll.clients import load_dataset, tokenizer_of
from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.texts.characters import CharacterTokenizer
from atoll.clients.data.texts.sentiment import SentimentOptions, decode_sentiment
from atoll.clients.data.texts.shakespeare import (
    ShakespeareOptions,
    decode_shakespeare,
    speeches_of,
)
from atoll.clients.tasks.next_token import IGNORED
from atoll.errors import DataUnavailableError, InvalidExperimentError

PLAY = """A PLAY

by Nobody

ACT I.

Scene I. A room.

[Enter ANN and BOB.]

ANN.
Who is
there?

BOB.
[Aside] It is I.

[Drum.]

And nobody else.

ANN.
Good.

Scene II. Another room.

Not a speech.

BOB.
Farewell.

BOTH.
Farewell!
"""


def test_speeches_are_found_by_role() -> None:
    assert speeches_of(PLAY) == {
        "ANN": ["Who is there?", "Good."],
        "BOB": ["It is I. And nobody else.", "Farewell."],
        "BOTH": ["Farewell!"],
    }


def test_names_are_not_always_in_capitals() -> None:
    assert speeches_of("Ann.\nYes.\n\nBob.\nNo.\n") == {"Ann": ["Yes."], "Bob": ["No."]}


def _decoded(folder: Path, **options: object) -> Decoded:
    (folder / "a_play_gut.txt").write_text(PLAY)
    return decode_shakespeare(folder, ShakespeareOptions(**options))


def test_a_role_of_two_speeches_is_a_group_on_both_sides(tmp_path: Path) -> None:
    decoded = _decoded(tmp_path, length=8)
    for split, last in ((decoded.train, "Who is there?\n"), (decoded.test, "Good.\n")):
        assert split.groups is not None
        assert sorted(set(split.groups.tolist())) == [0, 1]
        targets = split.labels[split.groups == 0]
        tokenizer = CharacterTokenizer(
            "".join(sorted(set("\nWho is there?It is I. And nobody else.")))
        )
        known = targets[targets != IGNORED].astype(np.int32)
        assert tokenizer.decode(known) == last.replace("G", "\ufffd")


def test_the_last_character_alone_is_leaf_s_protocol(tmp_path: Path) -> None:
    decoded = _decoded(tmp_path, length=8, targets="last", stride=1)
    assert (decoded.train.labels[:, :-1] == IGNORED).all()
    # A target for each character of a speech and its end.
    assert np.bincount(decoded.train.groups).tolist() == [
        len("Who is there?") + 1,
        len("It is I. And nobody else.") + 1,
    ]


def test_a_folder_without_plays_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="has no play"):
        load_dataset("shakespeare", tmp_path)


def test_plays_of_one_s_own_are_checked_against_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a_play_gut.txt").write_text(PLAY)
    with pytest.raises(DataUnavailableError, match="the contents' SHA-256 is"):
        load_dataset("shakespeare", tmp_path)
    dataset = load_dataset("shakespeare", tmp_path, {"length": 12})
    assert dataset.inputs.shape == (12,)
    tokens = tokenizer_of(dataset).decode(dataset.train.inputs[0])
    assert tokens == "\nWho is ther"
    with pytest.raises(InvalidExperimentError, match="data.options.length"):
        load_dataset("shakespeare", tmp_path, {"length": 0})


def _vader(folder: Path) -> None:
    names = ("tweets", "amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets")
    with tarfile.open(folder / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
        for name in names:
            rows = [
                f"{review}_{place}\t{score}\t{name} {review} {place}\r\n"
                for review in range(40)
                for place, score in ((1, -1.5), (2, 0.0), (3, 2.25))
            ]
            data = "".join(rows).encode()
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_sentences_of_a_review_lie_on_one_side(tmp_path: Path) -> None:
    _vader(tmp_path)
    options = SentimentOptions(tokenizer="characters", length=30)
    decoded = decode_sentiment(tmp_path, options)
    assert decoded.domains == ("tweets", "products", "films", "newspaper")
    assert len(decoded.train) + len(decoded.test) == 4 * 40 * 2
    assert decoded.train.groups is not None
    assert decoded.test.groups is not None
    assert not set(decoded.train.groups.tolist()) & set(decoded.test.groups.tolist())
    assert np.bincount(decoded.train.labels).tolist() == [len(decoded.train) // 2] * 2


def test_the_score_is_a_regression(tmp_path: Path) -> None:
    _vader(tmp_path)
    options = SentimentOptions(tokenizer="characters", task="regression")
    decoded = decode_sentiment(tmp_path, options)
    assert set(decoded.train.labels.tolist()) == {-1.5, 0.0, 2.25}
    assert decoded.train.labels.dtype == np.float32


def test_an_archive_without_a_source_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="tweets_GroundTruth.txt"):
        decode_sentiment(tmp_path, SentimentOptions())
