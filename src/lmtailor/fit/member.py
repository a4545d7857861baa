"""One adapter in training: its data, parameters, optimizer and progress. The loop runs one, or several in shared batches."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lmtailor.core.errors import InputError, TrainingError
from lmtailor.fit.callbacks.callback import Callback, Ended, Evaluated, Started, Stepped
from lmtailor.fit.checkpoint import MemberState, Progress
from lmtailor.fit.data import Data
from lmtailor.fit.dev import dev_scores
from lmtailor.fit.job import Job
from lmtailor.fit.optim import learning_rate, make_optimizer, pack_optimizer, set_learning_rate, unpack_optimizer
from lmtailor.fit.source import Source
from lmtailor.fit.unlabelled import Texts
from lmtailor.methods.method import Penalises, Rates, Steps
from lmtailor.objectives.consistency import consistency
from lmtailor.readouts.batch import Batch
from lmtailor.readouts.readout import Reading
from lmtailor.readouts.text import TextReading
from lmtailor.store.adapter import Adapter, on_device
from lmtailor.tasks.example import TEXT_KINDS
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.metrics.direction import greater_is_better


class Member:
    """One adapter in training."""

    def __init__(self, job: Job, checkpoint: Path | None, callbacks: tuple[Callback, ...]) -> None:
        """Encode the data and set up the optimizer.

        Args:
            job: what to fit.
            checkpoint: file of the fit's checkpoint, for messages.
            callbacks: listeners.

        Raises:
            InputError: nothing would be trained, or there is nothing to model language on.
            UnsupportedError: language cannot be modelled with the base.
        """
        if job.start.reading is None:
            raise InputError("A fit needs a readout to learn from labels with.")
        job.start.reading.check_fit()
        self.job, self.path, self.callbacks = job, checkpoint, callbacks
        self.base, self.task, self.training, self.name = job.base, job.task, job.training, job.name
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.memory: dict[str, Tensor] = {}
        """What the method keeps between steps."""
        self.notes: tuple[str, ...] = ()
        self.take(job.start)
        self.data = Data(self.task, self.reading, self.training, job.seed)
        self.total = self.training.max_steps or max(1, math.ceil(self.training.epochs * self.data.per_epoch))
        self.texts: Texts | None = None
        if job.unlabelled is not None:
            self.texts = Texts(job.unlabelled, self.base, self.task, self.reading, self.adapter.edits, job.seed)

    def take(self, adapter: Adapter) -> None:
        """Train this adapter: float32 leaves that require gradients, and a fresh optimizer.

        Raises:
            InputError: it has nothing to train.
        """
        moved = on_device(adapter, self.base.device)
        self.adapter = moved.with_state(
            {name: tensor.detach().float().clone().requires_grad_() for name, tensor in moved.state.items()}
        )
        self.parameters = dict(self.adapter.state)
        if not self.parameters:
            raise InputError(
                "Nothing would be trained: this method and this readout have no parameters of their own. "
                "Use evaluate to measure them as they are, or choose another method or a Head."
            )
        method, reading = self.adapter.method, self.adapter.reading
        if isinstance(reading, TextReading) and (method.passes > 1 or self.job.objective.over_all_words):
            self.adapter = replace(self.adapter, reading=reading.over_all_words())
        rates = method.rates(self.adapter.edits) if isinstance(method, Rates) else {}
        self.optimizer = make_optimizer(self.parameters, self.training, rates)

    @property
    def reading(self) -> Reading:
        """The adapter's readout."""
        assert self.adapter.reading is not None
        return self.adapter.reading

    @property
    def passes(self) -> int:
        """Forward passes of a batch."""
        return self.adapter.method.passes

    @property
    def ended(self) -> bool:
        """Whether its fit is over."""
        return bool(self.progress.ended)

    # one step

    def targets(self, indices: Sequence[int], batch: Batch) -> Tensor:
        """The right answers of these training examples: labels (B,), distributions over them (B, C), or those of a text (M,)."""
        if self.task.kind in TEXT_KINDS:
            return batch.targets_NP[batch.targets_NP >= 0]
        if self.job.soft_BC is not None:
            return self.job.soft_BC[list(indices)].to(self.base.device)
        assert batch.labels_B is not None
        return batch.labels_B

    def text_batch(self, number: int) -> Batch | None:
        """The unlabelled texts beside a micro-batch of the next step, if there are any."""
        if self.texts is None:
            return None
        return self.texts.batch(self.progress.step * self.training.accumulate + number).to(self.base.device)

    def loss(
        self, scores: Sequence[Tensor], targets: Tensor, units: int, *, first: bool, text: Tensor | None = None, parts: int = 1
    ) -> Tensor:
        """The loss of a micro-batch as its share of the step's.

        Args:
            scores: (B, C) of each pass.
            targets: what they should be.
            units: answers in the step.
            first: whether it is the step's first, which carries what is lost once a step.
            text: the loss of modelling language beside it.
            parts: micro-batches in the step.

        Raises:
            TrainingError: it is not a number.
        """
        kind = self.task.kind
        loss = self.job.objective.losses(scores[0], targets, kind).sum()
        if len(scores) > 1:
            loss = loss + consistency(scores[0], scores[1], kind).sum()
        loss = loss / units
        if text is not None and self.job.unlabelled is not None:
            share = self.job.unlabelled.weight
            loss = (1 - share) * loss + share * text / parts
        method = self.adapter.method
        if first and isinstance(method, Penalises):
            loss = loss + method.penalty(self.adapter.edits)
        if not math.isfinite(float(loss.detach())):
            self._refuse_nan(float(loss.detach()))
        return loss

    def update(self, accelerator: Accelerator) -> None:
        """One step of the optimizer, and what the method does after it."""
        tensors = list(self.parameters.values())
        if self.training.clip is not None:
            accelerator.clip_grad_norm_(tensors, self.training.clip)
        set_learning_rate(self.optimizer, learning_rate(self.progress.step, self.total, self.training))
        self.optimizer.step()
        method = self.adapter.method
        if isinstance(method, Steps):
            with torch.no_grad():
                method.stepped(self.adapter.edits, self.memory, self.progress.step, self.total)
        self.optimizer.zero_grad(set_to_none=True)

    def _refuse_nan(self, value: float) -> None:
        who = f" of {self.name}" if self.name else ""
        kept = "" if self.path is None or not self.path.exists() else f" The checkpoint before it is kept in {self.path.parent}."
        raise TrainingError(
            f"The loss{who} is {value} at step {self.progress.step + 1} of {self.total}, so the fit stopped.{kept} "
            f"Try a lower learning rate (now {self.training.lr:g}), a longer warmup, or precision float32."
        )

    # between steps

    def advance(self, loss: float, tokens: int, seconds: float) -> None:
        """Count a step that is done."""
        progress = self.progress
        event = Stepped(
            name=self.name,
            step=progress.step + 1,
            epoch=(progress.step + 1) / self.data.per_epoch,
            loss=loss,
            lr=learning_rate(progress.step, self.total, self.training),
            tokens=tokens,
            seconds=seconds,
        )
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_count += 1
        for callback in self.callbacks:
            callback.stepped(event)

    @property
    def last(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.total

    @property
    def is_due(self) -> bool:
        """Whether dev is to be scored now."""
        every = self.data.per_epoch if self.training.eval_every == "epoch" else self.training.eval_every
        return self.last or self.progress.step % every == 0

    @property
    def to_save(self) -> bool:
        """Whether a checkpoint is to be written now."""
        every = self.training.checkpoint_every
        return self.is_due or self.ended or (every is not None and self.progress.step % every == 0)

    def evaluate(self, dev: Source | None) -> None:
        """Score dev, keep the best weights, and see whether to stop."""
        progress = self.progress
        size, together = 2 * self.training.batch_size, self.training.share_inputs
        scores = Scores([])
        if dev is not None:
            scores = dev_scores(self.task, self.data.dev, dev, size, self.data.inquiries, together=together)
        better = dev is not None and self._is_better(scores)
        loss = progress.loss_sum / max(1, progress.loss_count)
        progress.loss_sum, progress.loss_count = 0.0, 0
        epoch = progress.step / self.data.per_epoch
        entry = {"step": progress.step, "epoch": epoch, "loss": loss, "seconds": progress.seconds}
        progress.history.append({**entry, "scores": {key: score.value for key, score in scores.items()}})
        event = Evaluated(
            name=self.name,
            step=progress.step,
            epoch=epoch,
            loss=loss,
            scores=scores,
            best=better,
            seconds=progress.seconds,
        )
        for callback in self.callbacks:
            callback.evaluated(event)
        if self.last and not progress.ended:
            progress.ended = "finished"

    def _is_better(self, scores: Scores) -> bool:
        progress, name = self.progress, self.task.choosing
        value, sign = scores[name].value, 1 if greater_is_better(name) else -1
        better = progress.best_score is None or sign * value > sign * progress.best_score
        if better:
            progress.best_score, progress.best_step, progress.waited = value, progress.step, 0
            self.best = {key: tensor.detach().clone() for key, tensor in self.parameters.items()}
        else:
            progress.waited += 1
        if self.training.patience is not None and progress.waited >= self.training.patience:
            progress.ended = f"early stop: no better {name} in {progress.waited} evaluations"
        return better

    # to and from files

    def state(self) -> MemberState:
        """All that it needs to go on."""
        tensors, numbers = pack_optimizer(self.optimizer)
        return MemberState(
            now=self.parameters,
            best=self.best,
            fixed=self.adapter.fixed,
            memory=self.memory,
            optimizer=tensors,
            optimizer_numbers=numbers,
            progress=self.progress,
        )

    def restore(self, state: MemberState) -> None:
        """Go on from there."""
        device = self.base.device
        # Memory of their own: where a tensor begins in a mapped file can move the last bit of a product with it.
        fixed = {name: value.clone() for name, value in state.fixed.items()}
        self.take(self.adapter.with_fixed(fixed).with_state(dict(state.now)))
        unpack_optimizer(self.optimizer, state.optimizer, state.optimizer_numbers)
        self.best = {name: tensor.to(device) for name, tensor in state.best.items()}
        self.memory = {name: tensor.to(device) for name, tensor in state.memory.items()}
        self.progress = replace(state.progress)

    def result(self) -> Adapter:
        """The adapter with the weights to keep."""
        kept = self.best if self.best and self.training.keep == "best" else self.parameters
        done = self.adapter.with_state({name: tensor.detach() for name, tensor in kept.items()})
        return replace(done, reading=replace(done.reading, every_word=False)) if isinstance(done.reading, TextReading) else done

    # what listeners hear

    def data_notes(self) -> tuple[str, ...]:
        """Splits of which texts lost their end, and text that is read besides."""
        notes = self.data.notes()
        if self.texts is not None:
            notes.append(f"it models language on {len(self.texts.examples):,} unlabelled texts besides")
        return tuple(notes)

    def tell_start(self) -> None:
        """The fit begins, or goes on."""
        event = Started(
            name=self.name,
            method=type(self.adapter.method).__name__,
            readout=type(self.adapter.readout).__name__,
            trained=self.adapter.num_parameters,
            total=self.base.num_parameters,
            examples=len(self.data.train),
            steps=self.total,
            step=self.progress.step,
            notes=self.notes,
        )
        for callback in self.callbacks:
            callback.started(event)

    def tell_end(self, reason: str) -> None:
        """The fit is over."""
        event = Ended(name=self.name, step=self.progress.step, reason=reason, seconds=self.progress.seconds)
        for callback in self.callbacks:
            callback.ended(event)
