"""Mixtures: many tasks through many templates as one task of generation, and tasks that are held out and watched.

    mixture = lt.load_mixture("mixture.toml")
    lt.fit(base, mixture.task, method=lt.methods.LoRA(), readout=lt.Text("{input}"), watched=mixture.watched)

Each example of the mixture is an example of one of its tasks as one of the task's templates puts it: column `input`, and the
answer as its reference; labels become their words. How many there are of each task, `mixing` says; which ones, the seed: the draw
is fixed, and epochs go through it in other orders. It takes no example with the same template twice before all had each template,
so to learn from fresh ones in a second pass, ask for twice as many `examples` and one epoch.

Tasks that are held out are asked zero-shot as training goes. Where a template has choices, the likeliest is the answer and
accuracy is measured (rank classification, as for T0; see FLAN, section 2.3); else the perplexity of the right text. An example of
which a wrong choice has the text of the right one is left out, since no text could be its answer, and told in a note. Nothing of
their train splits is used. Examples of theirs that stand in what is learned from all the same, word by word, are told in a note.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.asking import Asked, Asking, JinjaAsking, pattern_asking
from lmtailor.tasks.card import load_task
from lmtailor.tasks.example import Example, Split
from lmtailor.tasks.mixing import Mixing, counts_of, draws
from lmtailor.tasks.mixture_file import Entry, Lists, MixtureFile, Source, read_mixture
from lmtailor.tasks.overlap import standing_in
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from lmtailor.tasks.templates.collection import read_templates
from lmtailor.tasks.watched import Watched

INPUT, TARGET, SET, TEMPLATE = "input", "target", "set", "template"
"""The columns of a mixture: what is asked, the answer, and the names of task and template."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a mixture's file describes."""

    task: Task
    """Of generation."""
    watched: tuple[Watched, ...]
    """The held-out tasks, one entry a template."""
    counts: Mapping[str, int]
    """Task -> its examples in train."""

    def __str__(self) -> str:
        """What it is made of, in a line."""
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        held = f"; held out: {', '.join(one.name for one in self.watched)}" if self.watched else ""
        return f"{len(self.task.split('train')):,} examples of {len(self.counts)} tasks: {sizes}{held}"


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A task with its templates."""

    name: str
    cluster: str
    task: Task
    templates: tuple[Asking, ...]
    place: str
    """File and line, for messages."""

    def questions(self, split: Split, name: str, seed: int) -> Iterator[tuple[Example, Asking, Asked]]:
        """Questions without end, as `draws` says; what a template leaves out is not among them.

        Raises:
            InputError: the templates leave out every example.
        """
        left_out = 0
        ids = [example.id for example in split]
        for i, template in draws(ids, len(self.templates), seed=seed, name=f"{name}/{self.name}"):
            asked = self.asked(split.examples[i], self.templates[template])
            left_out = left_out + 1 if asked is None else 0
            if left_out > len(ids) * len(self.templates):
                raise InputError(f"{self.place}: the templates of {self.name} leave out every example of {split.name}.")
            if asked is not None:
                yield split.examples[i], self.templates[template], asked

    def asked(self, example: Example, template: Asking) -> Asked | None:
        """An example as a template puts it.

        Raises:
            InputError: the template fails on it.
        """
        try:
            return template.asked(example)
        except InputError as error:
            raise InputError(f"{self.place}: {error} (It was {example.id} of {self.name}.)") from error


def load_mixture(path: str | Path, *, overrides: Iterable[str] = ()) -> Mixture:
    """The mixture that a file describes.

    Args:
        path: a TOML file; see `mixture_file`.
        overrides: settings of the file as `key=value`, such as "examples=1000" or "mixing.scheme=equal".

    Raises:
        InputError: a file, a card or a template that is not there or does not fit, a mixture or a list of templates that includes
            itself, a task without train, or nothing left to learn from. Messages name file and line.
        DataError: data that is not what a card says.
    """
    sources = read_mixture(Path(path), overrides)
    content, lists = sources[0].content, Lists(sources)
    members = [_member(source, entry, lists, content) for source in sources for entry in source.content.tasks]
    _check_names(sources[0], members)
    held = [one for one in members if one.name in content.hold_out or one.cluster in content.hold_out]
    learned = [one for one in members if one not in held]
    for one in learned:
        if "train" not in one.task.splits:
            raise InputError(f"{one.place}: the task {one.name} has no train split to learn from. Hold it out, or leave it out.")
        _check_apart(one, held)
    if not learned:
        raise InputError(f"{path} has no task to learn from: {len(members)} tasks, and all are held out.")
    train, counts = _train(learned, content)
    found = [one for member in held for one in _watched(member, content)]
    splits = {"train": train, **({"dev": dev} if (dev := _dev(learned, content)) else {})}
    task = Task(
        name=content.name or Path(path).stem,
        kind="generation",
        text=(INPUT,),
        label=TARGET,
        labels=(),
        metrics=("perplexity",),
        splits=splits,
        extra=(SET, TEMPLATE),
        prompts=(Prompt(name="input", pattern=f"{{{INPUT}}}"),),
        notes=(*(note for _, note in found if note), *_overlaps(train, held)),
    )
    return Mixture(task=task, watched=tuple(watched for watched, _ in found), counts=counts)


def _member(source: Source, entry: Entry, lists: Lists, content: MixtureFile) -> _Member:
    place = source.at("[[tasks]]", f'"{entry.card}"')
    card = source.path.parent / entry.card
    if not card.is_file():
        raise InputError(f"{place}: there is no card {card}.")
    task = load_task(card, overrides=entry.set)
    if content.longest is not None:
        task = _shortened(task, content.longest)
    templates: list[Asking] = []
    chosen = list(lists.of(source, entry))
    try:
        for home, name, own in chosen:
            if own.file is not None:
                collection = read_templates(home.path.parent / own.file)
                names = collection.templates if own.use is None else own.use
                templates += [JinjaAsking(template=collection.template(one), task=task, seed=content.seed) for one in names]
            for number, one in enumerate(own.patterns, start=1):
                templates.append(pattern_asking(task, one.prompt(f"{name}-{number}")))
        if not entry.templates:
            templates += _own_patterns(task)
        twice = next((one.name for i, one in enumerate(templates) if one.name in [other.name for other in templates[:i]]), None)
        if twice is not None:
            raise InputError(f"Two templates of {task.name} are named {twice!r}. Give each its own name.")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    member = _Member(name=entry.name or task.name, cluster=entry.cluster, task=task, templates=tuple(templates), place=place)
    first = next(iter(task.splits.values())).examples[0]
    for template in templates:
        member.asked(first, template)  # a column that the data lacks is told now
    return member


def _own_patterns(task: Task) -> list[Asking]:
    """The card's patterns; of a task of generation without any the text itself."""
    if task.prompts:
        return [pattern_asking(task, one) for one in task.prompts]
    if task.kind == "generation":
        return [pattern_asking(task, Prompt(name="text", pattern="\n".join(f"{{{column}}}" for column in task.text)))]
    raise InputError(f"The card of {task.name} has no patterns. Give the task templates.")


