"""LoRA on a task whose answers are written: E2E, beside a plain PEFT loop and TRL's SFTTrainer with completion-only loss.

All sides learn from the same token ids in as many steps, from the same start, by the same optimizer. A round is a whole fit: ours
is all of `lt.fit`; the others' tokens are made before their clock starts. Peers batch in a shuffled order, as they do by
themselves; PEFT's loop is also run on the very batches of ours, on which the losses of all steps are compared.

With --references all, an example is a meaning with all its references. Memory is that of fits of two batches in processes of
their own.
"""

import argparse
import copy
import csv
import functools
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, get_peft_model

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.compare.memory import give_back
from lmtailor.fit.batching import epoch_batches, grouped_batches
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.optim import learning_rate
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.batch import Encoded
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.task import Task

READOUT = lt.Text("Data: {mr}\nText:")
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is learned from, and how."""

    task: Task
    items: list[Encoded]
    training: lt.Training
    """Resolved, without sharing."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)

    @property
    def shuffled(self) -> list[list[int]]:
        """Batches in any order, as loops make them by themselves."""
        order = torch.randperm(len(self.items), generator=torch.Generator().manual_seed(SEED)).tolist()
        size = self.training.batch_size
        return [order[i : i + size] for i in range(0, len(order), size)]

    @property
    def bucketed(self) -> list[list[int]]:
        """The batches of our fit."""
        return epoch_batches([item.length for item in self.items], self.training.batch_size, SEED, 0)

    @property
    def grouped(self) -> list[list[int]]:
        """The batches of our fit with shared inputs."""
        lengths = [item.length for item in self.items]
        return grouped_batches([item.id for item in self.items], lengths, self.training.batch_size, SEED, 0)


class Losses(Callback):
    """Keeps the losses of a fit."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def started(self, event: Started) -> None:
        """Nothing."""

    def stepped(self, event: Stepped) -> None:
        """One more."""
        self.losses.append(event.loss)

    def evaluated(self, event: Evaluated) -> None:
        """Nothing."""

    def ended(self, event: Ended) -> None:
        """Nothing."""


def read(path: Path, examples: int, *, all_references: bool) -> Task:
    """A task of so many references: each of another meaning, as far as there are, or whole meanings."""
    with (path / "devset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if all_references:
        by_meaning: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            by_meaning.setdefault(row["mr"], []).append(row)
        meanings = random.Random(SEED).sample(sorted(by_meaning), len(by_meaning))  # noqa: S311
        rows = [row for meaning in meanings for row in by_meaning[meaning]]
    else:
        random.Random(SEED).shuffle(rows)  # noqa: S311
    return Task.from_records(train=rows[:examples], kind="generation", text="mr", label="ref")


def started(base: Base, task: Task) -> Adapter:
    """The adapter that every side begins with."""
    return lt.new_adapter(base, method=LoRA(), readout=READOUT, task=task, seed=SEED)


def ours(base: Base, work: Work, **settings: object) -> list[float]:
    """One fit; its losses."""
    kept = Losses()
    training = lt.Training(**{**_settings(work.training.batch_size), **settings})  # type: ignore[arg-type]
    lt.fit(base, work.task, method=LoRA(), readout=READOUT, training=training, seed=SEED, callbacks=[kept])
    return kept.losses


def _settings(batch_size: int) -> dict[str, object]:
    return {"epochs": 1, "batch_size": batch_size, "keep": "last"}


def rows_of(items: Sequence[Encoded]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels as other loops take them."""
    out = []
    for item in items:
        ids = [*item.sequences[0], item.targets[0][-1]]
        out.append((ids, [-100] * (len(ids) - item.units) + ids[-item.units :]))
    return out


def peft_model(base: Base, start: Adapter, *, copied: bool = True) -> torch.nn.Module:
    """PEFT's model of the same weights and start; without a copy it is the base's own, which then is PEFT's alone."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base.model) if copied else base.model, config)
    reset(model, start)
    return model


def reset(model: torch.nn.Module, start: Adapter) -> None:
    """Put the start into a PEFT model, whose parameters are in the same order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, tensor in zip(trained, start.state.values(), strict=True):
            parameter.copy_(tensor)


