"""Files of mixtures, with those that they include, and the templates that they name.

mixing = { scheme = "proportional", cap = 3000 }   # or t0, temperature, equal; see `mixing`
hold_out = ["nli"]                     # clusters, or names of tasks, that are evaluated and never learned from
include = ["more.toml"]                # mixtures whose tasks and templates are here too

[[tasks]]
card = "sst2.toml"                     # from the file's folder
cluster = "sentiment"
templates = ["reviews"]                # lists of templates; without it the card's own patterns
set = ["limits.train=1000"]            # settings of the card

[templates.reviews]
file = "sst2.yaml"                     # promptsource's Jinja; all of it, or those that `use` names
use = ["asked", "told"]
include = ["general"]                  # other lists, whose templates are in this one too
[[templates.reviews.patterns]]
text = "{sentence} It was {mask}."
words = { negative = ["bad"], positive = ["good"] }

The keys of the whole mixture (mixing, hold_out, examples, dev, watch, longest, seed, name) are those of the file that is loaded;
of an included one the tasks and templates are taken.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import apply_overrides, from_mapping
from lmtailor.tasks.card import Pattern
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.mixing import Mixing


@dataclass(frozen=True, kw_only=True)
class TemplateList:
    """A table `[templates.NAME]`."""

    file: str | None = None
    """Templates in Jinja, from the mixture's folder."""
    use: tuple[str, ...] | None = None
    """Names of templates of the file; None: all that are allowed."""
    patterns: tuple[Pattern, ...] = ()
    include: tuple[str, ...] = ()
    """Names of other lists."""

    def __post_init__(self) -> None:
        if self.use is not None and self.file is None:
            raise InputError("use names templates of a file; give the file.")
        if self.file is None and not self.patterns and not self.include:
            raise InputError("A list of templates has a file, patterns, or lists that it includes; found none of them.")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A table of `[[tasks]]`."""

    card: str
    """Path of the task's card, from the mixture's folder."""
    name: str | None = None
    """None: the card's name."""
    cluster: str = ""
    """Of tasks that are alike."""
    templates: tuple[str, ...] = ()
    """Names of lists of templates; none: the card's own patterns."""
    set: tuple[str, ...] = ()
    """Settings of the card as key=value."""


@dataclass(frozen=True, kw_only=True)
class MixtureFile:
    """A whole file; see the module's docstring."""

    tasks: tuple[Entry, ...] = ()
    templates: Mapping[str, TemplateList] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    """Other mixtures, from the file's folder."""
    mixing: Mixing = field(default_factory=Mixing)
    hold_out: tuple[str, ...] = ()
    """Clusters or names of tasks."""
    examples: int | None = None
    """Training examples of the mixture; None: as many as its tasks have, each counted up to the cap."""
    dev: int = 50
    """Dev examples of each task in training, which choose checkpoints; 0: none."""
    watch: int | None = 200
    """Examples of each held-out task that are asked as training goes, by each of its templates; None: all."""
    longest: int | None = None
    """Words that a column keeps; None: all."""
    seed: int = 0
    name: str | None = None
    """None: the file's name without its suffix."""

    def __post_init__(self) -> None:
        for key, least in (("examples", 1), ("dev", 0), ("watch", 1), ("longest", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise InputError(f"{key} must be at least {least}; found {value}.")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that was read."""

    path: Path
    text: str
    content: MixtureFile

    def at(self, *marks: str) -> str:
        """The file and the line of the last of some texts, each looked for behind the one before it."""
        place = 0
        for mark in marks:
            place = max(place, self.text.find(mark, place))
        return f"{self.path}, line {self.text.count(chr(10), 0, place) + 1}"


def read_mixture(path: Path, overrides: Iterable[str] = ()) -> tuple[Source, ...]:
    """A file and all that it includes, itself first.

    Args:
        path: the file.
        overrides: settings of this file as key=value.

    Raises:
        InputError: no file, no TOML, unknown keys, or a file that includes itself.
    """
    found: dict[Path, Source] = {}
    _read(path, tuple(overrides), (), found)
    return tuple(found.values())


def _read(path: Path, overrides: tuple[str, ...], above: tuple[Source, ...], found: dict[Path, Source]) -> None:
    known = path.resolve()
    chain = [source.path.resolve() for source in above]
    if known in chain:
        names = " → ".join(one.path.name for one in (*above[chain.index(known) :], found[known]))
        place = above[-1].at("include", f'"{_included(above[-1], known)}"')
        raise InputError(f"{place}: the mixture includes itself: {names}. Leave one of them out.")
    if known in found:
        return
    text = read_text(path)
    try:
        values: Mapping[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}.") from error
    if overrides:
        values = apply_overrides(values, overrides, known={"": MixtureFile})
    source = Source(path=path, text=text, content=from_mapping(MixtureFile, values, source=str(path)))
    found[known] = source
    for other in source.content.include:
        if not (path.parent / other).is_file():
            raise InputError(f"{source.at('include', other)}: there is no mixture {path.parent / other}.")
        _read(path.parent / other, (), (*above, source), found)


def _included(source: Source, known: Path) -> str:
    """As a file writes the path of another."""
    return next(other for other in source.content.include if (source.path.parent / other).resolve() == known)


class Lists:
    """All lists of templates of some files, by name."""

    def __init__(self, sources: Iterable[Source]) -> None:
        """Gather them.

        Raises:
            InputError: two files have one of the same name.
        """
        self._lists: dict[str, tuple[Source, TemplateList]] = {}
        for source in sources:
            for name, own in source.content.templates.items():
                if name in self._lists:
                    other = self._lists[name][0].path
                    raise InputError(f"{source.at(f'templates.{name}')}: the list {name!r} is in {other} too. Rename one.")
                self._lists[name] = source, own

    def of(self, source: Source, entry: Entry) -> Iterator[tuple[Source, str, TemplateList]]:
        """The lists of a task, each once, with those that they include.

        Raises:
            InputError: there is no such list, or one includes itself.
        """
        seen: dict[str, None] = {}
        for name in entry.templates:
            self._gather(name, source, ("[[tasks]]", entry.card, "templates"), (), seen)
        for name in seen:
            home, own = self._lists[name]
            yield home, name, own

    def _gather(self, name: str, asking: Source, marks: tuple[str, ...], above: tuple[str, ...], seen: dict[str, None]) -> None:
        if name not in self._lists:
            raise InputError(f"{asking.at(*marks, name)}: there is no list of templates {name!r}. {near(name, self._lists)}")
        if name in above:
            names = " → ".join((*above[above.index(name) :], name))
            raise InputError(f"{asking.at(*marks, name)}: the list of templates includes itself: {names}. Leave one of them out.")
        source, own = self._lists[name]
        if name in seen:
            return
        for other in own.include:
            header = re.search(rf"\[templates\.[\"']?{re.escape(name)}[\"']?\]", source.text)
            marks = (header.group() if header else name, "include")
            self._gather(other, source, marks, (*above, name), seen)
        seen[name] = None
