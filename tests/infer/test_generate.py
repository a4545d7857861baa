"""`generate` against transformers' own `generate`, one prompt at a time."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.infer.decoding import Decoding, Drawn, end_tokens
from lmtailor.infer.generate import generate
from lmtailor.infer.run import groups_of
from lmtailor.infer.written import Ending, Generated
from lmtailor.methods import method_class
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import Adapter
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

PROMPTS = ["the movie was", "a", "great text so very happy in the book and", "it is no"]
FAMILIES = ("llama", "gpt2", "opt", "mistral", "t5", "bart", "mbart", "marian")
METHODS = ("lora", "prefix", "houlsby", "soft_prompt", "loreft")
NEW = 6
LEAD = 3 * "the book was boring and sad no good in it. the movie was fun and the cat was happy so very good to me. "


def plain(base: Base, adapter: Adapter | None, prompt: str, **settings: Any) -> list[int]:
    """What transformers writes for one prompt."""
    causal = base.kind == "decoder"
    inputs = dict(base.tokenizer(prompt, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    before = inputs["input_ids"].shape[1] if causal else 1
    options: dict[str, Any] = dict(max_new_tokens=NEW, pad_token_id=0, do_sample=False, **settings)
    with nullcontext() if adapter is None else attach(base, adapter):
        found: list[int] = written_by(base, inputs | options)[0, before:].tolist()
    return found


def written_by(base: Base, arguments: dict[str, Any]) -> Tensor:
    """What transformers' own generate gives."""
    model: Any = base.model
    out: Tensor = model.generate(**arguments)
    return out


def ended(base: Base, rows: Sequence[Sequence[int]], place: int = 3) -> Base:
    """The base with an end token that appears in the rows, so that some texts end early."""
    token = rows[0][place]
    base.model.generation_config.eos_token_id = [2, token]
    return base


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_beams_are_those_of_each_prompt_alone(family: str) -> None:
    base = tiny_base(family)
    base = ended(base, [plain(base, None, PROMPTS[0])])
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"num_beams": 3, "length_penalty": 0.4}, {"beams": 3, "length_penalty": 0.4}),
    ]
    for settings, own in ways:
        expected = [plain(base, None, prompt, **settings) for prompt in PROMPTS]
        found = generate(base, None, PROMPTS, max_new_tokens=NEW, batch_size=3, **own)
        assert [list(one.tokens) for one in found] == expected
        assert {one.ended for one in found} <= {"end", "length"}
        for one in found:
            assert (one.ended == "end") == (one.tokens[-1] in end_tokens(base))
            assert one.ended == "end" or len(one.tokens) == NEW
    assert any(one.ended == "end" for one in generate(base, None, PROMPTS, max_new_tokens=NEW))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
def test_under_an_adapter(family: str, method: str) -> None:
    base = tiny_base(family)
    adapter = moved_adapter(base, method_class(method)(), by=0.3)
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}), ({"num_beams": 2}, {"beams": 2})]
    for settings, own in ways:
        expected = [plain(base, adapter, prompt, **settings) for prompt in PROMPTS]
        found = generate(base, adapter, PROMPTS, max_new_tokens=NEW, batch_size=2, **own)
        assert [list(one.tokens) for one in found] == expected
    assert expected != [plain(base, None, prompt, num_beams=2) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("soft_prompt_mixture", {}),
        ("prefix", {"place": "infix"}),
        ("soft_prompt", {"place": "infix"}),
        ("hard_prompt", {"text": "so"}),
    ],
)
def test_under_mixtures_infixes_and_words_before_the_prompt(method: str, settings: dict[str, Any]) -> None:
    base = tiny_base("llama")
    adapters = [
        moved_adapter(base, method_class(method)(**settings), by=0.3),
        moved_adapter(base, method_class("lora")(), by=0.3),
    ]
    rows = [0, 0, 1, 0]
    expected = [plain(base, adapters[row], prompt, num_beams=2) for row, prompt in zip(rows, PROMPTS, strict=True)]
    for own, chosen in ((adapters, rows), (adapters[:1], None)):
        found = [list(one.tokens) for one in generate(base, own, PROMPTS, rows=chosen, max_new_tokens=NEW, beams=2, batch_size=3)]
        assert [one for one, row in zip(found, rows, strict=True) if row == 0] == [expected[i] for i in (0, 1, 3)]
        assert chosen is None or found == expected


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("beams", [1, 2])
def test_rows_of_several_adapters_and_of_none_share_batches(family: str, beams: int) -> None:
    base = tiny_base(family)
    adapters = [moved_adapter(base, method_class(name)(), by=0.3, seed=i) for i, name in enumerate(("lora", "prefix"))]
    rows = [0, None, 1, 0]
    expected = [
        plain(base, None if row is None else adapters[row], prompt, num_beams=beams)
        for row, prompt in zip(rows, PROMPTS, strict=True)
    ]
    found = generate(base, adapters, PROMPTS, rows=rows, max_new_tokens=NEW, beams=beams, batch_size=3)
    assert [list(one.tokens) for one in found] == expected