def peft_loop(
    model: torch.nn.Module, rows: Sequence[tuple[list[int], list[int]]], batches: list[list[int]], work: Work
) -> list[float]:
    """The loop that PEFT's documents show; its losses."""
    training, losses = work.training, []
    tensors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(tensors, lr=training.lr or 0.0, weight_decay=training.weight_decay or 0.0)
    model.train()
    for step, batch in enumerate(batches):
        longest = max(len(rows[i][0]) for i in batch)
        ids = torch.tensor([rows[i][0] + [0] * (longest - len(rows[i][0])) for i in batch])
        labels = torch.tensor([rows[i][1] + [-100] * (longest - len(rows[i][1])) for i in batch])
        mask = torch.tensor([[1] * len(rows[i][0]) + [0] * (longest - len(rows[i][0])) for i in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tensors, training.clip or 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), training)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def trl_fit(
    model: torch.nn.Module, rows: Sequence[tuple[list[int], list[int]]], batches: list[list[int]], work: Work, base: Base
) -> Callable[[], list[float]]:
    """TRL's trainer, ready to run; the run gives its losses. Checkpointing is off, which is its faster way."""
    from datasets import Dataset  # only where it is there
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    losses: list[float] = []

    class Kept(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: object, **kwargs: object) -> object:
            out = super().compute_loss(*args, **kwargs)
            losses.append(float((out[0] if isinstance(out, tuple) else out).detach()))
            return out

    training = work.training
    flat = [rows[i] for batch in batches for i in batch]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=training.batch_size,
        num_train_epochs=1,
        learning_rate=training.lr,
        weight_decay=training.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=round((training.warmup or 0.0) * len(batches)),
        max_grad_norm=training.clip,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=SEED,
    )
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in flat], "labels": [labels for _, labels in flat]})
    trainer = Kept(model=model, args=config, train_dataset=data, processing_class=base.tokenizer)
    trainer.remove_callback(PrinterCallback)

    def run() -> list[float]:
        trainer.train()
        return losses

    return run


