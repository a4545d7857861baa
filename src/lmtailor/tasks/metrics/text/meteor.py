"""METEOR 1.5, by its own Java program. Denkowski & Lavie 2014.

The program and its tables come with the package pycocoevalcap; only its files are used. It aligns words (equal, of one stem,
synonyms, paraphrases) and answers with counts for each example; from their sums the score is made here, so that bootstrap samples
need no second run. Texts are cut into words as coco-caption cuts them before it asks for METEOR.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import IO

import numpy as np

from lmtailor.core.errors import UnsupportedError
from lmtailor.tasks.metrics.text.metric import Floats, References, TextMetric
from lmtailor.tasks.metrics.text.treebank import words

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Weights of precision, of fragments (power and factor), and of content words. Table 3, English, task "rank"."""

STAGES = np.array([1.0, 0.6, 0.8, 0.6])
"""Weights of matches: equal, stem, synonym, paraphrase."""

_PACKAGE = "pycocoevalcap"
_COUNTS = 23


def meteor_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example what the program counts against the best reference.

    Words, words of the reference; function words of each; for each stage (4) matched content words of both and matched function
    words of both; fragments; matched words of both. 23 numbers. Where all words match in order there is no fragment, in the
    program's sums too.

    Raises:
        UnsupportedError: no Java, or no package with the program; or the program fails.
    """
    with _program() as ask:
        for prediction, own in zip(predictions, references, strict=True):
            yield whole(ask(_line(prediction), [_line(reference) for reference in own]))


def whole(counts: Sequence[float]) -> Sequence[float]:
    """The counts, without the one fragment of an example that is its reference."""
    *rest, fragments, matched, matched_reference = counts
    same = fragments == 1 and [matched, matched_reference] == rest[:2]
    return (*rest, 0.0 if same else fragments, matched, matched_reference)


def meteor_value(sums_BK: Floats) -> Floats:
    """The score of counts (B,): weighted F of weighted matches, less a penalty for fragments. Section 2."""
    lengths_B2, functions_B2 = sums_BK[:, 0:2], sums_BK[:, 2:4]
    stages_B44 = sums_BK[:, 4:20].reshape(-1, 4, 4)
    fragments_B, matched_B2 = sums_BK[:, 20], sums_BK[:, 21:23]
    content_B2, function_B2 = (np.einsum("bsw,s->bw", stages_B44[:, :, part], STAGES) for part in (slice(0, 2), slice(2, 4)))
    weight_B2 = DELTA * (lengths_B2 - functions_B2) + (1 - DELTA) * functions_B2
    precision_B, recall_B = _ratio(DELTA * content_B2 + (1 - DELTA) * function_B2, weight_B2).T
    f_B = _ratio(precision_B * recall_B, ALPHA * precision_B + (1 - ALPHA) * recall_B)
    penalty_B = GAMMA * _ratio(fragments_B, matched_B2.mean(axis=1)) ** BETA
    values: Floats = f_B * (1 - penalty_B)
    return values


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _line(text: str) -> str:
    """A text as the program's protocol takes it."""
    return " ".join(words(text)).replace("|||", " ")


@contextmanager
def _program() -> Iterator[Callable[[str, Sequence[str]], Sequence[float]]]:
    """The running program, as a function of a prediction and its references."""
    java, jar = which("java"), _jar()
    if java is None:
        raise UnsupportedError(
            "meteor runs METEOR 1.5, which needs Java, and there is no `java` on the PATH. Install a Java runtime."
        )
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - a fixed command, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8"
        )
        try:
            yield lambda prediction, references: _ask(process, said, prediction, references)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # what it was not told any more
                process.communicate()


def _ask(process: subprocess.Popen[str], said: IO[bytes], prediction: str, references: Sequence[str]) -> Sequence[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it has ended; the empty answer says so
        process.stdin.write(" ||| ".join(("SCORE", *references, prediction)) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    try:
        counts = [float(number) for number in answer.split()]
    except ValueError:
        counts = []
    if len(counts) != _COUNTS:
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip().splitlines()
        why = answer.strip() or (last[-1] if last else "it ended")
        raise UnsupportedError(f"METEOR failed: {why}. It needs Java 8 or newer and 2 GB of memory.")
    return counts


def _jar() -> Path:
    found = find_spec(_PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    for folder in folders:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise UnsupportedError(
        f"meteor runs METEOR 1.5 from the package {_PACKAGE}, which is not here: pip install 'lmtailor[meteor]'."
    )


METRICS = (
    TextMetric(
        name="meteor",
        about="METEOR 1.5, by its own program; needs Java and the extra `meteor`.",
        rows=meteor_rows,
        value=meteor_value,
    ),
)
