"""Triples to be put into words: WebNLG's and DART's files, and the line that a model reads.

    subject : property : object | subject : property : object

as Prefix-Tuning (Li and Liang 2021, arXiv:2101.00190, section 5.1) and LoRA (Hu et al. 2021, arXiv:2106.09685, section 5.4)
put them. Their papers do not print it; it is that of their code, where DART's properties are in lower case. For
WebNLG that code writes " | " before the first triple too, for DART between triples only; here it is between triples.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.formats.whole_json import load_json
from lmtailor.tasks.table import Table

_GOOD = (None, "", "good")
"""What WebNLG remarks on texts that are kept; others are to be mended, and are left out as the papers' code does."""

Triple = tuple[str, str, str]


def linearised(triples: Sequence[Triple], *, lower: bool = False) -> str:
    """Triples in one line; see the module's docstring.

    Args:
        triples: subject, property and object.
        lower: whether properties are put in lower case.
    """
    return " | ".join(f"{one} : {name.lower() if lower else name} : {other}" for one, name, other in triples)


def read_webnlg(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a file of WebNLG 2017 (XML), or all `*.xml` of a folder and of those in it, by name: one row an entry.

    The columns are `triples` (the modified ones, in one line), `text` (a list of the texts for them, those remarked as good),
    `category`, `size` (how many triples) and `id`. Entries without a good text are left out.

    Raises:
        InputError: see `read_text`; a folder without XML files.
        DataError: see `read_text`; no XML, with the line; a document type (entities are not read), or an entry that is not
            WebNLG's, with its number.
    """
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path} has no XML files.")
    rows = [row for file in files for row in _entries(file, encoding)]
    names = ("triples", "text", "category", "size", "id")
    return Table(source=str(path), columns={name: [row[number] for row in rows] for number, name in enumerate(names)})


def _entries(path: Path, encoding: str) -> Iterator[tuple[object, ...]]:
    text = read_text(path, encoding)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path} declares a document type or entities, which WebNLG has not. They are not read.")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - entities, which could blow up, are refused above
    except (ElementTree.ParseError, ValueError) as error:
        line = f"line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else "it"
        raise DataError(f"{path}: {line} is no XML ({error}).") from error
    for number, entry in enumerate(root.iter("entry"), start=1):
        name = entry.get("eid") or str(number)
        triples = [_triple(path, name, one) for one in entry.iterfind("modifiedtripleset/mtriple")]
        if not triples:
            raise DataError(f"{path}: the entry {name} has no triples (modifiedtripleset). This is no WebNLG.")
        texts = [(lex.text or "").strip() for lex in entry.iterfind("lex") if lex.get("comment") in _GOOD]
        if texts and not all(texts):
            raise DataError(f"{path}: the entry {name} has an empty text (lex). Fill it in, or remove it.")
        if texts:
            yield linearised(triples), texts, entry.get("category"), len(triples), f"{path.stem}/{name}"


def _triple(path: Path, name: str, element: Element) -> Triple:
    parts = [part.strip() for part in (element.text or "").split(" | ")]
    if len(parts) != 3 or not all(parts):
        raise DataError(f"{path}: the entry {name} has the triple {element.text!r}. Write subject | property | object.")
    return parts[0], parts[1], parts[2]


def read_dart(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a file of DART (JSON; Nan et al. 2021, arXiv:2007.02871): one row a set of triples.

    The columns are `triples` (in one line, properties in lower case), `text` (a list of the texts for them), `source` (where the
    first text is from) and `size` (how many triples).

    Raises:
        InputError, DataError: see `load_json`; something else than DART's list, with the number of the set.
    """
    held = load_json(path, encoding=encoding)
    if not isinstance(held, list):
        raise DataError(f"{path} is no DART: it must be a list of objects with a tripleset and annotations.")
    rows = [_triple_set(path, number, one) for number, one in enumerate(held, start=1)]
    names = ("triples", "text", "source", "size")
    return Table(source=str(path), columns={name: [row[number] for row in rows] for number, name in enumerate(names)})


def _triple_set(path: Path, number: int, held: object) -> tuple[object, ...]:
    triples = held.get("tripleset") if isinstance(held, Mapping) else None
    notes = held.get("annotations") if isinstance(held, Mapping) else None
    if not isinstance(triples, list) or not triples or not isinstance(notes, list) or not notes:
        raise DataError(f"{path}: set {number} has no triples (tripleset) or no texts (annotations). This is no DART.")
    checked: list[Triple] = []
    for triple in triples:
        if not isinstance(triple, list) or len(triple) != 3 or not all(isinstance(part, str) and part.strip() for part in triple):
            raise DataError(f"{path}: set {number} has the triple {triple!r}. A triple is a list of three texts.")
        checked.append((triple[0], triple[1], triple[2]))
    texts = [note.get("text") if isinstance(note, Mapping) else None for note in notes]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f'{path}: set {number} has an annotation without a "text". This is no DART.')
    return linearised(checked, lower=True), texts, notes[0].get("source"), len(checked)
