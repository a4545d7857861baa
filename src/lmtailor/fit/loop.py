"""The one training loop.

Order and dropout are functions of (seed, epoch) and (seed, step), so that a resumed fit repeats them.
Shapes: B examples, C labels.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.core.rng import derive
from lmtailor.edits.attach import Attached, attach
from lmtailor.fit.batching import epoch_batches, steps_in
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.checkpoint import Checkpoint, Identity, Progress, load_checkpoint, save_checkpoint
from lmtailor.fit.modes import set_eval, set_training, trained_modules
from lmtailor.fit.optim import learning_rate, make_optimizer, pack_optimizer, set_learning_rate, unpack_optimizer
from lmtailor.fit.source import Source, make_source
from lmtailor.fit.training import Training
from lmtailor.infer.score import by_length, decide
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.readout import Reading
from lmtailor.store.adapter import Adapter, on_device
from lmtailor.tasks.metrics import Scores, evaluate_predictions, get_metric
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be fitted, and how."""

    base: Base
    task: Task
    start: Adapter
    """At its start; it needs a readout."""
    objective: Supervised
    training: Training
    """Resolved: nothing in it is None that a recipe could fill."""
    seed: int


class Loop:
    """One fit of one adapter."""

    def __init__(self, job: Job, identity: Identity, checkpoint: Path | None, callbacks: tuple[Callback, ...]) -> None:
        """Encode the data and set up the optimizer.

        Args:
            job: what to fit.
            identity: what a checkpoint must agree with.
            checkpoint: file of the checkpoint; None makes none.
            callbacks: listeners.

        Raises:
            InputError: nothing would be trained.
        """
        base, task, start, training = job.base, job.task, job.start, job.training
        if start.reading is None:
            raise InputError("A fit needs a readout to learn from labels with.")
        self.base, self.task, self.objective, self.training, self.seed = base, task, job.objective, training, job.seed
        self.identity, self.path, self.callbacks = identity, checkpoint, callbacks
        self.accelerator = Accelerator(cpu=base.device.type == "cpu")
        self.adapter = _trainable(start, base)
        self.parameters = dict(self.adapter.state)
        if not self.parameters:
            raise InputError(
                "Nothing would be trained: this method and this readout have no parameters of their own. "
                "Use evaluate to measure them as they are, or choose another method or a Head."
            )
        assert self.adapter.reading is not None
        self.reading: Reading = self.adapter.reading
        self.train = [self.reading.encode(example) for example in task.split("train").examples]
        self.dev = [self.reading.encode(example) for example in task.split("dev").examples] if "dev" in task.splits else []
        if training.accumulate % self.accelerator.num_processes:
            raise InputError(
                f"{training.accumulate} micro-batches a step cannot be shared by {self.accelerator.num_processes} processes. "
                "Set training.accumulate to a multiple of their number."
            )
        self.optimizer = make_optimizer(self.parameters, training)
        self.modules = trained_modules(base, self.adapter.edits)
        self.per_epoch = steps_in(len(self.train), training.batch_size, training.accumulate)
        self.total = training.max_steps or max(1, math.ceil(training.epochs * self.per_epoch))
        self.progress = Progress()
        self._order: tuple[int, list[list[int]]] | None = None
        self.best: dict[str, Tensor] = {}
        self.notes: tuple[str, ...] = ()

    def run(self) -> Adapter:
        """Train to the end and return the adapter with the weights to keep."""
        notes = [_cut_note(*split) for split in (("train", self.train), ("dev", self.dev)) if any(item.cut for item in split[1])]
        if self.path is not None and self.path.exists():
            self._restore(load_checkpoint(self.path, self.identity))
            notes.append(f"resumed at step {self.progress.step}")
        before = self.progress.seconds
        clock = time.monotonic()
        if self.training.checkpointing:
            self.base.model.activation_checkpointing_enable()
        with torch.random.fork_rng(devices=[]), attach(self.base, self.adapter) as attached:
            try:
                set_eval(self.base)
                source, note = self._source(attached, self.train)
                dev_source = self._source(attached, self.dev)[0] if self.dev else None
                self.notes = (*notes, note)
                self._tell_start()
                self._steps(source, dev_source, before, clock)
            except BaseException as error:
                self._tell_end("interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {type(error).__name__}")
                raise
            finally:
                set_eval(self.base)
                if self.training.checkpointing:
                    self.base.model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
        self._tell_end(self.progress.ended)
        kept = self.best if self.best and self.training.keep == "best" else self.parameters
        return self.adapter.with_state({name: tensor.detach() for name, tensor in kept.items()})

    def _source(self, attached: Attached, items: Sequence[Encoded]) -> tuple[Source, str]:
        folder = None if self.path is None else self.path.parent
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return make_source(attached, self.adapter.edits, self.reading, items, self.training, folder=folder)

    def _steps(self, source: Source, dev: Source | None, before: float, clock: float) -> None:
        while not self.progress.ended:
            step = self.progress.step
            began = time.monotonic()
            loss, tokens = self._step(source, step)
            self.progress.step = step + 1
            self.progress.loss_sum += loss
            self.progress.loss_count += 1
            event = Stepped(
                step=step + 1,
                epoch=(step + 1) / self.per_epoch,
                loss=loss,
                lr=learning_rate(step, self.total, self.training),
                tokens=tokens,
                seconds=time.monotonic() - began,
            )
            for callback in self.callbacks:
                callback.stepped(event)
            self.progress.seconds = before + time.monotonic() - clock
            last = step + 1 >= self.total
            if self._is_due(step + 1) or last:
                self._evaluate(dev)
            if last and not self.progress.ended:
                self.progress.ended = "finished"
            every = self.training.checkpoint_every
            if self._is_due(step + 1) or last or self.progress.ended or (every is not None and (step + 1) % every == 0):
                self.progress.seconds = before + time.monotonic() - clock
                self._save()

    def _is_due(self, step: int) -> bool:
        every = self.per_epoch if self.training.eval_every == "epoch" else self.training.eval_every
        return step % every == 0

    def _step(self, source: Source, step: int) -> tuple[float, int]:
        """One optimizer step; its mean loss and its tokens."""
        epoch, within = divmod(step, self.per_epoch)
        batches = self._batches_of(epoch)
        micro = batches[within * self.training.accumulate : (within + 1) * self.training.accumulate]
        examples = sum(map(len, micro))
        set_training(self.base, self.modules)
        total, tokens = 0.0, 0
        for number, indices in enumerate(micro):
            if number % self.accelerator.num_processes != self.accelerator.process_index:
                continue
            torch.manual_seed(derive(self.seed, "step", step, number))
            scores, batch = source.scores(indices, training=True)
            assert batch.labels_B is not None
            loss = self.objective.losses(scores, batch.labels_B, self.task.kind).sum() / examples
            value = float(loss.detach())
            if not math.isfinite(value):
                self._refuse_nan(step, value)
            self.accelerator.backward(loss)
            total += value
            tokens += batch.tokens
        tensors = list(self.parameters.values())
        if self.accelerator.num_processes > 1:
            total, tokens = self._share(tensors, total, tokens)
        if self.training.clip is not None:
            self.accelerator.clip_grad_norm_(tensors, self.training.clip)
        set_learning_rate(self.optimizer, learning_rate(step, self.total, self.training))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, tokens

    def _batches_of(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, sorted once and not at every step."""
        if self._order is None or self._order[0] != epoch:
            lengths = [item.length for item in self.train]
            self._order = epoch, epoch_batches(lengths, self.training.batch_size, self.seed, epoch)
        return self._order[1]

    def _share(self, tensors: list[Tensor], loss: float, tokens: int) -> tuple[float, int]:
        """Sum gradients, loss and tokens over all processes."""
        for tensor in tensors:
            tensor.grad = self.accelerator.reduce(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad, "sum")
        sums = self.accelerator.reduce(torch.tensor([loss, tokens], dtype=torch.float64, device=self.base.device), "sum")
        return float(sums[0]), int(sums[1])

    def _refuse_nan(self, step: int, value: float) -> None:
        where = "" if self.path is None or not self.path.exists() else f" The checkpoint before it is kept in {self.path.parent}."
        raise TrainingError(
            f"The loss is {value} at step {step + 1} of {self.total}, so the fit stopped.{where} "
            f"Try a lower learning rate (now {self.training.lr:g}), a longer warmup, or precision float32."
        )

    def _evaluate(self, dev: Source | None) -> None:
        progress = self.progress
        scores = Scores([]) if dev is None else self._dev_scores(dev)
        better = False
        if dev is not None:
            name = self.task.metrics[0]
            value, metric = scores[name].value, get_metric(name)
            sign = 1 if metric.greater_is_better else -1
            better = progress.best_score is None or sign * value > sign * progress.best_score
            if better:
                progress.best_score, progress.best_step, progress.waited = value, progress.step, 0
                self.best = {key: tensor.detach().clone() for key, tensor in self.parameters.items()}
            else:
                progress.waited += 1
            if self.training.patience is not None and progress.waited >= self.training.patience:
                progress.ended = f"early stop: no better {name} in {progress.waited} evaluations"
        loss = progress.loss_sum / max(1, progress.loss_count)
        progress.loss_sum, progress.loss_count = 0.0, 0
        entry = {"step": progress.step, "epoch": progress.step / self.per_epoch, "loss": loss, "seconds": progress.seconds}
        progress.history.append({**entry, "scores": {key: score.value for key, score in scores.items()}})
        event = Evaluated(
            step=progress.step,
            epoch=progress.step / self.per_epoch,
            loss=loss,
            scores=scores,
            best=better,
            seconds=progress.seconds,
        )
        for callback in self.callbacks:
            callback.evaluated(event)

    def _dev_scores(self, dev: Source) -> Scores:
        set_eval(self.base)
        out = torch.empty(len(self.dev), max(1, len(self.reading.labels)))
        with torch.no_grad():
            for indices in by_length(self.dev, 2 * self.training.batch_size):
                out[torch.tensor(indices)] = dev.scores(indices, training=False)[0].float().cpu()
        reference = self.task.split("dev").labels
        return evaluate_predictions(
            self.task.metrics, decide(out, self.task.kind), reference, kind=self.task.kind, labels=self.task.labels, resamples=200
        )

    def _save(self) -> None:
        if self.path is None or not self.accelerator.is_main_process:
            return
        tensors, numbers = pack_optimizer(self.optimizer)
        save_checkpoint(
            self.path,
            Checkpoint(
                now=self.parameters,
                best=self.best,
                optimizer=tensors,
                optimizer_numbers=numbers,
                progress=self.progress,
                identity=self.identity,
            ),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(checkpoint.now[name])
        unpack_optimizer(self.optimizer, checkpoint.optimizer, checkpoint.optimizer_numbers)
        self.best = {name: tensor.to(self.base.device) for name, tensor in checkpoint.best.items()}
        self.progress = replace(checkpoint.progress)

    def _tell_start(self) -> None:
        event = Started(
            method=type(self.adapter.method).__name__,
            readout=type(self.adapter.readout).__name__,
            trained=self.adapter.num_parameters,
            total=self.base.num_parameters,
            examples=len(self.train),
            steps=self.total,
            step=self.progress.step,
            notes=self.notes,
        )
        for callback in self.callbacks:
            callback.started(event)

    def _tell_end(self, reason: str) -> None:
        for callback in self.callbacks:
            callback.ended(Ended(step=self.progress.step, reason=reason, seconds=self.progress.seconds))


def _trainable(adapter: Adapter, base: Base) -> Adapter:
    """The adapter with float32 leaves that require gradients, on the base's device."""
    state: Mapping[str, Tensor] = on_device(adapter, base.device).state
    return adapter.with_state({name: tensor.detach().float().clone().requires_grad_() for name, tensor in state.items()})


def _cut_note(split: str, items: Sequence[Encoded]) -> str:
    cut = [item.cut for item in items if item.cut]
    return f"{len(cut):,} of {len(items):,} texts of {split} are longer than the model takes; {sum(cut):,} tokens were cut off"