def test_adapters_that_replace_weights_run_apart() -> None:
    base = tiny_base("llama")
    adapters = [moved_adapter(base, method_class(name)(), by=0.05) for name in ("top_layers", "lora")]
    rows = [0, 1, 0, None]
    expected = [plain(base, None if row is None else adapters[row], prompt) for row, prompt in zip(rows, PROMPTS, strict=True)]
    assert [list(one.tokens) for one in generate(base, adapters, PROMPTS, rows=rows, max_new_tokens=NEW)] == expected


@pytest.mark.parametrize("tied", [True, False])
def test_different_lm_heads_in_one_call_are_refused(tied: bool) -> None:
    base = tiny_base("llama", tie_word_embeddings=tied)
    own = Select(at="embed" if tied else "lm_head")
    adapters = [moved_adapter(base, own, by=0.05, seed=seed) for seed in (0, 1)] + [moved_adapter(base, method_class("lora")())]
    for rows in ([0, 1], [2, 0], [None, 1]):
        with pytest.raises(UnsupportedError, match=r"Adapter [01] has an LM head of its own.*Call generate once for each"):
            generate(base, adapters, PROMPTS[:2], rows=rows)
    (expected,) = generate(base, adapters[0], PROMPTS[:1], max_new_tokens=NEW)
    assert list(expected.tokens) == plain(base, adapters[0], PROMPTS[0])
    assert generate(base, adapters, PROMPTS[:1], rows=[0], max_new_tokens=NEW) == [expected]


