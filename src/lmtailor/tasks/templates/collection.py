"""Collections of templates in YAML, as promptsource keeps them: `templates:`, each with `name`, `jinja`, `answer_choices`.

The file is data: tags other than promptsource's own two are refused, and so are merge keys, which can make a table
larger than any memory; what an alias repeats is shared, not copied. A template that is not allowed does not spoil the
others; it is kept with its reason.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.templates.template import JinjaTemplate, TemplateError

_LARGEST = 4_000_000
"""Bytes of a file."""
_KEYS = ("name", "jinja", "answer_choices", "metadata", "id", "reference", "task_template")
"""What promptsource's files have; the last three have no meaning here."""


@dataclass(frozen=True, kw_only=True)
class TemplateCollection:
    """The templates of one file."""

    source: str
    templates: Mapping[str, JinjaTemplate]
    """Name → template, in the order of the file."""
    refused: Mapping[str, str]
    """Name → why it is not allowed."""

    def template(self, name: str) -> JinjaTemplate:
        """The template of this name.

        Raises:
            InputError: there is none, or it is not allowed.
        """
        if name in self.refused:
            raise TemplateError(self.refused[name])
        if name not in self.templates:
            raise InputError(f"{self.source} has no template {name!r}. {near(name, self.templates)}")
        return self.templates[name]


def read_templates(path: str | Path) -> TemplateCollection:
    """Read a file of templates.

    ```yaml
    templates:
      asked:
        jinja: "{{ sentence }} Is this review positive? ||| {{ answer_choices[label] }}"
        answer_choices: "No ||| Yes"
    ```

    Raises:
        InputError: no file, no YAML, other tags, merge keys, or a file without templates.
    """
    source = Path(path)
    text = read_text(source)
    if len(text) > _LARGEST:
        raise InputError(f"{source} has {len(text):,} characters; a file of templates has {_LARGEST:,} at most.")
    try:
        found = yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader, with two tags that are plain tables
    except yaml.YAMLError as error:
        raise InputError(f"{source} cannot be read as YAML: {' '.join(str(error).split())}.") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{source} cannot be read as YAML: {error}.") from None
    entries = found.get("templates") if isinstance(found, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{source} has no templates. Write them under `templates:`, each with a name and `jinja`.")
    templates: dict[str, JinjaTemplate] = {}
    refused: dict[str, str] = {}
    for key, entry in entries.items():
        name = _name(key, entry)
        if name in templates or name in refused:
            name = f"{name} ({key})"
        try:
            templates[name] = _template(name, entry, source)
        except TemplateError as error:
            refused[name] = str(error)
    return TemplateCollection(source=str(source), templates=templates, refused=refused)


def _name(key: object, entry: object) -> str:
    given = entry.get("name") if isinstance(entry, dict) else None
    return given if isinstance(given, str) and given.strip() else str(key)


def _template(name: str, entry: object, source: Path) -> JinjaTemplate:
    if not isinstance(entry, dict) or not isinstance(entry.get("jinja"), str):
        raise TemplateError(f"The template {name!r} in {source} has no text `jinja`.")
    unknown = next((key for key in entry if key not in _KEYS), None)
    if unknown is not None:
        raise TemplateError(f"The template {name!r} in {source} has an unknown key {unknown!r}. {near(str(unknown), _KEYS)}")
    metadata = entry.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise TemplateError(f"The metadata of the template {name!r} in {source} must be a table.")
    return JinjaTemplate(
        name=name,
        source=entry["jinja"],
        choices=_choices(name, entry.get("answer_choices"), source),
        metadata={str(key): value for key, value in metadata.items()},
    )


def _choices(name: str, value: object, source: Path) -> str | None:
    """The choices as Jinja; a list of texts, as older files have it, stands for these texts themselves."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) and "|||" not in one for one in value):
        return " ||| ".join("{{ '" + one.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "' }}" for one in value)
    raise TemplateError(
        f"The answer_choices of the template {name!r} in {source} must be one text or a list of texts. "
        "Quote words such as yes and no."
    )


class _Loader(yaml.SafeLoader):
    """YAML without merge keys, and without a key that stands twice."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "a table is needed here", node.start_mark)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not allowed", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _as_mapping(loader: _Loader, node: yaml.Node) -> dict[Hashable, Any]:
    """promptsource's own tags: tables like any other."""
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _as_mapping)
