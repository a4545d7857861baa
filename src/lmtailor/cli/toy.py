"""A toy model, made in memory in a moment: what methods are tried on where no base is named."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from lmtailor.base.base import Base
from lmtailor.base.quiet import quiet

WORDS = ("[PAD]", "[UNK]", "[MASK]", "a", "bad", "film", "good")
ROWS = 128
"""Of the table of embeddings, so that examples of methods that name tokens by number find them."""


def toy_base() -> Base:
    """A BERT with two blocks of random weights, wide enough for every method's defaults, and a tokenizer of a few words."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    config = BertConfig(
        vocab_size=ROWS,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    return Base.from_model(model, wrapped, source="toy")
