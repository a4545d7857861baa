"""The one training loop: one adapter, or several of one base whose batches run together.

Order and dropout are functions of (seed, epoch) and (seed, step), so that a resumed fit repeats them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lmtailor.core.errors import InputError
from lmtailor.core.rng import derive
from lmtailor.edits.attach import Attached, attach
from lmtailor.edits.edits import Edits
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.checkpoint import Identity, load_checkpoint, save_checkpoint
from lmtailor.fit.job import Job
from lmtailor.fit.kernels import fast_kernels
from lmtailor.fit.measure import choose_trained
from lmtailor.fit.member import Member
from lmtailor.fit.modes import set_eval, set_training, trained_modules
from lmtailor.fit.source import Narrowed, Source, WholeModel, autocast, make_source, why_not_shared
from lmtailor.fit.training import Training
from lmtailor.fit.watch import Watch
from lmtailor.infer.shared import score_together
from lmtailor.readouts.batch import Batch
from lmtailor.store.adapter import Adapter


class Loop:
    """One fit."""

    def __init__(self, jobs: Sequence[Job], identity: Identity, checkpoint: Path | None, callbacks: tuple[Callback, ...]) -> None:
        """Encode the data and set up the optimizers.

        Args:
            jobs: what to fit: one adapter, or several of one base in shared batches.
            identity: what a checkpoint must agree with.
            checkpoint: file of the checkpoint; None makes none.
            callbacks: listeners.

        Raises:
            InputError: nothing would be trained, or the jobs cannot share batches.
        """
        self.base, self.seed = jobs[0].base, jobs[0].seed
        self.identity, self.path = identity, checkpoint
        self.accelerator = Accelerator(cpu=self.base.device.type == "cpu")
        self.members = [Member(job, checkpoint, callbacks) for job in jobs]
        self.watches = {slot: Watch(member) for slot, member in enumerate(self.members) if member.job.watched}
        self._modules: tuple[list[int], tuple[str, ...]] | None = None
        self.training = _common(self.members, self.accelerator.num_processes)

    def run(self) -> list[Adapter]:
        """Train to the end and return the adapters with the weights to keep."""
        clock, notes = time.monotonic(), self._begin()
        before = [member.progress.seconds for member in self.members]
        if self.training.checkpointing:
            self.base.model.activation_checkpointing_enable()
        adapters = [member.adapter for member in self.members]
        rows = None if len(adapters) == 1 else range(len(adapters))
        fast = fast_kernels(self.base, lengths=self._lengths(), bfloat16=self.training.precision == "bfloat16")
        with torch.random.fork_rng(devices=[]), fast, attach(self.base, adapters, rows, fast=True) as attached:
            try:
                set_eval(self.base)
                sources, dev_sources = self._sources(attached, notes)
                for slot, member in enumerate(self.members):
                    member.tell_start()
                    if not member.progress.step:
                        self._ask(attached, slot)
                self._steps(attached, sources, dev_sources, before, clock)
            except BaseException as error:
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {type(error).__name__}"
                for member in self.members:
                    member.tell_end(reason)
                raise
            finally:
                attached.engine.draw = None
                set_eval(self.base)
                if self.training.checkpointing:
                    self.base.model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
        for member in self.members:
            member.tell_end(member.progress.ended)
        return [member.result() for member in self.members]

    def _lengths(self) -> Iterator[int]:
        """Tokens of each sequence that the fit will run, those of held-out tasks and of unlabelled texts among them."""
        for member in self.members:
            yield from (item.longest for item in (*member.data.train, *member.data.dev))
            if member.texts is not None:
                yield from member.texts.lengths(member.total * member.training.accumulate)
        for watch in self.watches.values():
            yield from (item.longest for item in watch.items)

    def _begin(self) -> list[list[str]]:
        """Go on where a checkpoint stands, or choose what is trained; notes for each member."""
        notes = [list(member.data_notes()) for member in self.members]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path is not None and self.path.exists():
            for member, own, state in zip(self.members, notes, load_checkpoint(self.path, self.identity), strict=True):
                member.restore(state)
                own.append(f"resumed at step {member.progress.step}")
            return notes
        for member, own in zip(self.members, notes, strict=True):
            own += choose_trained(member)
        return notes

    def _sources(self, attached: Attached, notes: list[list[str]]) -> tuple[list[Source], list[Source | None]]:
        """Where training scores (of a single member) and dev scores come from."""
        folder = None if self.path is None else self.path.parent
        if len(self.members) == 1:
            (member,), (own,) = self.members, notes
            training, edits = member.training, member.adapter.edits
            shared = training.share_inputs
            source, note = make_source(attached, edits, member.reading, member.data.train, training, folder=folder, shared=shared)
            member.notes = (*own, note)
            return [source], [self._dev_source(attached, member, folder)]
        found: list[Source | None] = []
        for slot, (member, own) in enumerate(zip(self.members, notes, strict=True)):
            whole = WholeModel(attached, member.reading, member.data.dev, autocast(self.base, self.training), slot=slot)
            found.append(Narrowed(whole) if member.data.dev else None)
            member.notes = (*own, f"{len(self.members)} adapters share every batch, so the trunk is not cached")
        return [], found

    def _steps(
        self, attached: Attached, sources: list[Source], dev: list[Source | None], before: list[float], clock: float
    ) -> None:
        while any(not member.ended for member in self.members):
            active = [slot for slot, member in enumerate(self.members) if not member.ended]
            began = time.monotonic()
            losses, tokens = self._step(attached, sources, active)
            seconds = time.monotonic() - began
            for slot, loss, count in zip(active, losses, tokens, strict=True):
                member = self.members[slot]
                member.advance(loss, count, seconds)
                member.progress.seconds = before[slot] + time.monotonic() - clock
                if member.is_due:
                    set_eval(self.base)
                    member.evaluate(dev[slot])
                    self._ask(attached, slot)
                    member.progress.seconds = before[slot] + time.monotonic() - clock
            if any(self.members[slot].to_save for slot in active):
                self._save()

    def _dev_source(self, attached: Attached, member: Member, folder: Path | None) -> Source | None:
        """Where the dev scores of a single member come from; inputs are shared as in training, where its own are short enough."""
        if not member.data.dev:
            return None
        edits, reading, training = member.adapter.edits, member.reading, member.training
        shared = training.share_inputs and why_not_shared(self.base, edits, reading, member.data.dev) is None
        return make_source(attached, edits, reading, member.data.dev, training, folder=folder, shared=shared)[0]

    def _ask(self, attached: Attached, slot: int) -> None:
        """Ask the held-out tasks of a member, if it has any."""
        if slot in self.watches:
            watch, alone = self.watches[slot], len(self.members) == 1
            run, shared = autocast(self.base, self.training), alone and watch.shares()
            whole = WholeModel(attached, watch.member.reading, watch.items, run, slot=slot, shared=shared)
            watch.ask(whole if alone else Narrowed(whole))

    def _step(self, attached: Attached, sources: list[Source], active: list[int]) -> tuple[list[float], list[int]]:
        """One optimizer step of every active member: mean losses and tokens."""
        members = [self.members[slot] for slot in active]
        plans = [member.data.micro_batches(member.progress.step) for member in members]
        units = [sum(map(member.data.units, plan)) for member, plan in zip(members, plans, strict=True)]
        set_training(self.base, self._trained_modules(active))
        losses, tokens = [0.0] * len(members), [0] * len(members)
        for number in range(max(map(len, plans))):
            if number % self.accelerator.num_processes != self.accelerator.process_index:
                continue
            seed = derive(self.seed, "step", members[0].progress.step, number)
            torch.manual_seed(seed)
            here = [place for place, plan in enumerate(plans) if number < len(plan)]
            total: Tensor | None = None
            scored = self._scores(attached, sources, {active[place]: plans[place][number] for place in here}, seed)
            for place, (scores, batch) in zip(here, scored, strict=True):
                member, plan = members[place], plans[place]
                text, read = self._text_loss(attached, active[place], number, seed)
                targets = member.targets(plan[number], batch)
                loss = member.loss(scores, targets, units[place], first=number == 0, text=text, parts=len(plan))
                losses[place] += float(loss.detach())
                tokens[place] += batch.tokens + read
                total = loss if total is None else total + loss
            self.accelerator.backward(total)
            attached.engine.draw = None
        if self.accelerator.num_processes > 1:
            losses, tokens = self._share(members, losses, tokens)
        for member in members:
            member.update(self.accelerator)
        return losses, tokens

    def _trained_modules(self, active: list[int]) -> tuple[str, ...]:
        """Those of all active members, found once."""
        if self._modules is None or self._modules[0] != active:
            edits = Edits.joined([self.members[slot].adapter.edits for slot in active])
            self._modules = active, trained_modules(self.base, edits)
        return self._modules[1]

    def _scores(
        self, attached: Attached, sources: list[Source], indices: Mapping[int, list[int]], seed: int
    ) -> list[tuple[list[Tensor], Batch]]:
        """Scores of each pass, and the batch, of each member: slot → examples."""
        found: dict[int, tuple[list[Tensor], Batch]] = {}
        for turn in range(max(self.members[slot].passes for slot in indices)):
            attached.engine.draw = derive(seed, "draw", turn)
            asked = {slot: own for slot, own in indices.items() if self.members[slot].passes > turn}
            scored = (
                [sources[0].scores(own, training=True) for own in asked.values()]
                if sources
                else self._scores_together(attached, asked)
            )
            for slot, (scores, batch) in zip(asked, scored, strict=True):
                found.setdefault(slot, ([], batch))[0].append(scores)
        return list(found.values())

    def _scores_together(self, attached: Attached, indices: Mapping[int, list[int]]) -> list[tuple[Tensor, Batch]]:
        batches = []
        for slot, own in indices.items():
            member = self.members[slot]
            batches.append(member.reading.collate([member.data.train[i] for i in own]).to(self.base.device))
        with autocast(self.base, self.training):
            return score_together(attached, list(indices), batches, self.members[0].reading.form, training=True)

    def _text_loss(self, attached: Attached, slot: int, number: int, seed: int) -> tuple[Tensor | None, int]:
        """The loss of modelling language beside a micro-batch of one member, and the tokens that were read for it."""
        member = self.members[slot]
        batch = member.text_batch(number)
        if batch is None or member.texts is None:
            return None, 0
        attached.engine.draw = derive(seed, "draw", "texts")
        alone = attached.narrowed([slot]) if len(self.members) > 1 else nullcontext()
        with autocast(self.base, self.training), alone:
            states = attached.own_states(slot, attached.states(batch.inputs, batch.answer_N))
            return member.texts.loss(self.base, states, batch), batch.tokens

    def _share(self, members: list[Member], losses: list[float], tokens: list[int]) -> tuple[list[float], list[int]]:
        """Sum gradients, losses and tokens over all processes."""
        for member in members:
            for tensor in member.parameters.values():
                gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                tensor.grad = self.accelerator.reduce(gradient, "sum")
        sums = self.accelerator.reduce(torch.tensor([losses, tokens], dtype=torch.float64, device=self.base.device), "sum")
        return sums[0].tolist(), [int(count) for count in sums[1]]

    def _save(self) -> None:
        if self.path is not None and self.accelerator.is_main_process:
            save_checkpoint(self.path, [member.state() for member in self.members], self.identity)


def _common(members: Sequence[Member], processes: int) -> Training:
    """The settings that all members share, which are the first one's.

    Raises:
        InputError: they differ in what a batch can have only one of.
    """
    first = members[0].training
    for member in members:
        if member.training.accumulate % processes:
            raise InputError(
                f"{member.training.accumulate} micro-batches a step cannot be shared by {processes} processes. "
                "Set training.accumulate to a multiple of their number."
            )
        for name in ("precision", "checkpointing"):
            if getattr(member.training, name) != getattr(first, name):
                raise InputError(f"Adapters that are fitted together share their batches, but differ in training.{name}.")
        if member.training.checkpointing and member.passes > 1:
            raise InputError(
                f"{type(member.adapter.method).__name__} runs each batch {member.passes} times with other draws, which blocks "
                "that are computed again in the backward pass cannot tell apart. Set training.checkpointing to false."
            )
        if member.training.checkpointing and member.texts is not None:
            raise InputError(
                "Blocks that are computed again in the backward pass cannot tell labelled from unlabelled text. Set "
                "training.checkpointing to false, or leave unlabelled out."
            )
        if len(members) > 1 and member.training.share_inputs:
            raise InputError(
                "Adapters that are fitted together run each row by itself. Set training.share_inputs to false, or fit each alone."
            )
        if len(members) > 1 and not member.adapter.edits.shares_batch:
            raise InputError(
                f"{type(member.adapter.method).__name__} replaces weights, so its rows cannot share a batch with others. "
                "Fit it alone."
            )
    return first
