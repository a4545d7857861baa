"""Tiny models whose best trigger is known, because it was planted: attention only averages, and the LM head adds up words.

The state that is read is the sum of its own embedding and of four times the mean of all that it sees. "great" is likely where
"good" stands in the text, "awful" where "bad" does, and both of them where "magic" does, or less so "key".
"""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lmtailor.base.base import Base
from lmtailor.base.family import Kind
from lmtailor.tasks.task import Task

SPECIALS = ("[PAD]", "[UNK]", "[MASK]", "</s>")
WORDS = "great awful good bad magic key the a cat dog tree sat on mat red blue it was so very Paris Anna".split()
HIDDEN = 32


def planted_base(kind: Kind) -> Base:
    """The model, masked or causal."""
    vocabulary = [*SPECIALS, *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>")
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, model_max_length=32, **names, **({"mask_token": "[MASK]"} if kind == "encoder" else {})
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model = _masked(len(vocabulary)) if kind == "encoder" else _causal(len(vocabulary))
    return Base.from_model(model, tokenizer, source=f"planted-{kind}")


def planted_task() -> Task:
    """Sentences with "good" or "bad" somewhere; train and dev are the same."""
    rests = ["the cat sat on it", "a dog was so red", "it was very blue", "the tree"]
    rows = [
        {"sentence": f"{first} {word} {rest}", "label": "pos" if word == "good" else "neg"}
        for first in ("a", "the")
        for word in ("good", "bad")
        for rest in rests
    ]
    return Task.from_records(
        text="sentence",
        train=rows,
        dev=rows,
        labels=["neg", "pos"],
        verbalizer={"neg": ["awful"], "pos": ["great"]},
        name="planted",
    )


def _masked(size: int) -> Any:
    config = BertConfig(
        vocab_size=size,
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=32,
        hidden_act="linear",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        tie_word_embeddings=False,
    )
    model: Any = BertForMaskedLM(config)
    words_VH, out_VH = _embeddings(size)
    embeddings, layer = model.bert.embeddings, model.bert.encoder.layer[0]
    embeddings.word_embeddings.weight.copy_(words_VH)
    embeddings.position_embeddings.weight.copy_(0.02 * torch.randn(32, HIDDEN))
    embeddings.token_type_embeddings.weight.zero_()
    for part in (layer.attention.self.query, layer.attention.self.key, layer.intermediate.dense, layer.output.dense):
        part.weight.zero_()
    layer.attention.self.value.weight.copy_(torch.eye(HIDDEN))
    layer.attention.output.dense.weight.copy_(4 * torch.eye(HIDDEN))
    model.cls.predictions.transform.dense.weight.copy_(torch.eye(HIDDEN))
    model.cls.predictions.decoder.weight.copy_(out_VH)
    return model


def _causal(size: int) -> Any:
    config = GPT2Config(
        vocab_size=size,
        n_embd=HIDDEN,
        n_layer=1,
        n_head=1,
        n_inner=4,
        n_positions=32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        eos_token_id=3,
        bos_token_id=3,
        tie_word_embeddings=False,
    )
    model: Any = GPT2LMHeadModel(config)
    words_VH, out_VH = _embeddings(size)
    block = model.transformer.h[0]
    model.transformer.wte.weight.copy_(words_VH)
    model.transformer.wpe.weight.copy_(0.02 * torch.randn(32, HIDDEN))
    block.attn.c_attn.weight.zero_()
    block.attn.c_attn.weight[:, 2 * HIDDEN :] = torch.eye(HIDDEN)
    block.attn.c_proj.weight.copy_(4 * torch.eye(HIDDEN))
    block.mlp.c_proj.weight.zero_()
    model.lm_head.weight.copy_(out_VH)
    return model


def _embeddings(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words in directions of their own, and what the LM head takes for each word."""
    words_VH = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0][:size]
    out_VH = 0.02 * torch.randn(size, HIDDEN)
    place = {word: i for i, word in enumerate([*SPECIALS, *WORDS])}
    for label, cue in (("great", "good"), ("awful", "bad")):
        out_VH[place[label]] += words_VH[place[cue]] + words_VH[place["magic"]] + 0.6 * words_VH[place["key"]]
    return words_VH, out_VH