def test_heads_of_several_adapters_in_one_call_are_refused() -> None:
    base = tiny_base("llama")
    lora = method_class("lora")()
    adapters = [moved_adapter(base, lora, Head(pooling="last"), seed=seed) for seed in (0, 1)] + [moved_adapter(base, lora)]
    with pytest.raises(UnsupportedError, match=r"Adapters 1 and 0 have heads of their own.*Use predict.*once for each"):
        generate(base, adapters, PROMPTS[:3], rows=[2, 1, 0])
    mixed = generate(base, adapters, PROMPTS[:3], rows=[2, 1, None], max_new_tokens=NEW)
    assert list(mixed[1].tokens) == plain(base, adapters[1], PROMPTS[1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_what_prompts_begin_with_is_run_once(family: str, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    room: dict[str, Any] = {"n_positions" if family == "gpt2" else "max_position_embeddings": 256}
    base, lengths = tiny_base(family, **room), list[int]()
    base.tokenizer.model_max_length = 256
    base = Base.from_model(base.model, base.tokenizer)
    adapter = moved_adapter(base, method_class("lora")() + method_class("prefix")(), by=0.3)
    prompts = [LEAD + text for text in PROMPTS]

    def noted(*args: Any) -> Any:
        made = groups_of(*args)
        lengths.extend(group.length for group in made)
        return made

    monkeypatch.setattr("lmtailor.infer.generate.groups_of", noted)
    expected = [plain(base, adapter, prompt, num_beams=beams) for prompt in prompts]
    found = generate(base, adapter, prompts, max_new_tokens=NEW, beams=beams, batch_size=2)
    assert max(lengths) > 50
    assert [list(one.tokens) for one in found] == expected


def test_a_checkpoints_own_settings_change_nothing_and_stand_afterwards() -> None:
    base = tiny_base("llama")
    expected = generate(base, None, PROMPTS, max_new_tokens=NEW)
    own = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=3.0, top_k=7, repetition_penalty=4.0, no_repeat_ngram_size=1, max_length=3, min_new_tokens=8,
        num_beams=2, eos_token_id=2,
    )  # fmt: skip
    base.model.generation_config = own
    assert generate(base, None, PROMPTS, max_new_tokens=NEW) == expected
    assert base.model.generation_config is own


def test_draws_depend_on_the_seed_and_the_prompts_number_alone() -> None:
    base = tiny_base("llama")
    settings: dict[str, Any] = dict(max_new_tokens=NEW, temperature=1.3, top_k=50, top_p=0.9)
    found = generate(base, None, PROMPTS, **settings, seed=3)
    assert generate(base, None, PROMPTS, **settings, seed=3, batch_size=1) == found
    assert generate(base, None, PROMPTS[:3], **settings, seed=3) == found[:3]
    assert generate(base, None, PROMPTS, **settings, seed=4) != found
    twice = generate(base, None, [PROMPTS[0]] * 2, **settings, seed=3)
    assert twice[0] != twice[1]


def test_draws_have_the_probabilities_that_were_asked_for() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    own = Drawn(0, [5])
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[int(own(torch.empty(1, 0), logits[None])[0].argmax())] += 1
    torch.testing.assert_close(counts / 4000, logits.softmax(0), atol=0.03, rtol=0)
    base = tiny_base("gpt2")
    with torch.no_grad():
        logits = base.model(**base.tokenizer(PROMPTS[0], return_tensors="pt")).logits[0, -1]
    cases: list[tuple[dict[str, Any], set[int]]] = [
        ({"top_k": 3}, set(logits.topk(3).indices.tolist())),
        ({"top_p": 1e-6}, {int(logits.argmax())}),
    ]
    for settings, allowed in cases:
        texts = generate(base, None, [PROMPTS[0]] * 60, max_new_tokens=1, temperature=2.0, **settings)
        assert {one.tokens[0] for one in texts} == allowed


@pytest.mark.parametrize(("family", "beams"), [("gpt2", 1), ("t5", 1), ("t5", 2)])
def test_texts_end_at_stop_strings(family: str, beams: int) -> None:
    base = tiny_base(family)
    whole = generate(base, None, PROMPTS, max_new_tokens=12, beams=beams)
    texts = [one.text for one in whole]
    stop = next(text[3:5] for text in texts if len(text) > 5 and "\ufffd" not in text)
    found = generate(base, None, PROMPTS, max_new_tokens=12, beams=beams, stop=stop)
    stopped = [one for one in found if one.ended == "stop"]
    assert stopped
    assert all(stop not in one.text for one in found)
    for one in stopped:
        written = str(base.tokenizer.decode(list(one.tokens), skip_special_tokens=True))
        assert written.startswith(one.text + stop)
        assert stop not in base.tokenizer.decode(list(one.tokens[:-1]), skip_special_tokens=True)
    if beams == 1:
        for one, all_of_it in zip(found, whole, strict=True):
            assert one.text == all_of_it.text.partition(stop)[0]
            assert one.tokens == all_of_it.tokens[: len(one.tokens)]


@pytest.mark.parametrize("settings", [{}, {"stop": ("best", "bes t")}, {"beams": 2}, {"temperature": 1.0}])
def test_pieces_of_a_stream_are_the_texts(settings: dict[str, Any]) -> None:
    base = tiny_base("gpt2")
    pieces: dict[int, list[str]] = {}
    found = generate(
        base,
        None,
        PROMPTS,
        max_new_tokens=NEW,
        stream=lambda number, text: pieces.setdefault(number, []).append(text),
        **settings,
    )
    assert ["".join(pieces.get(number, [])) for number in range(len(PROMPTS))] == [one.text for one in found]
    most = max(map(len, pieces.values()))
    assert most == 1 if "beams" in settings else most > 2


def test_a_stream_holds_back_what_may_still_change() -> None:
    ending = Ending(tokenizer=tiny_base("gpt2").tokenizer, ends=(2,), stop=("\n\nQ:", "stop"))
    assert ending.sure("a text\n\nQ") == "a text"
    assert ending.sure("a text\n") == "a text"
    assert ending.sure("a texts") == "a text"
    assert ending.sure("a caf\ufffd") == "a caf"
    assert ending.sure("stopp") == "stopp"


def test_padding_behind_a_text_is_no_part_of_it() -> None:
    tokenizer = tiny_base("gpt2").tokenizer
    ids = tokenizer(" great movie")["input_ids"]
    ending = Ending(tokenizer=tokenizer, ends=(2,), stop=(" movie",))
    assert ending.read([ids[0], 2, 0, 0]) == Generated(text=" great", tokens=(ids[0], 2), ended="end")
    assert ending.read([*ids, 0, 0]) == Generated(text=" great", tokens=tuple(ids), ended="stop")
    assert ending.read([2]) == Generated(text="", tokens=(2,), ended="end")
    assert ending.stopped([9] * 90 + ids)
    assert not ending.stopped(ids[:1])


def test_progress_counts_prompts() -> None:
    base, told = tiny_base("llama"), list[tuple[int, int]]()
    adapter = moved_adapter(base, method_class("lora")())
    generate(
        base,
        [adapter],
        PROMPTS,
        rows=[0, None, 0, None],
        max_new_tokens=2,
        batch_size=2,
        progress=lambda *now: told.append(now),
    )
    generate(base, None, PROMPTS, max_new_tokens=2, batch_size=3, progress=lambda *now: told.append(now))
    assert told == [(2, 4), (4, 4), (3, 4), (4, 4)]


def test_no_prompts_give_no_texts_and_the_base_is_as_it_was() -> None:
    base = tiny_base("llama")
    before = plain(base, None, PROMPTS[0])
    assert lt.generate(base, None, []) == []
    lt.generate(base, moved_adapter(base, method_class("prefix")()), PROMPTS, max_new_tokens=2)
    assert plain(base, None, PROMPTS[0]) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"beams": 0}, "beams is 0"),
        ({"length_penalty": 2.0}, "there is one"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1.0, "beams": 2}, "one of the two"),
        ({"top_k": 4}, "Give a temperature"),
        ({"top_p": 0.5}, "Give a temperature"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ["a", ""]}, "stop string is empty"),
    ],
)
def test_settings_are_honoured_or_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(tiny_base("llama"), None, PROMPTS, **settings)
    with pytest.raises(InputError, match=message):
        Decoding(**{**settings, "stop": tuple(settings.get("stop", ()))})


