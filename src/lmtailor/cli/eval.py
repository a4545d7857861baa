"""`lmtailor eval`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli.options import MachineOptions, ReadoutOptions, Settings, TaskOptions, WritingOptions
from lmtailor.core.errors import InputError

OUTPUTS = Group("Texts of any system", sort_key=0)


@Parameter(name="*", group=OUTPUTS)
@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Texts that are scored as they are, without a model."""

    predictions: Path | None = None
    """File of texts to score, one a line; or JSON Lines with "prediction" and "references". --metric names bleu, nist,
    coco_rouge_l, cider (these four if none is given), meteor, rouge_1, rouge_2, rouge_l, exact_match, answer_f1, span_f1,
    tag_accuracy, distinct_1 or distinct_2."""
    references: Path | None = None
    """File of texts to compare with: blocks of lines with a blank line between, one a line, or JSON Lines with "references"."""


_TASK, _ANSWER, _WRITING, _MACHINE, _TEXTS = TaskOptions(), ReadoutOptions(), WritingOptions(), MachineOptions(), TextOptions()


def run(  # noqa: PLR0913 - every argument is an option
    base: str | None = None,
    adapter: Path | None = None,
    /,
    *,
    split: tuple[str, ...] = ("test",),
    settings: Settings = (),
    batch_size: PositiveInt = 32,
    seed: int = 0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    any_base: bool = False,
    data: TaskOptions = _TASK,
    answer: ReadoutOptions = _ANSWER,
    writing: WritingOptions = _WRITING,
    machine: MachineOptions = _MACHINE,
    texts: TextOptions = _TEXTS,
) -> None:
    """Score an adapter, or a readout that needs no training, on labelled data; or any system's texts against references.

    Each score has the number of examples and a bootstrap interval of 95 %.

    ```
    lmtailor eval MODEL adapters/mine --task card.toml --split test
    lmtailor eval MODEL --task card.toml --readout verbalizer --set readout.demonstrations.k=8
    lmtailor eval MODEL adapters/e2e --task e2e.toml --beams 5 --max-new-tokens 80
    lmtailor eval --predictions outputs.txt --references references.txt --metric bleu --metric meteor
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter. Without it the base itself is asked, by a readout.
        split: Split to score, also an out-of-domain set; may be repeated.
        settings: KEY=VALUE: a setting of the readout or the card, such as aggregate=max or task.limits.test=500.
        batch_size: Examples in a batch.
        seed: Of the bootstrap, and of what a readout or --temperature draws.
        as_json: Write one JSON object.
        any_base: Take this base although the adapter was made for another.
        data: What the task is.
        answer: How the base answers.
        writing: How it writes, where answers are written.
        machine: How it is loaded.
        texts: Texts that are scored as they are.
    """
    if texts != _TEXTS:
        others = (base, adapter, split, settings, batch_size, any_base, answer, writing, machine)
        if others != (None, None, ("test",), (), 32, False, _ANSWER, _WRITING, _MACHINE):
            raise InputError(
                "Texts are scored without a model. Beside --predictions give --references, --metric, --json and --seed."
            )
        _score_texts(texts, data, seed=seed, as_json=as_json)
    elif base is None:
        raise InputError("There is nothing to score. Name a base, or give texts with --predictions.")
    else:
        wish = _Wish(
            split=split, settings=settings, batch_size=batch_size, seed=seed, as_json=as_json, any_base=any_base, writing=writing
        )
        _score_model(base, adapter, wish, data, answer, machine)


def _score_texts(texts: TextOptions, data: TaskOptions, *, seed: int, as_json: bool) -> None:
    """Score texts that are in files.

    Raises:
        InputError: options of a task besides metrics and the encoding; see `score_outputs`.
    """
    from lmtailor.cli import outputs

    if replace(data, metric=(), encoding=None) != _TASK:
        raise InputError("Texts are scored without a task. Of its options only --metric and --encoding play a part.")
    if texts.predictions is None:
        raise InputError("--references are compared with --predictions. Give both.")
    outputs.score_outputs(
        texts.predictions, texts.references, data.metric, encoding=data.encoding or "utf-8", seed=seed, as_json=as_json
    )


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is asked of a model, and how it is answered."""

    split: tuple[str, ...]
    settings: tuple[str, ...]
    batch_size: int
    seed: int
    as_json: bool
    any_base: bool
    writing: WritingOptions


def _score_model(
    base: str, adapter: Path | None, wish: _Wish, data: TaskOptions, answer: ReadoutOptions, machine: MachineOptions
) -> None:
    """Score a model on the splits of a task."""
    from lmtailor.cli import answering, choices, results
    from lmtailor.infer.evaluate import plain_adapter

    if adapter is not None and (answer != _ANSWER or any(not text.startswith(choices.TASK) for text in wish.settings)):
        raise InputError(f"The adapter {adapter} has a readout of its own. Leave it out, or the readout and its settings.")
    task = choices.the_task(data, wish.settings, seed=wish.seed)
    decoding = answering.the_decoding(wish.writing, wish.seed, task)
    splits = list(map(task.split, wish.split))
    readout = choices.the_readout(task, answer, wish.settings) if adapter is None else None
    loaded = choices.the_base(base, machine)
    if adapter is None:
        assert readout is not None
        asked = plain_adapter(loaded, task, readout, seed=wish.seed)
    else:
        asked = choices.the_adapter(adapter, loaded, any_base=wish.any_base)
    scores = {}
    for own in splits:
        scores[own.name] = results.score_split(
            loaded, task, asked, own.name, batch_size=wish.batch_size, seed=wish.seed, decoding=decoding
        )
    if wish.as_json:
        results.write_scores(scores, {"base": base, "adapter": str(adapter) if adapter else None, "task": task.name})
    else:
        results.show_scores(scores)
