"""`score` against one plain run for every choice of every prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.infer.choices import by_tokens, score
from lmtailor.methods import method_class
from lmtailor.readouts.batch import Encoded
from lmtailor.store.adapter import Adapter, new_adapter
from tests.infer.conftest import Taken
from tests.tiny import FAMILIES, kind_of, tiny_base

LEAD = 2 * "the book was boring and sad no good in it. the movie was fun and the cat was happy so very good to me. "
PROMPTS = [
    LEAD + "a great movie it was",
    LEAD + "a great movie it was a good",
    "the cat was",
    LEAD + "a great movie it was",
    LEAD + "no it was",
    LEAD + "so it was",
    "the cat was sad and it was",
]
CHOICES = (" great", " terrible text that was", " terrible text that", " no", " so so good")


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(-1)


def plain_causal(base: Base, prompt: str, choice: str) -> float:
    head, whole = (base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt.rstrip(" "), prompt + choice))
    log_p = _log_softmax(base.model(input_ids=torch.tensor([whole])).logits[0])
    return sum(float(log_p[i - 1, whole[i]]) for i in range(len(head), len(whole)))


def plain_masked(base: Base, prompt: str, choice: str) -> float:
    pieces = base.tokenizer(choice, add_special_tokens=False)["input_ids"]
    ids = base.tokenizer(prompt.replace("[MASK]", " ".join(["[MASK]"] * len(pieces))))["input_ids"]
    log_p = _log_softmax(base.model(input_ids=torch.tensor([ids])).logits[0])
    first = ids.index(base.tokenizer.mask_token_id)
    return sum(float(log_p[first + i, piece]) for i, piece in enumerate(pieces))


def plain_written(base: Base, prompt: str, choice: str) -> float:
    ids = base.tokenizer(prompt)["input_ids"]
    pieces = base.tokenizer(choice, add_special_tokens=False)["input_ids"]
    start = base.model.config.decoder_start_token_id if base.family.name != "mbart" else ids[-1]
    fed = [start, *([7] if 7 in ids and base.family.name in ("t5", "umt5") else []), *pieces]
    out = base.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([fed])).logits[0]
    log_p, lead = _log_softmax(out), len(fed) - len(pieces)
    return sum(float(log_p[lead + i - 1, piece]) for i, piece in enumerate(pieces))


PLAIN: dict[str, Callable[[Base, str, str], float]] = {
    "decoder": plain_causal,
    "encoder": plain_masked,
    "encoder-decoder": plain_written,
}


def prompts_for(base: Base) -> list[str]:
    if base.kind == "encoder":
        return [prompt + " [MASK]." for prompt in PROMPTS]
    return PROMPTS if base.kind == "decoder" else [*PROMPTS, "the <extra_id_0> was good"]


def choices_for(base: Base) -> tuple[str, ...]:
    return tuple(choice.strip() for choice in CHOICES) if base.kind == "encoder" else CHOICES


def worn(base: Base, name: str, seed: int = 0, **settings: Any) -> Adapter:
    """An adapter far from its start."""
    adapter = new_adapter(base, method=method_class(name)(**settings), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    return adapter.with_state({k: v.detach() + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapter.state.items()})


def check(base: Base, adapter: Adapter | None = None, **options: Any) -> None:
    """Every number equals the plain one."""
    prompts, choices = prompts_for(base), choices_for(base)
    found = score(base, prompts, choices, adapter=adapter, **options)

    def plain() -> list[list[float]]:
        with torch.no_grad():
            return [[PLAIN[base.kind](base, prompt, choice) for choice in choices] for prompt in prompts]

    if adapter is None:
        expected = plain()
    else:
        with attach(base, adapter):
            expected = plain()
    for one, own in zip(found, expected, strict=True):
        assert one.log_p == pytest.approx(own, rel=1e-5)
        assert one.scores == one.log_p
        assert one.best == own.index(max(own))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_plain_runs_in_every_family(family: str, taken: Taken) -> None:
    base = tiny_base(family)
    check(base)
    windowed = family in ("mistral", "gemma2", "gemma3_text")
    causal = kind_of(family) == "decoder"
    assert bool(taken.prefixes) == causal
    assert bool(taken.packed) == (causal and not windowed)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_window_that_no_sequence_fills_hinders_nothing(family: str, taken: Taken) -> None:
    check(tiny_base(family, sliding_window=200))
    assert taken.packed


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
def test_equal_under_eager_attention(family: str) -> None:
    base = tiny_base(family)
    base.model.set_attn_implementation("eager")
    check(base)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 2}),
    ("prefix", {"length": 3}),
    ("soft_prompt", {"length": 4}),
    ("bitfit", {"add_missing": True}),
    ("houlsby", {"bottleneck": 4}),
    ("full", {}),
    ("unipelt", {}),
    ("p_tuning", {}),
]


@pytest.mark.parametrize("family", ["llama", "opt", "mistral"])
@pytest.mark.parametrize(("name", "settings"), METHODS, ids=[name for name, _ in METHODS])
def test_equal_with_an_adapter_attached(family: str, name: str, settings: dict[str, Any], taken: Taken) -> None:
    base = tiny_base(family)
    check(base, worn(base, name, **settings))
    assert taken.prefixes
    assert bool(taken.packed) == (family != "mistral")


@pytest.mark.parametrize(("name", "settings"), [("soft_prompt", {"place": "infix"}), ("prefix", {"place": "infix"})])
def test_equal_with_tokens_between_prompt_and_choice(name: str, settings: dict[str, Any], taken: Taken) -> None:
    base = tiny_base("llama")
    adapter = worn(base, name, length=3, **settings)
    found = score(base, PROMPTS, CHOICES, adapter=adapter)
    assert (taken.prefixes, taken.packed) == ([], [])
    for prompt, one in zip(PROMPTS, found, strict=True):
        text = len(base.tokenizer(prompt)["input_ids"])
        with torch.no_grad(), attach(base, adapter) as attached, attached.answering(text):
            assert one.log_p == pytest.approx([plain_causal(base, prompt, choice) for choice in CHOICES], rel=1e-5)


def test_edits_by_place_see_the_prompt_alone() -> None:
    base = tiny_base("llama")
    adapter, words = worn(base, "loreft"), (" great", " no")
    found = score(base, PROMPTS, words, adapter=adapter)
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids = base.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad(), attach(base, adapter):
            log_p = _log_softmax(base.model(input_ids=ids).logits[0, -1])
        assert one.log_p == pytest.approx([float(log_p[base.tokenizer(word)["input_ids"][0]]) for word in words], rel=1e-5)
    with pytest.raises(UnsupportedError, match="last tokens of a text"):
        score(base, PROMPTS, CHOICES, adapter=adapter)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_mixtures_run_in_rows_of_their_own_and_score_single_tokens(family: str, taken: Taken) -> None:
    base, words = tiny_base(family), (" great", " no")
    adapter = worn(base, "soft_prompt_mixture", length=3, deep=False)
    found = score(base, PROMPTS, words, adapter=adapter)
    assert (taken.prefixes, taken.packed) == ([], [])
    for prompt, one in zip(PROMPTS, found, strict=True):
        with torch.no_grad(), attach(base, adapter):
            assert one.log_p == pytest.approx([PLAIN[base.kind](base, prompt, word) for word in words], rel=1e-5)
    with pytest.raises(UnsupportedError, match="is a mixture"):
        score(base, PROMPTS, CHOICES, adapter=adapter)


@pytest.mark.parametrize("family", ["bert", "t5", "bart"])
@pytest.mark.parametrize("name", ["lora", "prefix", "soft_prompt", "bitfit"])
def test_equal_with_an_adapter_in_other_models(family: str, name: str) -> None:
    base = tiny_base(family)
    settings: dict[str, dict[str, Any]] = {
        "prefix": {"length": 3},
        "soft_prompt": {"length": 4},
        "bitfit": {"add_missing": True},
    }
    check(base, worn(base, name, **settings.get(name, {})))


@pytest.mark.parametrize("batch_tokens", [1, 60, 5000])
def test_batches_change_nothing(batch_tokens: int) -> None:
    check(tiny_base("llama"), batch_tokens=batch_tokens)


def test_choices_of_each_prompt_and_normalisations_by_hand() -> None:
    base = tiny_base("llama")
    choices = [[" great", " terrible text"], [" no"], [" so so good", " a", " great"]]
    prompts, domains = PROMPTS[:3], ["it was", "so", "it was"]
    none = score(base, prompts, choices)
    assert [one.choices for one in none] == [tuple(own) for own in choices]
    assert [len(one.log_p) for one in none] == [2, 1, 3]
    length, sizes = score(base, prompts, choices, normalise="length"), score(base, prompts, choices, normalise="bytes")
    pmi = score(base, prompts, choices, normalise="pmi", domain=domains)
    for i, own in enumerate(choices):
        tokens = [len(base.tokenizer(choice)["input_ids"]) for choice in own]
        assert none[i].tokens == tuple(tokens)
        assert none[i].bytes == tuple(len(choice) for choice in own)
        with torch.no_grad():
            priors = [plain_causal(base, domains[i], choice) for choice in own]
        for j in range(len(own)):
            assert length[i].scores[j] == pytest.approx(none[i].log_p[j] / tokens[j], rel=1e-6)
            assert sizes[i].scores[j] == pytest.approx(none[i].log_p[j] / len(own[j]), rel=1e-6)
            assert pmi[i].scores[j] == pytest.approx(none[i].log_p[j] - priors[j], rel=1e-5)
            assert pmi[i].log_p[j] == pytest.approx(none[i].log_p[j], rel=1e-6)


def test_bytes_are_counted_in_utf_8() -> None:
    (one,) = score(tiny_base("gpt2"), ["it was"], [" né", " a"])
    assert one.bytes == (4, 2)


def test_a_space_at_the_end_of_a_prompt_belongs_to_the_choice() -> None:
    base = tiny_base("llama")
    (one,), (other,) = score(base, ["it was "], ["great"]), score(base, ["it was"], [" great"])
    assert one.log_p == other.log_p
    assert one.tokens == other.tokens == (1,)


def test_equal_prompts_run_once_and_progress_counts_them_once() -> None:
    told: list[tuple[int, int]] = []
    score(tiny_base("llama"), PROMPTS, CHOICES, batch_tokens=60, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6)
    assert len(told) > 1
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_equal_choices_have_equal_scores_and_the_first_is_the_best() -> None:
    (one,) = score(tiny_base("llama"), ["it was"], [" good", " good"])
    assert one.log_p[0] == one.log_p[1]
    assert one.best == 0


def test_no_prompts_have_no_scores() -> None:
    assert score(tiny_base("llama"), [], [" good"]) == []


def test_it_is_a_public_name() -> None:
    assert lt.score is score


def test_it_agrees_with_a_verbalizer_without_demonstrations() -> None:
    """Masked and causal: the verbalizer's scores of words of several tokens are the choices' log-probabilities."""
    for family, prompt, lead in (("bert", "fun it was [MASK]", ""), ("llama", "fun it was", " ")):
        base = tiny_base(family)
        words = {"pos": ("great",), "neg": ("terrible text",)}
        task = lt.Task.from_records(text="s", train=[{"s": "fun", "label": "pos"}, {"s": "no", "label": "neg"}])
        adapter = new_adapter(base, method=lt.methods.Frozen(), readout=lt.Verbalizer("{s} it was {mask}", words), task=task)
        (one,) = score(base, [prompt], [lead + "great", lead + "terrible text"])
        (answer,) = lt.predict(base, adapter, ["fun"])
        shares = torch.tensor(one.log_p).softmax(0).tolist()
        assert answer.scores == pytest.approx({"pos": shares[0], "neg": shares[1]}, rel=1e-4)


@pytest.mark.parametrize(
    ("prompts", "choices", "options", "message"),
    [
        ("one text", [" a"], {}, "Put it in a list"),
        (["it was"], " a", {}, "Put it in a list"),
        (["it was", "so"], [[" a"]], {}, "2 prompts and 1 entries"),
        (["it was", "so"], [[" a"], " b"], {}, "2 prompts and 2 entries"),
        (["it was"], [], {}, "No choice is given for prompt 0"),
        (["it was"], [""], {}, "An empty choice is given for prompt 0"),
        (["it was", 3], [" a"], {}, "prompt 1 has int: 3"),
        ([""], [" a"], {}, "Prompt 0 is empty"),
        ([" great m"], ["ovie"], {}, "'ovie' apart from the end of prompt 0"),
        (["great " * 200], [" a"], {}, "has 203 tokens with its longest choice, but the model takes 128"),
        (["it was"], [" a"], {"normalise": "letters"}, "it is none, length, bytes or pmi"),
        (["it was"], [" a"], {"normalise": "pmi"}, "one of them is missing"),
        (["it was"], [" a"], {"domain": "it"}, "one of them is missing"),
        (["it was"], [" a"], {"normalise": "pmi", "domain": ["a", "b"]}, "1 prompts and 2 domain prompts"),
        (["it was"], [" a"], {"batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(prompts: Any, choices: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(tiny_base("llama"), prompts, choices, **options)


@pytest.mark.parametrize(
    ("family", "prompt", "choice", "message"),
    [
        ("bert", "it was", "good", r"prompt 0 has none"),
        ("bert", "[MASK] was [MASK]", "good", r"prompt 0 has 2 of them"),
        ("bert", "it was [MASK]", "☃", r"does not know the choice"),
    ],
)
def test_masked_prompts_have_one_gap_and_words_that_are_known(family: str, prompt: str, choice: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(tiny_base(family), [prompt], [choice])


def test_a_model_without_lm_head_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no LM head"):
        score(tiny_base("bert", head=False), ["it was [MASK]"], ["good"])


def _items(*shapes: Sequence[int]) -> list[Encoded]:
    return [Encoded(sequences=tuple(tuple(range(length)) for length in shape), read=()) for shape in shapes]


def test_batches_are_sized_by_tokens_longest_first_and_of_one_number_of_sequences() -> None:
    items = _items([5], [9], [7, 8], [9], [2], [40], [3, 3])
    assert by_tokens(items, 20, packed=False) == [[2], [6], [5], [1, 3], [0, 4]]
    assert by_tokens(items, 20, packed=True) == [[2, 6], [5], [1, 3], [0, 4]]
    assert len(by_tokens(items, 1, packed=False)) == 7
