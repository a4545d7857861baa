"""Inputs as a user's turn in a tokenizer's own chat template."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.cutting import Gapped
from lmtailor.readouts.pattern import Pattern
from lmtailor.readouts.words import plain_ids

_PROBE = "lmtailor"


def conversation(system: str | None, user: str, assistant: str | None = None) -> list[dict[str, str]]:
    """The turns of a question, with its answer if there is one, as chat templates take them."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": user})
    return turns if assistant is None else [*turns, {"role": "assistant", "content": assistant}]


def chat_text(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, asks: bool) -> str:
    """Turns as the tokenizer's template writes them.

    Args:
        tokenizer: the model's.
        turns: role and content.
        asks: whether the beginning of the assistant's turn follows.

    Raises:
        UnsupportedError: the tokenizer has no template.
        InputError: the template refuses the turns.
    """
    if tokenizer.chat_template is None:
        raise UnsupportedError("The tokenizer has no chat template. Write the turns into the pattern, and leave chat out.")
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))
    except Exception as error:  # a template's own refusals are errors of Jinja, of any kind
        raise InputError(
            f"The tokenizer's chat template refuses the turns {[turn['role'] for turn in turns]}: {error}"
        ) from error


def chat_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an assistant's turn: the first special one behind it in the template, or else the end token.

    Raises:
        UnsupportedError: the tokenizer has no template, or one that does not write what the assistant says.
    """
    written = chat_text(tokenizer, conversation(None, "?", _PROBE), asks=False)
    if _PROBE not in written:
        raise UnsupportedError("The tokenizer's chat template does not write what the assistant says. Write a pattern instead.")
    behind = plain_ids(tokenizer, written[written.rindex(_PROBE) + len(_PROBE) :])
    special = set(tokenizer.all_special_ids)
    end = next((token for token in behind if token in special), tokenizer.eos_token_id)
    return None if end is None else int(end)


@dataclass(frozen=True)
class ChatPrompter:
    """See `Prompter`."""

    tokenizer: PreTrainedTokenizerBase
    pattern: Pattern
    system: str | None

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The user's turn up to the beginning of the assistant's. The template writes all special tokens itself."""
        text = chat_text(self.tokenizer, conversation(self.system, self.pattern.render(values)[0]), asks=True)
        ids = plain_ids(self.tokenizer, text)
        return Gapped(ids=ids, gap=len(ids))

    def prompt(self) -> tuple[int, ...]:
        """Nothing stands before the input."""
        return ()
