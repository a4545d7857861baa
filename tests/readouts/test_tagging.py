"""Tags: which token stands for a word, and the scores of transformers' own models with the same weights."""

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertForTokenClassification, LlamaForTokenClassification

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.tagging import Tags, TagsReading, mean_states, pieces_of_words
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from tests.readouts.examples import sentiment_task
from tests.readouts.token_tasks import tagged
from tests.tiny import FAMILIES, tiny_base

TEXTS = ("the zebra was sad", "cat", "a good, sad zebra!  and\nthe cat")


def example(text: str, tags: str | None = None) -> Example:
    return Example(id="own", fields={"text": text}, references=() if tags is None else (tags,))


def bound(base: Base, readout: Tags, task: Task | None = None) -> tuple[Adapter, TagsReading]:
    adapter = new_adapter(base, method=Frozen(), readout=readout, task=task or tagged())
    assert isinstance(adapter.reading, TagsReading)
    return adapter, adapter.reading


def scores_of(base: Base, adapter: Adapter, texts: tuple[str, ...]) -> Tensor:
    reading = adapter.reading
    assert reading is not None
    batch = reading.collate([reading.encode(example(text)) for text in texts])
    with torch.no_grad(), attach(base, adapter) as attached:
        return attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch)


def test_a_token_belongs_to_the_word_of_its_first_character() -> None:
    offsets = [(0, 0), (0, 2), (2, 3), (3, 6), (6, 7), (7, 9), (0, 0)]
    assert pieces_of_words("abc de fgh", offsets) == [[1, 2], [3], [5]]  # " " alone belongs to no word
    assert pieces_of_words("a\u00a0b c", [(0, 1), (1, 2), (2, 3), (3, 5)]) == [[0, 1, 2], [3]]
    assert pieces_of_words("ab c", [(0, 4)]) == [[0], []]


