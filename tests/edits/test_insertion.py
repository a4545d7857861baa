"""Virtual tokens beside the gap of encoders, against the plain model on embeddings that were put together row by row."""

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.insertion import Insertion, gaps_in
from lmtailor.edits.kinds import Place, TokenPrompt
from lmtailor.methods._prompts import SoftPromptEdit
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.head import Head
from tests.edits.worn import Worn, apart, base_of, logits, noise, outputs_of, row, wear, worn
from tests.readouts.examples import sentences
from tests.store.adapters import WORDS, moved_adapter
from tests.tiny import FAMILIES, kind_of, tiny_inputs

ENCODERS = [key for key in FAMILIES if kind_of(key) == "encoder"]


def masked(base: Base, rows: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Rows with one mask token, two, none, and one at the end of a padded row."""
    inputs = tiny_inputs(base, rows=rows, tokens=9, seed=seed)
    ids, mask_id = inputs["input_ids"], base.tokenizer.mask_token_id
    ids[0, 3] = mask_id
    ids[1, 6] = mask_id  # the last that is no padding
    ids[2, 4], ids[2, 5] = mask_id, mask_id
    return inputs


GAPS = ((3, 4), (6, 7), (4, 6), (9, 9))
"""Of those rows: the first token of the gap, and the first behind it."""


def prompts(base: Base, *lengths: tuple[Place, int], seed: int = 0) -> tuple[list[Tensor], Worn]:
    """Prompts at places, and what wears them."""
    width = base.sites["embed"].width
    tensors = [noise(length, width, seed=seed + i).requires_grad_() for i, (_, length) in enumerate(lengths)]
    edits = [
        SoftPromptEdit(site="embed", length=length, place=place, prompt_NH=tensor)
        for (place, length), tensor in zip(lengths, tensors, strict=True)
    ]
    return tensors, worn(*edits)


def by_hand(base: Base, inputs: dict[str, Tensor], number: int, parts: dict[str, Tensor]) -> Tensor:
    """The plain model's logits of one row, put together from pieces, at the row's own tokens."""
    one, (start, end) = row(inputs, number), GAPS[number]
    own = base.module(base.stacks[0].embedding)(one["input_ids"])[0]
    empty = own[:0]
    front, before, after = (parts.get(name, empty) for name in ("front", "before_gap", "after_gap"))
    pieces = [front, own[:start], before, own[start:end], after, own[end:]]
    keep = [torch.full((len(piece),), i in (1, 3, 5)) for i, piece in enumerate(pieces)]
    return logits(base, {"inputs_embeds": torch.cat(pieces)[None]})[:, torch.cat(keep)]


PLACES: list[tuple[tuple[Place, int], ...]] = [
    (("before_gap", 3),),
    (("after_gap", 2),),
    (("before_gap", 2), ("after_gap", 4)),
    (("front", 3), ("before_gap", 1), ("after_gap", 2)),
]


@pytest.mark.parametrize("places", PLACES, ids=str)
@pytest.mark.parametrize("key", ENCODERS)
def test_a_row_is_what_it_is_when_put_together_by_hand(key: str, places: tuple[tuple[Place, int], ...]) -> None:
    base = base_of(key)
    inputs = masked(base)
    tensors, adapter = prompts(base, *places)
    parts: dict[str, Tensor] = dict(zip([place for place, _ in places], tensors, strict=True))
    wanted = [by_hand(base, inputs, number, parts) for number in range(4)]
    weights = [noise(*one.shape, seed=number) for number, one in enumerate(wanted)]
    references = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, wanted, strict=True)), tensors)  # type: ignore[arg-type]
    with attach(base, adapter):
        found = logits(base, inputs)
        assert found.shape[:2] == inputs["input_ids"].shape
        rows = [found[i : i + 1, inputs["attention_mask"][i].bool()] for i in range(4)]
        gradients = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, rows, strict=True)), tensors)  # type: ignore[arg-type]
    for one, other in zip(rows, wanted, strict=True):
        assert apart(one, other) < 1e-5
    for gradient, reference in zip(gradients, references, strict=True):
        assert apart(gradient, reference) < 1e-4


@pytest.mark.parametrize("key", ENCODERS)
def test_rows_of_a_mixture_are_what_they_are_alone(key: str) -> None:
    """Several lengths and places, a prefix, and a row with nothing; hidden states too."""
    base = base_of(key)
    inputs = masked(base, rows=5)
    adapters = [
        prompts(base, ("before_gap", 3))[1],
        prompts(base, ("front", 4), ("after_gap", 2), seed=5)[1],
        worn(*prompts(base, ("after_gap", 5), seed=9)[1].edits, *wear(base, "prefix", length=3).edits),
        worn(TokenPrompt(site="embed", length=2, ids=(30, 41), place="before_gap")),
    ]
    slots = [1, 0, None, 2, 3]
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = base.model(**inputs, output_hidden_states=True)
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = base.model(**row(inputs, number), output_hidden_states=True)
        real = inputs["attention_mask"][number].bool()
        assert apart(mixed.logits[number : number + 1, real], alone.logits) < 1e-5, number
        for one, other in zip(mixed.hidden_states, alone.hidden_states, strict=True):
            assert apart(one[number : number + 1, real], other) < 1e-5, number


@pytest.mark.parametrize("readout", [WORDS, Head(pooling="mean"), Head(pooling="cls", layer=1)], ids=["words", "mean", "block"])
def test_readouts_read_the_input_s_own_tokens(readout: Head) -> None:
    """Alone and beside a row whose tokens stand in front."""
    base = base_of("bert")
    adapters = [moved_adapter(base, SoftPrompt(length=n, place=p), readout) for n, p in ((3, "before_gap"), (2, "front"))]  # type: ignore[arg-type]
    reading = adapters[0].reading
    assert reading is not None
    batch = reading.collate([reading.encode(example) for example in sentences()[:4]])
    with torch.no_grad():
        with attach(base, adapters, [0, 1, 1, 0]) as attached:
            mixed = attached.read(batch)
        for number, slot in enumerate([0, 1, 1, 0]):
            with attach(base, adapters[slot]) as attached:
                (alone,) = attached.read(batch.rows([number]))
            assert apart(mixed[number], alone) < 1e-5


@pytest.mark.parametrize("front", [0, 2])
def test_edits_of_some_tokens_do_not_count_them(front: int) -> None:
    """LoReFT at the first and the last token of the text, beside tokens in its midst."""
    base = base_of("bert")
    inputs = masked(base)
    reft = wear(base, "loreft", first=2, last=2, rank=2).edits
    block = base.module(base.stacks[0].blocks[0])
    places: tuple[tuple[Place, int], ...] = (("before_gap", 3), ("after_gap", 1))
    own = [("front", front)] if front else []
    _, adapter = prompts(base, *own, *places)  # type: ignore[arg-type]
    with torch.no_grad():
        with attach(base, adapter), outputs_of(block) as before:
            logits(base, inputs)
        first = [edit for edit in reft if edit.site == "block.0"]
        with attach(base, worn(*adapter.edits, *first)), outputs_of(block) as after:
            logits(base, inputs)
    changed = (after[0] - before[0]).abs().amax(2) > 1e-6
    assert changed.sum(1).tolist() == [4, 4, 4, 4]
    assert changed[:, front : front + 2].all()  # the gaps are behind the second token
    assert changed[0, front + 11 : front + 13].all()
    assert changed[3, front + 7 : front + 9].all()  # here the virtual tokens are behind the text


def test_where_the_gap_is() -> None:
    ids = torch.tensor([[5, 9, 4, 9, 0], [4, 4, 5, 5, 5], [5, 5, 5, 0, 4]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert gaps_in(ids, mask, 4).tolist() == [[2, 3], [0, 2], [3, 3]]
    assert gaps_in(ids, None, None).tolist() == [[5, 5]] * 3
    made = Insertion.at(torch.tensor([[2, 3], [0, 2]]), torch.tensor([[2, 1], [0, 2]]), 5)
    assert made.length == 8
    assert made.own_BT.tolist() == [[0, 1, 4, 6, 7], [0, 1, 4, 5, 6]]
    assert made.new_BM.tolist() == [[2, 3, 5, 8], [8, 8, 2, 3]]


def test_what_cannot_be() -> None:
    base = base_of("bert")
    _, adapter = prompts(base, ("before_gap", 2))
    inputs = masked(base)
    with attach(base, adapter):
        with pytest.raises(UnsupportedError, match="need input_ids"):
            logits(base, {"inputs_embeds": torch.zeros(1, 3, 48)})
        with pytest.raises(UnsupportedError, match="without position_ids"):
            logits(base, inputs, position_ids=torch.arange(9)[None])
        with pytest.raises(UnsupportedError, match="two-dimensional"):
            logits(base, {**inputs, "attention_mask": torch.ones(4, 9, 9, dtype=torch.long)})
        with pytest.raises(StateError, match="return_dict=True"):
            base.trunk(**inputs, return_dict=False)
        with pytest.raises(InputError, match="129 positions; the model has 128"):
            logits(base, tiny_inputs(base, tokens=127))
    with pytest.raises(UnsupportedError, match="gpt2 is a decoder"):
        attach(base_of("gpt2"), prompts(base_of("gpt2"), ("after_gap", 2))[1])
