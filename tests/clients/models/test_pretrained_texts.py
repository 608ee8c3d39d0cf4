"""MiniLM is the library's BERT; a checkpoint of the library is a model."""

from pathlib import Path

import pytest
import torch

from atoll.clients import (
    Classification,
    ModelSettings,
    NextToken,
    TokenInputs,
    build_model,
)
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.models.texts.minilm import Bert, BertSizes
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.errors import InvalidExperimentError

transformers = pytest.importorskip("transformers")
SIZES = BertSizes(vocabulary=19, length=8, width=12, layers=2, heads=3, hidden=20)
INPUTS = TokenInputs(length=8, vocabulary=19)
TOKENS = torch.tensor([[2, 5, 6, 3, 0, 0, 0, 0], [2, 7, 8, 9, 10, 11, 12, 3]])
TASK = Classification(classes=("no", "yes"))


def _library_bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=19,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertModel(config).eval()


def test_states_are_those_of_the_library() -> None:
    reference, own = _library_bert(), Bert(SIZES, 0, 2)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter))
    own.load_encoder(reference.state_dict())
    expected = reference(TOKENS, attention_mask=(TOKENS != 0).long()).last_hidden_state
    found = own.states(TOKENS)
    is_token = TOKENS != 0
    torch.testing.assert_close(found[is_token], expected[is_token], rtol=1e-4, atol=1e-4)


def test_bert_can_be_vectorised() -> None:
    assert obstacle_to_vectorizing(Bert(SIZES, 0, 2), INPUTS) is None


def test_a_checkpoint_of_the_library_is_a_model(tmp_path: Path) -> None:
    _library_bert().save_pretrained(tmp_path)
    settings = ModelSettings.model_validate(
        {
            "name": "huggingface",
            "path": str(tmp_path),
            "adapters": {"rank": 2, "targets": ["query", "value"]},
        }
    )
    model = build_model(settings, INPUTS, TASK, 0).eval()
    own = Bert(SIZES, 0, 2)
    own.load_encoder(_library_bert().state_dict())
    own.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(TOKENS), own(TOKENS), rtol=1e-4, atol=1e-5)
    assert all("lora" in key or key.startswith("head.") for key in travelling_state(model))


def test_a_causal_checkpoint_predicts_the_next_token(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=19, n_positions=8, n_embd=12, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    settings = ModelSettings(name="huggingface", path=str(tmp_path))
    model = build_model(settings, INPUTS, NextToken(vocabulary=19, length=8), 0).eval()
    changed = TOKENS.clone()
    changed[1, 6] = 4
    torch.testing.assert_close(model(TOKENS)[1, :6], model(changed)[1, :6])


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperimentError, match=r"model.path = .* has no config.json"):
        build_model(ModelSettings(name="huggingface", path=str(tmp_path)), INPUTS, TASK, 0)
    with pytest.raises(InvalidExperimentError, match=r"data.options.tokenizer = 'minilm'"):
        build_model(ModelSettings(name="minilm", pretrained=False), INPUTS, TASK, 0)
    _library_bert().save_pretrained(tmp_path)
    many = TokenInputs(length=8, vocabulary=20)
    with pytest.raises(InvalidExperimentError, match="has 19 tokens, the data set 20"):
        build_model(ModelSettings(name="huggingface", path=str(tmp_path)), many, TASK, 0)
