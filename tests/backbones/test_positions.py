"""What a text model has positions for, against the first length at which it breaks."""

import pytest
import torch
import transformers
from transformers import AutoModel

from intarsia.backbones.positions import num_positions

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 34,
}
OFFSET = SIZES | {"pad_token_id": 1}  # the first position is the one behind the padding's
NAMES = {"vocab_size": 50, "max_position_embeddings": 34}
CONFIGS = {
    "Bert": (SIZES, 34),
    "DistilBert": (NAMES | {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}, 34),
    "Roberta": (OFFSET, 32),
    "XLMRoberta": (OFFSET, 32),
    "Camembert": (OFFSET, 32),
    "Data2VecText": (OFFSET, 32),
    "MPNet": (OFFSET, 32),
    "Esm": (OFFSET | {"mask_token_id": 4, "position_embedding_type": "absolute"}, 32),
    "Longformer": (OFFSET | {"attention_window": [16]}, 32),
    "OPT": (
        NAMES
        | {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1}
        # whose table has two rows more than are counted
        | {"num_attention_heads": 2, "word_embed_proj_dim": 16},
        34,
    ),
}


def model_of(name: str, **options) -> torch.nn.Module:
    config = getattr(transformers, f"{name}Config")(**options)
    return AutoModel.from_config(config).eval()


@torch.no_grad()
def lasts(model: torch.nn.Module, length: int) -> bool:
    ids = torch.full((1, length), 5)
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_that_many_tokens_and_no_more_can_be_read(name):
    options, expected = CONFIGS[name]
    model = model_of(name, **options)
    assert num_positions(model) == expected
    assert lasts(model, expected) and not lasts(model, expected + 1)


def test_a_padding_of_another_row_leaves_out_other_positions():
    assert num_positions(model_of("Roberta", **(SIZES | {"pad_token_id": 0}))) == 33
    assert num_positions(model_of("Roberta", **(SIZES | {"pad_token_id": 7}))) == 26


def test_a_model_that_computes_its_positions_has_no_table():
    relative = {"relative_attention": True, "position_biased_input": False}
    assert num_positions(model_of("DebertaV2", **SIZES, **relative)) is None
    t5 = transformers.T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
    assert num_positions(transformers.T5EncoderModel(t5).eval()) is None