def _shortened(task: Task, longest: int) -> Task:
    """The task with columns of so many words at most."""

    def short(text: str) -> str:
        words = text.split(maxsplit=longest)
        return text if len(words) <= longest else text[: len(text) - len(words[-1])].rstrip()

    splits = {
        name: replace(
            split, examples=tuple(replace(one, fields={key: short(text) for key, text in one.fields.items()}) for one in split)
        )
        for name, split in task.splits.items()
    }
    return replace(task, splits=splits)


def _check_names(source: Source, members: Sequence[_Member]) -> None:
    names = [one.name for one in members]
    for i, one in enumerate(members):
        if one.name in names[:i]:
            raise InputError(f"{one.place}: two tasks are named {one.name!r}. Give one of them a name.")
    known = {*names, *(one.cluster for one in members if one.cluster)}
    for name in source.content.hold_out:
        if name not in known:
            raise InputError(f"{source.at('hold_out', name)}: there is no task or cluster {name!r}. {near(name, sorted(known))}")


def _train(members: Sequence[_Member], content: MixtureFile) -> tuple[Split, dict[str, int]]:
    """The draw, task after task; a fit shuffles it."""
    mixing: Mixing = content.mixing
    sizes, templates = [len(one.task.split("train")) for one in members], [len(one.templates) for one in members]
    capped = [mixing.capped(size, count) for size, count in zip(sizes, templates, strict=True)]
    total = max(1, round(sum(capped))) if content.examples is None else content.examples
    counts = counts_of(mixing.shares(sizes, templates), total)
    examples: list[Example] = []
    for member, count in zip(members, counts, strict=True):
        found = islice(member.questions(member.task.split("train"), "train", content.seed), count) if count else ()
        examples += [_example(member, *one, id_=f"train/{len(examples) + i}") for i, one in enumerate(found)]
    made = {one.name: count for one, count in zip(members, counts, strict=True)}
    return Split(name="train", examples=tuple(examples), source="the mixture"), made


