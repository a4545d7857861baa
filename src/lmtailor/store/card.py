"""The model card of an adapter: `README.md`, for people."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lmtailor.core.settings import to_mapping
from lmtailor.methods import method_name
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.form import PeftForm

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(adapter: Adapter, peft: PeftForm | None, reason: str) -> str:
    """The card's text.

    Args:
        adapter: what is stored.
        peft: its form for PEFT, if the folder has one.
        reason: why PEFT cannot read the folder, or not all of it; "" if it can.
    """
    parts = [
        _front(adapter, peft),
        f"# {_title(adapter)}",
        _summary(adapter),
        "## Scores",
        _scores(adapter),
        "## Use",
        _use(adapter),
        "## In PEFT",
        f"PEFT cannot load this folder: {_line(reason)}" if peft is None else _peft(adapter, peft, reason),
        "## How it was made",
        _settings("Method", to_mapping(adapter.method)),
    ]
    if adapter.readout is not None:
        parts.append(_settings("Readout", to_mapping(adapter.readout)))
    if adapter.provenance:
        parts.append(_settings("Provenance", dict(adapter.provenance)))
    return "\n\n".join(parts) + "\n"


def _front(adapter: Adapter, peft: PeftForm | None) -> str:
    lines = ["---", f"library_name: {'lmtailor' if peft is None else 'peft'}"]
    if _HUB_ID.fullmatch(adapter.base_source):
        lines.append(f"base_model: {json.dumps(adapter.base_source)}")
    return "\n".join([*lines, "tags:", "- lmtailor", f"- {method_name(adapter.method)}", "---"])


def _title(adapter: Adapter) -> str:
    readout = "" if adapter.readout is None else f" with {type(adapter.readout).__name__}"
    return f"{type(adapter.method).__name__}{readout} for {_line(adapter.base_source) or 'a language model'}"


def _summary(adapter: Adapter) -> str:
    family = "" if adapter.outline is None else f" ({adapter.outline.family})"
    rows = [
        ("Base", f"{_line(adapter.base_source) or 'unnamed'}{family}"),
        ("Base's fingerprint", f"`{adapter.base_fingerprint}`"),
        ("Method", type(adapter.method).__name__),
        ("Trained numbers", f"{adapter.num_parameters:,}"),
    ]
    if adapter.reading is not None:
        kind = adapter.reading.kind
        rows.append(("Task", kind if not adapter.labels else f"{kind}: {', '.join(map(_line, adapter.labels))}"))
        rows.append(("Columns", ", ".join(map(_line, adapter.reading.label_set.texts))))
    return _table(("", ""), rows)


def _scores(adapter: Adapter) -> str:
    rows = [
        (_line(split), score.metric, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", f"{score.n:,}")
        for split, scores in adapter.scores.items()
        for score in scores.values()
    ]
    if not rows:
        return "It was not measured when it was saved."
    return _table(("Split", "Metric", "Value", "95 % interval (bootstrap)", "n"), rows)


def _use(adapter: Adapter) -> str:
    source = json.dumps(adapter.base_source or "BASE", ensure_ascii=False)
    if adapter.reading is None:
        act = 'with lt.attach(base, adapter):\n    base.model(**base.tokenizer("a text", return_tensors="pt"))'
    else:
        example = '"a text"' if len(adapter.reading.label_set.texts) == 1 else '("a text", "another text")'
        act = f"lt.predict(base, adapter, [{example}])"
    python = f'import lmtailor as lt\n\nbase = lt.load_base({source})\nadapter = lt.load_adapter("this folder", base)\n{act}'
    shell = "" if adapter.reading is None else "\n\nOn the command line, `lmtailor predict --help` says how."
    return f"```python\n{python}\n```{shell}"


def _peft(adapter: Adapter, form: PeftForm, reason: str) -> str:
    classes = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM"}
    extra = ""
    if form.task == "SEQ_CLS":
        name, extra = "AutoModelForSequenceClassification", f", num_labels={max(len(adapter.labels), 1)}"
    elif form.task in classes:
        name = classes[form.task]
    else:
        name = "AutoModel" if adapter.outline is None or not adapter.outline.has_lm_head else "AutoModelForMaskedLM"
    code = (
        f"from peft import PeftModel\nfrom transformers import {name}\n\n"
        f'model = PeftModel.from_pretrained({name}.from_pretrained({_source(adapter)}{extra}), "this folder")'
    )
    notes = [_line(reason)] if reason else []
    if form.task == "SEQ_CLS" and adapter.outline is not None and adapter.outline.kind == "decoder":
        notes.append("Set the model's `config.pad_token_id` to the tokenizer's before batches of several texts.")
        if form.config["peft_type"] == "PROMPT_TUNING":
            notes.append("PEFT then reads the last position whatever it is, so texts of a batch must be of one length.")
    return "\n\n".join([f"```python\n{code}\n```", *notes])


def _source(adapter: Adapter) -> str:
    """What transformers loads the base from, as arguments."""
    place, extra = adapter.base_source or "BASE", ""
    if place.endswith(".gguf"):
        path = PurePath(place)
        place, extra = str(path.parent), f", gguf_file={json.dumps(path.name, ensure_ascii=False)}"
    return json.dumps(place, ensure_ascii=False) + extra


def _settings(title: str, values: Mapping[str, Any]) -> str:
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"### {title}\n\n{fence}json\n{text}\n{fence}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _line(text: str) -> str:
    """Text of others on one line, without marks that would open HTML or code."""
    return " ".join(text.split()).replace("<", "&lt;").replace("`", "'")
