"""Tokenizers: texts become tokens and texts again; sequences hold every token once."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.texts.characters import CharacterTokenizer
from atoll.clients.data.texts.sequences import last_tokens, next_tokens, padded
from atoll.clients.data.texts.subwords import SubwordTokenizer
from atoll.clients.data.texts.tokenizers import make_tokenizer, tokenizer_of
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.next_token import IGNORED
from atoll.errors import DataUnavailableError


@given(st.text())
def test_a_text_of_known_characters_is_decoded_as_it_was(text: str) -> None:
    tokenizer = CharacterTokenizer.of_texts([text])
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) == len(text)
    assert tokenizer.vocabulary == 2 + len(set(text))


@given(st.text(alphabet="abc"), st.text(alphabet="abcdé😀"))
def test_other_characters_are_unknown(seen: str, text: str) -> None:
    tokens = CharacterTokenizer.of_texts([seen]).encode(text)
    assert [token == 1 for token in tokens] == [character not in seen for character in text]


def test_rare_characters_are_not_in_the_vocabulary() -> None:
    assert CharacterTokenizer.of_texts(["aab", "bc"], minimum=2).characters == "ab"


@given(st.lists(st.integers(1, 9)), st.integers(1, 7))
def test_next_tokens_have_every_token_but_the_first_as_a_target_once(
    values: list[int], length: int
) -> None:
    tokens = np.array(values, np.int32)
    inputs, targets = next_tokens(tokens, length, 0)
    assert inputs.shape == targets.shape == (len(inputs), length)
    is_target = targets != IGNORED
    assert targets[is_target].tolist() == values[1:]
    assert inputs[is_target].tolist() == values[:-1]
    assert not inputs[~is_target].any()


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 7), st.integers(1, 4))
def test_last_tokens_are_those_before_the_target(
    values: list[int], length: int, stride: int
) -> None:
    inputs, targets = last_tokens(np.array(values, np.int32), length, stride, before=0)
    assert targets[:, -1].tolist() == values[::stride]
    assert (targets[:, :-1] == IGNORED).all()
    for place, row in zip(range(0, len(values), stride), inputs.tolist(), strict=True):
        assert row == ([0] * length + values[:place])[-length:]


def _subwords() -> str:
    """Return a tokenizer.json that ends a text by a token of its own."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "play": 3, "##ed": 4, "well": 5}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.decoder = tokenizers.decoders.WordPiece()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 2)]
    )
    made.add_special_tokens(["[PAD]", "[SEP]"])
    return str(made.to_str())


def test_subwords_are_cut_with_their_last_token_and_padded() -> None:
    tokenizer = SubwordTokenizer(_subwords())
    found = tokenizer.sequences(["played well", "well"], length=3)
    assert found.tolist() == [[3, 4, 2], [5, 2, 0]]
    assert tokenizer.encode("played well").tolist() == [3, 4, 5, 2]
    assert tokenizer.decode(found[0]) == "played"
    assert (tokenizer.vocabulary, tokenizer.padding) == (6, 0)


@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_a_data_set_keeps_its_tokenizer(tmp_path, kind: str) -> None:
    if kind == "subwords":
        (tmp_path / "tokenizer.json").write_text(_subwords())
    name = "characters" if kind == "characters" else str(tmp_path / "tokenizer.json")
    tokenizer = make_tokenizer(name, ["well played"])
    split = Split(tokenizer.sequences(["well", "played"], 6), np.array([0, 1]))
    inputs = TokenInputs(length=6, vocabulary=tokenizer.vocabulary, padding=tokenizer.padding)
    task = Classification(classes=("a", "b"))
    (tmp_path / "made").mkdir()
    decoded = Decoded(task, split, split, inputs=inputs, tokenizer=tokenizer.to_json())
    write_dataset("own", decoded, tmp_path / "made")
    dataset = Dataset(tmp_path / "made")
    assert [tokenizer_of(dataset).decode(row) for row in dataset.train.inputs] == ["well", "played"]


def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(DataUnavailableError, match=r"tokenizer.json: cannot be read"):
        make_tokenizer(str(tmp_path), [])
    with pytest.raises(DataUnavailableError, match=r"data.options.tokenizer = .*expected 'charac"):
        make_tokenizer(str(tmp_path / "none.json"), [])


def test_padded_refuses_nothing_that_fits() -> None:
    assert padded([np.array([1, 2], np.int32), np.array([], np.int32)], 2, 7).tolist() == [
        [1, 2],
        [7, 7],
    ]