def _dev(members: Sequence[_Member], content: MixtureFile) -> Split | None:
    """Some dev examples of each task that has any."""
    examples: list[Example] = []
    for member in members:
        if "dev" in member.task.splits and content.dev:
            split = member.task.split("dev")
            found = islice(member.questions(split, "dev", content.seed), min(content.dev, len(split)))
            examples += [_example(member, *one, id_=f"dev/{len(examples) + i}") for i, one in enumerate(found)]
    return Split(name="dev", examples=tuple(examples), source="the mixture") if examples else None


def _example(member: _Member, example: Example, template: Asking, asked: Asked, *, id_: str) -> Example:
    fields = {INPUT: asked.input, SET: member.name, TEMPLATE: template.name}
    place = f"{example.place or example.id} of {member.name}, {template.name}"
    return Example(id=id_, fields=fields, references=(asked.target,), place=place)


def _check_apart(learned: _Member, held: Sequence[_Member]) -> None:
    """See that a task that is learned from is not held out under another name."""
    source = learned.task.split("train").source
    for other in held:
        if any(split.source == source for split in other.task.splits.values()):
            raise InputError(
                f"{learned.place}: {learned.name} learns from {source}, which belongs to {other.name}, and that is held out. "
                "Hold both out, or leave one out."
            )


def _held_split(member: _Member) -> Split:
    """What a held-out task is asked: its test set, or else its dev set.

    Raises:
        InputError: neither has answers.
    """
    for name in ("test", "dev"):
        if name in member.task.splits and member.task.split(name).labelled:
            return member.task.split(name)
    raise InputError(f"{member.place}: the held-out task {member.name} has neither a test nor a dev split with answers.")


def _watched(member: _Member, content: MixtureFile) -> Iterator[tuple[Watched, str]]:
    """A held-out task through each of its templates, all of the same examples; and a note on those that cannot be decided."""
    split = _held_split(member)
    count = len(split) if content.watch is None else min(content.watch, len(split))
    order = islice(draws([one.id for one in split], 1, seed=content.seed, name=f"watch/{member.name}"), count)
    chosen = [split.examples[i] for i, _ in order]
    for template in member.templates:
        name = member.name if len(member.templates) == 1 else f"{member.name}/{template.name}"
        every = [(example, asked) for example in chosen if (asked := member.asked(example, template)) is not None]
        unclear = [example for example, asked in every if not asked.decided]
        found = [(example, asked) for example, asked in every if asked.decided]
        if not found:
            why = f", {len(unclear)} since a wrong choice has the text of the right one" if unclear else ""
            raise InputError(f"{member.place}: the template {template.name!r} leaves out every example of {member.name}{why}.")
        choices = tuple(asked.choices for _, asked in found)
        watched = Watched(
            name=name,
            examples=tuple(_example(member, one, template, asked, id_=f"{name}/{one.id}") for one, asked in found),
            choices=choices if all(choices) else (),
            cluster=member.cluster,
        )
        yield watched, _unclear_note(name, unclear, len(every)) if unclear else ""


def _unclear_note(name: str, unclear: Sequence[Example], count: int) -> str:
    return (
        f"{name}, held out: {len(unclear)} of {count} examples are left out, for a wrong choice has the text of the right one "
        f"(the first is {unclear[0].place or unclear[0].id})"
    )


def _overlaps(train: Split, held: Sequence[_Member]) -> Iterator[str]:
    """Notes on held-out examples whose texts all stand in one input that is learned from."""
    inputs = [example.fields[INPUT] for example in train]
    for member in held:
        split = _held_split(member)
        shared = standing_in(inputs, split, member.task.text)
        if shared:
            yield (
                f"{member.name}, held out: {shared} of {len(split)} examples of {split.name} stand in what is learned from: "
                "scores on them mean less."
            )