def farthest(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two runs of losses."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def make_work(base: Base, arguments: argparse.Namespace) -> Work:
    """The task, its items, and the settings that all sides share."""
    task = read(Path(arguments.data), arguments.examples, all_references=arguments.references == "all")
    reading = started(base, task).reading
    assert reading is not None
    items = [item for example in task.split("train") for item in reading.items(example)]
    training = lt.Training(**_settings(arguments.batch)).resolved(LoRA.recipe)  # type: ignore[arg-type]
    return Work(task=task, items=items, training=training)


def sides(arguments: argparse.Namespace) -> dict[str, Callable[[], list[float]]]:
    """What runs in each round: name → a whole fit, which gives its losses."""
    base = lt.load_base(arguments.model)
    work = make_work(base, arguments)
    start, rows = started(base, work.task), rows_of(work.items)
    model = peft_model(base, start)
    rounded = functools.cache(lambda: lt.load_base(arguments.model, dtype="bfloat16"))

    def theirs(batches: list[list[int]]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            reset(model, start)
            return peft_loop(model, rows, batches, work)

        return run

    def trl(batches: list[list[int]]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            reset(model, start)
            return trl_fit(model, rows, batches, work, base)()

        return run

    share = arguments.references == "all"
    own = work.grouped if share else work.bucketed
    chosen: dict[str, Callable[[], list[float]]] = {"PEFT loop": theirs(work.shuffled)}
    if importlib.util.find_spec("trl") is not None:
        chosen["TRL SFTTrainer"] = trl(work.shuffled)
    chosen["PEFT loop, our batches"] = theirs(own)
    chosen["ours"] = lambda: ours(base, work)
    if share:
        chosen["ours, shared inputs"] = lambda: ours(base, work, share_inputs=True)
    chosen["ours, bfloat16 trunk"] = lambda: ours(rounded(), work, share_inputs=share)
    chosen["ours, autocast"] = lambda: ours(base, work, share_inputs=share, precision="bfloat16")
    chosen["ours, lean"] = lambda: ours(base, work, share_inputs=share, checkpointing=True)
    wanted = arguments.only or list(chosen)
    unknown = [name for name in wanted if name not in chosen]
    if unknown:
        raise SystemExit(f"There is no side {unknown[0]!r}. There are: {', '.join(chosen)}.")
    return {name: chosen[name] for name in wanted}


def timed(
    calls: Mapping[str, Callable[[], list[float]]], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median seconds of each side over alternating rounds, and its losses."""
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            losses[name] = call()
            seconds[name].append(clock() - began)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}, losses


def warm_up(arguments: argparse.Namespace) -> None:
    """Run each side once, on at most 40 references."""
    few = argparse.Namespace(**{**vars(arguments), "examples": min(arguments.examples, 40)})
    for call in sides(few).values():
        call()


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def memory_of(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """The largest memory above that of the loaded base (MB), of one side in a process of its own, over two batches."""
    command = [
        sys.executable,
        __file__,
        arguments.model,
        arguments.data,
        "--measure",
        name,
        "--examples",
        str(min(arguments.examples, 2 * arguments.batch)),
    ]
    command += ["--batch", str(arguments.batch), "--references", arguments.references, "--threads", str(arguments.threads)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - this script itself
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace) -> None:
    """Run one side alone, watching memory every 2 ms; print what it took above the loaded base."""
    call: Callable[[], list[float]]
    base = lt.load_base(arguments.model, dtype="bfloat16" if "trunk" in arguments.measure else "float32")
    work = make_work(base, arguments)
    share = arguments.references == "all"
    if "loop" in arguments.measure or "TRL" in arguments.measure:
        model, rows = peft_model(base, started(base, work.task), copied=False), rows_of(work.items)
        batches = work.shuffled
        call = functools.partial(peft_loop, model, rows, batches, work)
        if "TRL" in arguments.measure:
            call = trl_fit(model, rows, batches, work, base)
    else:
        settings = {"checkpointing": "lean" in arguments.measure, "share_inputs": share and arguments.measure != "ours"}
        precision = "bfloat16" if "autocast" in arguments.measure else "float32"
        call = functools.partial(ours, base, work, precision=precision, **settings)
    # Weights come into memory when they are first read.
    assert all(bool(parameter.sum().isfinite()) for parameter in base.model.parameters())
    give_back()
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    call()
    done.set()
    watcher.join()
    print(json.dumps({"base": before / 1e6, "peak": (peak[0] - before) / 1e6}))


def report(arguments: argparse.Namespace) -> None:
    """Print a table."""
    began = time.perf_counter()
    warm_up(arguments)
    calls = sides(arguments)
    seconds, losses = timed(calls, arguments.rounds, time.process_time if arguments.cpu_time else time.perf_counter)
    first = seconds.get("PEFT loop")
    print(f"{arguments.examples} references, batch {arguments.batch}, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'side':28}{'s':>8}{'PEFT / it':>11}{'TRL / it':>10}{'peak MB above base':>20}{'of PEFT':>9}")
    peaks = (
        {} if arguments.no_memory else {name: memory_of(name, arguments)["peak"] for name in calls if "our batches" not in name}
    )
    for name, own in seconds.items():
        line = f"{name:28}{own:8.2f}{first / own if first else float('nan'):11.2f}"
        line += f"{seconds['TRL SFTTrainer'] / own:10.2f}" if "TRL SFTTrainer" in seconds else f"{'-':>10}"
        if name in peaks:
            line += f"{peaks[name]:20.0f}" + (f"{peaks[name] / peaks['PEFT loop']:9.2f}" if "PEFT loop" in peaks else "")
        print(line)
    pairs = [
        ("PEFT loop, our batches", "ours, shared inputs" if arguments.references == "all" else "ours"),
        ("TRL SFTTrainer", "PEFT loop"),
    ]
    for one, other in pairs:
        if one in losses and other in losses:
            print(f"largest difference of a step's loss, {one} and {other}: {farthest(losses[one], losses[other]):.1e}")
    print(f"losses of {', '.join(f'{name}: {own[0]:.4f} to {own[-1]:.4f}' for name, own in losses.items())}")
    print(f"in {time.perf_counter() - began:.0f} s")


def main() -> None:
    """Measure all sides, or one side's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a causal model whose projections are q_proj and v_proj, such as SmolLM2-135M")
    parser.add_argument("data", help="a folder with E2E's devset.csv")
    parser.add_argument("--examples", type=int, default=40, help="references to learn from")
    parser.add_argument("--references", choices=["one", "all"], default="one", help="a meaning's, in the same batches")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="a side to run; several may be named, in the order to run in")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, on a machine that others use")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        measure(arguments)
    else:
        report(arguments)


if __name__ == "__main__":
    main()
