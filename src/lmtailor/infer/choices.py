"""`score`: how probable a model finds each of several choices after a prompt, or in its gap.

    log p(choice | prompt) = Σ_i log p(c_i | prompt, c_1 … c_{i-1})      masked models: all tokens of the choice masked at once

in nats. Choices of different lengths are not comparable as they are; `normalise` says what is compared:

    none      log p(choice | prompt)
    length    … divided by the tokens of the choice
    bytes     … divided by the bytes of the choice in UTF-8, which do not depend on the tokenizer
    pmi       log p(choice | prompt) - log p(choice | domain prompt)     Holtzman et al. 2021, arXiv:2104.08315, section 3
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit
from lmtailor.infer.asking import Asked, Question, asked
from lmtailor.infer.packing import packs, tree_size
from lmtailor.infer.run import run
from lmtailor.infer.score import Progress
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.likelihood import log_probabilities
from lmtailor.readouts.readout import input_form
from lmtailor.store.adapter import virtual_tokens

Normalise = Literal["none", "length", "bytes", "pmi"]


class HasEdits(Protocol):
    """What `score` needs of an adapter."""

    @property
    def edits(self) -> Edits:
        """What it changes."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The choices of one prompt."""

    choices: tuple[str, ...]
    log_p: tuple[float, ...]
    """log p(choice | prompt), the sum over the choice's tokens (nats)."""
    scores: tuple[float, ...]
    """What is compared: `log_p`, normalised as asked."""
    tokens: tuple[int, ...]
    """Tokens of each choice."""
    bytes: tuple[int, ...]
    """Bytes of each choice in UTF-8."""

    @property
    def best(self) -> int:
        """The number of the choice with the highest score; of equals the first."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """A readout without labels: the log-probabilities of the tokens that a batch expects."""

    form: InputForm
    layers: tuple[int, ...] = ()
    virtual: bool = False
    kind: str = "classification"

    def prompt(self) -> tuple[int, ...]:
        """None: prompts are given whole."""
        return ()

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch."""
        batch = collate(items, self.form)
        return replace(batch, answer_N=batch.read_NP[:, 0] + 1)

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """log p of the expected tokens (B, K · P), sequence by sequence."""
        log_p_NP = log_probabilities(base, states.last_NTH, batch.read_NP, batch.targets_NP)
        return log_p_NP.reshape(batch.size, -1)


def score(
    base: Base,
    prompts: Sequence[str],
    choices: Sequence[str] | Sequence[Sequence[str]],
    *,
    adapter: HasEdits | None = None,
    normalise: Normalise = "none",
    domain: str | Sequence[str] | None = None,
    batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[Scored]:
    """The log-probabilities of choices, equal to those of a plain run of each to a relative 1e-5.

    What several prompts begin with is run once, and a prompt once for all its choices.

    Args:
        base: a model with LM head.
        prompts: the texts. A choice follows its prompt directly, so it begins with the space between the two, unless the prompt
            ends with it. Masked models: the text has the tokenizer's mask token where the choice goes.
        choices: the same for all prompts; or for each prompt its own.
        adapter: attached meanwhile. A readout that it has, and the demonstrations in it, play no part.
        normalise: what is compared, see above.
        domain: pmi: the prompt without what it asks about, such as " Review: It was"; or one for each prompt.
        batch_tokens: the most tokens of a batch, padding included, unless one prompt alone has more.
        progress: called after every batch with the prompts done, and of how many. Equal ones are run once and count once; so do
            domain prompts.

    Returns:
        One entry a prompt.

    Raises:
        InputError: prompts and choices that do not fit each other, the model or its tokenizer; pmi without a domain.
        UnsupportedError: a model without LM head; choices of several tokens under an adapter that acts by place
            or is a mixture.
    """
    questions = _questions(prompts, choices)
    edits = Edits() if adapter is None else adapter.edits
    domains = _domains(questions, domain)
    return score_questions(
        base, questions, edits=edits, normalise=normalise, domains=domains, batch_tokens=batch_tokens, progress=progress
    )


def score_questions(
    base: Base,
    questions: Sequence[Question],
    *,
    edits: Edits,
    normalise: Normalise,
    domains: Sequence[Question],
    batch_tokens: int,
    progress: Progress | None,
) -> list[Scored]:
    """`score`, of prompts that messages call by names of their own.

    Args:
        base: as for `score`.
        questions: each with at least one choice, and none empty.
        edits: of the adapter.
        normalise: as for `score`.
        domains: pmi: for each question its domain prompt, with the question's choices; else none.
        batch_tokens: as for `score`.
        progress: as for `score`.

    Raises:
        InputError, UnsupportedError: as `score`.
    """
    if normalise not in get_args(Normalise):
        raise InputError(f"normalise is {normalise!r}; it is none, length, bytes or pmi.")
    if questions and (normalise == "pmi") != bool(domains):
        raise InputError("A domain prompt goes with normalise='pmi', and pmi with a domain prompt; one of them is missing.")
    if batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}; a batch has one token at least.")
    unique = list({(one.prompt, one.choices): one for one in reversed((*questions, *domains))}.values())
    found = asked(base, unique) if unique else []
    _check_places(base, edits, found)
    log_p = _log_p(base, edits, found, batch_tokens, progress)
    number = {(one.prompt, one.choices): i for i, one in enumerate(unique)}
    own, prior = ([number[one.prompt, one.choices] for one in some] for some in (questions, domains or questions))
    return [_scored(unique[i].choices, found[i].pieces, log_p[i], log_p[j], normalise) for i, j in zip(own, prior, strict=True)]