@given(st.text(alphabet="ab \u00a0\t\n", max_size=12), st.lists(st.integers(0, 12), max_size=8))
def test_tokens_belong_to_one_word_at_most_and_stay_in_order(text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    offsets = list(itertools.pairwise(bounds))
    pieces = pieces_of_words(text, offsets)
    assert len(pieces) == len(re.findall(r"[^ \t\r\n]+", text))
    flat = [position for own in pieces for position in own]
    assert flat == sorted(set(flat))
    blank = [i for i, (begin, end) in enumerate(offsets) if not text[begin:end].strip(" \t\r\n")]
    assert sorted([*flat, *blank]) == list(range(len(offsets)))


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("piece", ["first", "last"])
def test_scores_are_those_of_the_familys_token_classifier(family: str, piece: Any) -> None:
    base = tiny_base(family)
    adapter, reading = bound(base, Tags(piece=piece))
    cls: Any = {"bert": BertForTokenClassification, "llama": LlamaForTokenClassification}[family]
    config = copy.deepcopy(base.trunk.config)
    config.num_labels = 3
    theirs = cls(config).train(False)
    trunk = getattr(theirs, theirs.base_model_prefix)
    assert not trunk.load_state_dict(base.trunk.state_dict(), strict=False).missing_keys
    head = theirs.classifier if family == "bert" else theirs.score
    with torch.no_grad():
        head.weight.copy_(adapter.state["readout.head.weight"])
        head.bias.normal_()
    adapter = adapter.with_state({**adapter.state, "readout.head.bias": head.bias.detach()})
    expected = []
    for text in TEXTS:
        words = text.split()
        item = reading.encode(example(text))
        logits = theirs(input_ids=torch.tensor(item.sequences)).logits[0]
        spans = base.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        numbers = [len(text[:end].split()) - 1 if text[begin:end].strip() else None for begin, end in spans]
        for word in range(len(words)):
            own = [place for place, number in enumerate(numbers) if number == word]
            expected.append(logits[own[0] if piece == "first" else own[-1]])
    torch.testing.assert_close(scores_of(base, adapter, TEXTS), torch.stack(expected).detach(), rtol=1e-5, atol=1e-6)


def test_the_mean_is_over_all_tokens_of_a_word() -> None:
    states_NTH = torch.randn(2, 5, 3)
    read_NP = torch.tensor([[1, 3, 4, 4], [0, 1, -1, -1]])
    expected = torch.stack([states_NTH[0, 1:4].mean(0), states_NTH[0, 4], states_NTH[1, :2].mean(0)])
    torch.testing.assert_close(mean_states(states_NTH, read_NP), expected)
    base = tiny_base("bert")
    means, firsts = (scores_of(base, bound(base, Tags(piece=piece))[0], TEXTS) for piece in ("mean", "first"))
    assert torch.allclose(means[3], firsts[3], atol=1e-6)  # sad: one token
    assert not torch.allclose(means[1], firsts[1], atol=1e-3)  # zebra: several


@pytest.mark.parametrize(("family", "piece"), [("bert", "first"), ("gpt2", "last"), ("t5", "last")])
def test_the_default_is_the_token_that_has_seen_the_word(family: str, piece: Any) -> None:
    base = tiny_base(family)
    assert bound(base, Tags())[1].piece == piece
    assert torch.equal(scores_of(base, bound(base, Tags())[0], TEXTS), scores_of(base, bound(base, Tags(piece=piece))[0], TEXTS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_each_text_gives_alone_also_behind_virtual_tokens(family: str) -> None:
    base = tiny_base(family)
    for method in (Frozen(), SoftPrompt(length=3)):
        adapter = new_adapter(base, method=method, readout=Tags(layer=2, piece="mean"), task=tagged())
        alone = torch.cat([scores_of(base, adapter, (text,)) for text in TEXTS])
        torch.testing.assert_close(scores_of(base, adapter, TEXTS), alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_the_loss_is_a_mean_over_words() -> None:
    base = tiny_base("bert")
    adapter, reading = bound(base, Tags())
    items = [item for one in tagged().split("train").examples[:5] for item in reading.items(one)]
    batch = reading.collate(items)
    with attach(base, adapter) as attached:
        scores = attached.scores(0, attached.states(batch.inputs), batch)
    targets = batch.targets_NP[batch.targets_NP >= 0]
    tags = [tag for one in tagged().split("train").examples[:5] for tag in one.references[0].split()]
    assert [reading.labels[i] for i in targets.tolist()] == tags
    assert len(scores) == sum(item.units for item in items) == len(tags)
    assert Supervised().losses(scores, targets, "labelling").shape == (len(tags),)


def test_words_that_are_cut_off_or_have_no_token_get_one_tag() -> None:
    base = tiny_base("bert")
    _, reading = bound(base, Tags(max_length=5))
    assert reading.unseen == "NOUN"  # the most frequent
    assert reading.readout == Tags(max_length=5, unseen="NOUN")
    asked = reading.inquiry(example("the \u200b cat good sad movie"))  # a word that the tokenizer drops, and two that do not fit
    assert asked.items[0].cut == 2
    assert asked.seen == (0, 2, 3)
    finding = asked.finding([torch.eye(3)])
    labels = reading.labels
    assert finding.tags == (labels[0], "NOUN", labels[1], labels[2], "NOUN", "NOUN")
    assert finding.text == " ".join(finding.tags)
    spans = [{"text": "a cat", "tags": "O B-X"}, {"text": "a sad cat", "tags": "B-X I-X I-X"}]
    assert bound(base, Tags(), Task.from_records(kind="labelling", text="text", label="tags", train=spans))[1].unseen == "O"
    assert bound(base, Tags(unseen="DET"))[1].unseen == "DET"


def test_an_example_none_of_whose_words_is_seen_has_nothing_to_learn() -> None:
    _, reading = bound(tiny_base("bert"), Tags())
    assert reading.items(example("\u200b", "NOUN")) == ()
    assert reading.inquiry(example("\u200b")).finding([torch.empty(0, 3)]).tags == ("NOUN",)


def test_refusals_name_what_is_wrong() -> None:
    base = tiny_base("bert")
    _, reading = bound(base, Tags())
    with pytest.raises(InputError, match="2 words but 1 tags"):
        reading.items(example("a cat", "DET"))
    with pytest.raises(InputError, match=r"has the tag 'NUON'.*Did you mean NOUN"):
        reading.items(example("a cat", "DET NUON"))
    with pytest.raises(InputError, match="0 references"):
        reading.items(example("a cat"))
    with pytest.raises(InputError, match="is no tag of the task"):
        bound(base, Tags(unseen="X"))
    with pytest.raises(InputError, match="There is no block 9"):
        bound(base, Tags(layer=9))
    with pytest.raises(UnsupportedError, match="Use Head or Verbalizer"):
        new_adapter(base, method=Frozen(), readout=Tags(), task=sentiment_task())
    with pytest.raises(UnsupportedError, match="Use Tags"):
        new_adapter(base, method=Frozen(), readout=Head(), task=tagged())
    with pytest.raises(UnsupportedError, match="Use Tags"):
        new_adapter(tiny_base("gpt2"), method=Frozen(), readout=Text("{text}"), task=tagged())
    with pytest.raises(InputError, match="dropout"):
        Tags(dropout=1)