def test_bad_input_is_named() -> None:
    base = tiny_base("llama")
    adapter = moved_adapter(base, Prefix(length=30))
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (None, "a text", {}, "a list of texts"),
        (None, ["a", ""], {}, "Prompt 1 is empty"),
        (None, ["a", 3], {}, "prompt 1 is int"),
        (None, ["a"], {"batch_size": 0}, "batch_size is 0"),
        (None, ["a"], {"max_new_tokens": 128}, "Prompt 0 has 1 tokens, to which max_new_tokens adds 128; the model takes 128"),
        (adapter, ["a"], {"max_new_tokens": 100}, "30 virtual"),
        ([adapter, adapter], ["a"], {}, "need `rows`"),
        ([adapter], ["a"], {"rows": [1]}, r"rows\[0\] is 1"),
        ([adapter], ["a"], {"rows": [0, 0]}, "1 prompts and 2 rows"),
    ]
    for adapters, prompts, settings, message in cases:
        with pytest.raises(InputError, match=message):
            generate(base, adapters, prompts, **settings)
    with pytest.raises(InputError, match="the decoder has 128 positions"):
        generate(tiny_base("bart"), None, ["a"], max_new_tokens=129)
    with pytest.raises(UnsupportedError, match="fills gaps"):
        generate(tiny_base("bert"), None, ["a"])
    with pytest.raises(UnsupportedError, match="no LM head"):
        generate(tiny_base("llama", head=False), None, ["a"])
    base.model.generation_config.eos_token_id = None
    base.tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        generate(base, None, ["a"])
