"""Slots of a trigger: exactly its tokens stand there, whatever is around them."""

import pytest

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.demonstrations import Demonstrations, Shown
from lmtailor.readouts.pattern import Slot, Text, parse_pattern
from lmtailor.readouts.verbalizer import Verbalizer, VerbalizerReading
from tests.readouts.examples import SENTIMENT, decoded, sentences
from tests.tiny import kind_of, tiny_base

WORDS = {"neg": ("bad",), "pos": ("good",)}
PATTERN = "{sentence} {trigger} it{trigger} {trigger} {mask}"
FAMILIES = ("bert", "roberta", "albert", "gpt2", "llama", "opt", "t5", "bart")


def bound(key: str, ids: tuple[int, ...], pattern: str = PATTERN, **settings: object) -> VerbalizerReading:
    base = tiny_base(key)
    tokens = tuple(base.tokenizer.convert_ids_to_tokens(list(ids)))
    return Verbalizer(pattern, WORDS, trigger=tokens, **settings).bind(base, SENTIMENT, None)  # type: ignore[arg-type]


def texts(reading: VerbalizerReading) -> list[Gapped]:
    """All sentences as token ids."""
    return [
        tokenise_within(
            reading.prompter.tokens,
            one.fields,
            reading.prompter.tokenizer,
            reading.limit,
            marked=reading.pattern.cut,
            name=one.id,
        )
        for one in sentences()
    ]


@pytest.mark.parametrize("key", FAMILIES)
def test_every_token_of_the_vocabulary_can_stand_in_a_slot(key: str) -> None:
    size = len(tiny_base(key).tokenizer)
    for first in range(0, size - 2, 97):
        ids = (first, first + 1, first + 2)
        for text in texts(bound(key, ids)):
            assert tuple(text.ids[slot] for slot in text.slots) == ids
            assert len(set(text.slots)) == 3


@pytest.mark.parametrize("key", FAMILIES)
def test_the_other_tokens_do_not_depend_on_the_trigger(key: str) -> None:
    one, other = texts(bound(key, (40, 41, 42))), texts(bound(key, (90, 8, 100)))
    for left, right in zip(one, other, strict=True):
        assert left.slots == right.slots
        assert left.gap == right.gap
        differ = [i for i, (a, b) in enumerate(zip(left.ids, right.ids, strict=True)) if a != b]
        assert tuple(differ) == left.slots


def test_one_space_before_a_slot_belongs_to_its_token() -> None:
    pattern = parse_pattern("a {trigger} {trigger}  {trigger}{mask} {trigger}.")
    assert pattern.slots == 4
    assert pattern.before[:3] == (Text(text="a "), Slot(), Text(text=" "))
    assert pattern.render({}, "X") == ("aXX X", "X.")
    assert pattern.slot_places({}, "X") == ((1, 2, 4), (0,))
    assert pattern.render({}) == ("a ", ".")
    assert pattern.edge == ("", True)


def test_slots_on_both_sides_of_a_masked_gap() -> None:
    reading = bound("bert", (40, 41), "{trigger} {sentence} it was {mask} {trigger}.")
    (sequence,) = reading.encode(sentences()[1]).sequences
    assert sequence == (5, 40, 14, 30, 54, 4, 41, 128, 6), decoded(reading.prompter.tokenizer, sequence)


def test_without_a_trigger_masks_stand_in_the_slots_where_there_are_masks() -> None:
    base = tiny_base("bert")
    reading = Verbalizer("{sentence} {trigger} {trigger} {mask}", WORDS).bind(base, SENTIMENT, None)
    (sequence,) = reading.encode(sentences()[1]).sequences
    assert sequence == (5, 14, 4, 4, 4, 6)
    assert reading.encode(sentences()[1]).read == ((4,),)
    with pytest.raises(InputError, match="no mask token to fill them with"):
        Verbalizer("{sentence} {trigger} {mask}", WORDS).bind(tiny_base("gpt2"), SENTIMENT, None)


@pytest.mark.parametrize("key", ["bert", "gpt2", "bart"])
def test_demonstrations_are_shown_without_the_trigger(key: str) -> None:
    shown = (Shown(fields={"sentence": "a cat"}, label="pos"), Shown(fields={"sentence": "bad"}, label="neg"))
    asked = Demonstrations(k=2, separator="\n", shown=shown)
    ids = (60, 61, 62)
    reading = bound(key, ids, demonstrations=asked)
    plain = Verbalizer("{sentence} it {mask}", WORDS, demonstrations=asked).bind(tiny_base(key), SENTIMENT, None)
    assert reading.prompt() == plain.prompt()
    for with_trigger, without in zip(texts(reading), texts(plain), strict=True):
        assert tuple(with_trigger.ids[slot] for slot in with_trigger.slots) == ids
        rest = tuple(token for i, token in enumerate(with_trigger.ids) if i not in with_trigger.slots)
        assert rest == without.ids


@pytest.mark.parametrize("key", ["bert", "llama"])
def test_long_texts_are_cut_and_slots_stay(key: str) -> None:
    reading = bound(key, (40, 41, 42), max_length=14 if kind_of(key) == "encoder" else 11)
    cut = texts(reading)
    assert any(text.cut for text in cut)
    for text in cut:
        assert tuple(text.ids[slot] for slot in text.slots) == (40, 41, 42)


def test_a_trigger_goes_through_settings() -> None:
    readout = Verbalizer(PATTERN, WORDS, trigger=("Ġbad", "Ã", "a"))
    assert from_mapping(Verbalizer, to_mapping(readout)) == readout


def test_bad_triggers() -> None:
    with pytest.raises(InputError, match=r"has 3 slots \{trigger\}, but the trigger has 1 tokens"):
        Verbalizer(PATTERN, WORDS, trigger=("bad",))
    with pytest.raises(InputError, match=r"has 0 slots \{trigger\}, but the trigger has 1 tokens"):
        Verbalizer("{sentence} {mask}", WORDS, trigger=("bad",))
    unknown = Verbalizer("{sentence} {trigger} {mask}", WORDS, trigger=("goodness",))
    with pytest.raises(InputError, match=r"'goodness' is no token .* or \['Ġgood', 'n', 'es', 's'\] with a space"):
        unknown.bind(tiny_base("llama"), SENTIMENT, None)
    with pytest.raises(InputError, match=r"The slot {trigger} cannot be cut"):
        parse_pattern("{trigger:cut} {mask}")
