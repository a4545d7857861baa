"""Cutting columns so that a pattern fits."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from lmtailor.core.errors import InputError
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.prompts import CausalPrompter, MaskedPrompter
from tests.readouts.examples import decoded
from tests.tiny import tiny_tokenizer

DECODER = tiny_tokenizer("decoder")
ENCODER = tiny_tokenizer("encoder")


def cut(pattern: str, values: dict[str, str], limit: int) -> tuple[str, int]:
    """The text that is left, and the count."""
    parsed = parse_pattern(pattern)
    out = tokenise_within(CausalPrompter(DECODER, parsed).tokens, values, DECODER, limit, marked=parsed.cut, name="example 'x'")
    return decoded(DECODER, out.ids), out.cut


def test_what_fits_is_left_alone() -> None:
    assert cut("{a} {mask}", {"a": " good good"}, 2) == (" good good", 0)


def test_the_end_of_the_marked_column_goes() -> None:
    values = {"a": " good" * 9, "b": " bad" * 5}
    assert cut("{a}{b:cut} so {mask}", values, 12) == (" good" * 9 + " bad" * 2 + " so", 3)


def test_else_the_longest_goes_first() -> None:
    values = {"a": " good" * 9, "b": " bad" * 5}
    assert cut("{a}{b} so {mask}", values, 12) == (" good" * 6 + " bad" * 5 + " so", 3)
    assert cut("{a}{b} so {mask}", values, 7) == (" good" * 3 + " bad" * 3 + " so", 8)


def test_a_character_of_several_tokens_is_never_halved() -> None:
    text, count = cut("{a}{mask}", {"a": "good ☃☃☃"}, len(DECODER("good ☃☃")["input_ids"]) + 1)
    assert text == "good ☃☃"
    assert count == len(DECODER("☃")["input_ids"])


def test_a_pattern_that_cannot_fit() -> None:
    with pytest.raises(InputError, match="even without any of its columns; 2 fit"):
        cut("{a} so so so {mask}", {"a": "good"}, 2)
    with pytest.raises(InputError, match=r"The example 'x' has .* without any of the column 'b'"):
        cut("{a}{b:cut} {mask}", {"a": " good" * 9, "b": "bad"}, 5)


@given(st.lists(st.text(alphabet="ab ☃é.\n", max_size=40), min_size=2, max_size=2), st.integers(3, 30))
def test_it_always_fits_and_the_rest_is_a_beginning(texts: list[str], limit: int) -> None:
    values = dict(zip("ab", texts, strict=True))
    text, count = cut("{a}|{b}|{mask}", values, limit)
    whole = len(DECODER("|".join([*texts, ""]))["input_ids"])
    assert len(DECODER(text)["input_ids"]) == whole - count <= max(limit, 0)
    first, second, _ = text.split("|")
    assert texts[0].startswith(first)
    assert texts[1].startswith(second)
    assert count == 0 or whole > limit


@given(st.text(alphabet="ab ☃é.\n", max_size=60), st.integers(7, 30))
def test_masked_texts_keep_their_gap(text: str, limit: int) -> None:
    parsed = parse_pattern("{a} It was {mask}.")
    out = tokenise_within(MaskedPrompter(ENCODER, parsed).tokens, {"a": text}, ENCODER, limit, marked=None, name="example 'x'")
    assert len(out.ids) <= limit
    assert ENCODER.convert_ids_to_tokens(list(out.ids[out.gap - 2 :])) == ["it", "was", "[MASK]", ".", "[SEP]"]


def test_with_a_tokenizer_that_does_not_say_where_its_tokens_stand_they_are_taken_to_be_equally_long() -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast

    def tokenise(values: Mapping[str, str]) -> Gapped:
        ids = tuple(tokenizer(f"{values['a']} and {values['b']}")["input_ids"])
        return Gapped(ids=ids, gap=len(ids))

    found = tokenise_within(tokenise, {"a": "é" * 20, "b": "short"}, tokenizer, 25, marked=None, name="example 'x'")
    assert len(found.ids) <= 25
    assert found.cut == len(tokenise({"a": "é" * 20, "b": "short"}).ids) - len(found.ids)
    assert len(found.ids) > 22
    assert str(tokenizer.decode(list(found.ids), skip_special_tokens=True)) == "é" * 6 + " and short"