def _check_places(base: Base, edits: Edits, found: Sequence[Asked]) -> None:
    """Refuse choices of several tokens where their probability is not that of one token after the other.

    Raises:
        UnsupportedError: edits of the last tokens of a text, which would be a choice's own; or a mixture, in which a choice has
            the mean of its members' products.
    """
    placed = base.kind == "decoder" and any(isinstance(edit, PlacedEdit) for edit in edits)
    if not (placed or edits.mixed) or all(len(pieces) == 1 for one in found for pieces in one.pieces):
        return
    if edits.mixed:
        raise UnsupportedError(
            "The adapter is a mixture, of which only choices of one token can be scored. Use a Verbalizer for words of several."
        )
    raise UnsupportedError(
        "The adapter acts on the last tokens of a text, and a choice of several tokens would be part of that text. Score "
        "choices of one token with it, or generate."
    )


def _log_p(base: Base, edits: Edits, found: Sequence[Asked], batch_tokens: int, progress: Progress | None) -> list[list[float]]:
    """The choices' log-probabilities, question by question."""
    out: dict[int, list[float]] = {}

    def keep(numbers: list[int], log_p_BP: Tensor) -> None:
        for number, log_p_P in zip(numbers, log_p_BP, strict=True):
            out[number] = found[number].log_p(log_p_P.view(len(found[number].runs), -1))
        if progress is not None:
            progress(len(out), len(found))

    def divide(items: Sequence[Encoded]) -> list[list[int]]:
        return by_tokens(items, batch_tokens, packed=packs(base, edits, base.max_length + virtual_tokens(edits)))

    run(base, edits, Likelihoods(form=input_form(base)), [one.item for one in found], divide, keep)
    return [out[number] for number in range(len(found))]


def by_tokens(items: Sequence[Encoded], most: int, *, packed: bool) -> list[list[int]]:
    """Batches of so many tokens at most, the longest examples first; in each all have the same number of sequences.

    Args:
        items: examples.
        most: tokens of a batch, padding included. An example that has more is a batch of its own.
        packed: whether the sequences of an example run as a tree.
    """
    size = [tree_size(item.sequences) if packed else len(item.sequences) * _longest(item) for item in items]
    batches: list[list[int]] = []
    width = 0
    for number in sorted(range(len(items)), key=lambda i: (-len(items[i].sequences), -size[i], i)):
        same = bool(batches) and len(items[batches[-1][0]].sequences) == len(items[number].sequences)
        if not same or (len(batches[-1]) + 1) * width > most:
            batches.append([])
            width = size[number]
        batches[-1].append(number)
    return batches


def _longest(item: Encoded) -> int:
    return item.length + (0 if item.decoder is None else max(map(len, item.decoder)))


def _questions(prompts: Sequence[str], choices: Sequence[str] | Sequence[Sequence[str]]) -> list[Question]:
    """Each prompt with its choices.

    Raises:
        InputError: they do not fit, or a choice is empty.
    """
    if isinstance(prompts, str) or isinstance(choices, str):
        raise InputError("Prompts and choices are lists of texts; one of them is a single text. Put it in a list.")
    texts = sum(isinstance(choice, str) for choice in choices)
    shared = texts == len(choices)
    if not shared and (texts or len(choices) != len(prompts)):
        raise InputError(
            f"There are {len(prompts)} prompts and {len(choices)} entries of choices. Give one list of texts for all prompts, "
            "or for each prompt a list."
        )
    questions = []
    for number, prompt in enumerate(prompts):
        own = [str(choice) for choice in choices] if shared else list(choices[number])
        name = f"prompt {number}"
        given: list[object] = [prompt, *own]
        for text in given:
            if not isinstance(text, str):
                raise InputError(f"Prompts and choices are texts; {name} has {type(text).__name__}: {text!r}.")
        if not own or not all(own):
            raise InputError(f"{'An empty choice' if own else 'No choice'} is given for {name}. Each choice is a text.")
        questions.append(Question(name=name, prompt=prompt, choices=tuple(own)))
    return questions


def _domains(questions: Sequence[Question], domain: str | Sequence[str] | None) -> list[Question]:
    """The domain prompt of each question, with its choices; none where none is given.

    Raises:
        InputError: it is not one for all or one for each.
    """
    if domain is None:
        return []
    texts = [domain] * len(questions) if isinstance(domain, str) else list(domain)
    if len(texts) != len(questions):
        raise InputError(
            f"There are {len(questions)} prompts and {len(texts)} domain prompts. Give one for all, or one for each."
        )
    return [domain_of(own, text) for own, text in zip(questions, texts, strict=True)]


def domain_of(question: Question, prompt: str) -> Question:
    """A domain prompt with a question's choices."""
    return Question(name=f"the domain prompt of {question.name}", prompt=prompt, choices=question.choices)


def _scored(
    choices: tuple[str, ...],
    pieces: Sequence[tuple[int, ...]],
    log_p: Sequence[float],
    log_p_domain: Sequence[float],
    normalise: Normalise,
) -> Scored:
    tokens, sizes = tuple(map(len, pieces)), tuple(len(choice.encode()) for choice in choices)
    by: Mapping[Normalise, list[float]] = {
        "none": list(log_p),
        "length": [value / count for value, count in zip(log_p, tokens, strict=True)],
        "bytes": [value / count for value, count in zip(log_p, sizes, strict=True)],
        "pmi": [value - prior for value, prior in zip(log_p, log_p_domain, strict=True)],
    }
    return Scored(choices=choices, log_p=tuple(log_p), scores=tuple(by[normalise]), tokens=tokens, bytes=sizes)
