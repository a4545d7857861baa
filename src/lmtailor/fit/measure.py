"""Squared gradients on training examples, for methods that choose by them what to train."""

from dataclasses import replace

import torch

from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.fit.member import Member
from lmtailor.fit.modes import set_eval
from lmtailor.fit.source import WholeModel, autocast
from lmtailor.methods.method import Measures


def choose_trained(member: Member) -> tuple[str, ...]:
    """Let a method that measures choose its edits; a note that says so.

    The squared gradient of each example's loss is taken one example at a time, and averaged: the diagonal of the empirical
    Fisher information.
    """
    method, base = member.adapter.method, member.base
    if not isinstance(method, Measures):
        return ()
    sites = base.sites if member.reading.reads_lm_head else base.sites.without_head()
    probe = method.measured(sites)
    probe = probe.with_state({name: value.to(base.device).requires_grad_() for name, value in probe.state().items()})
    state = probe.state()
    squares = {name: torch.zeros_like(value) for name, value in state.items()}
    order = torch.randperm(len(member.data.train), generator=generator(member.job.seed, "measure")).tolist()
    chosen = order[: method.samples]
    with attach(base, replace(member.adapter, edits=probe), fast=True) as attached:
        set_eval(base)
        whole = WholeModel(attached, member.reading, member.data.train, autocast(base, member.training))
        for index in chosen:
            scores, batch = whole.scores([index], training=False)
            loss = member.job.objective.losses(scores, member.targets([index], batch), member.task.kind).sum()
            gradients = torch.autograd.grad(loss, list(state.values()), allow_unused=True)
            for name, gradient in zip(state, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient.square()
    mean = {name: (value / len(chosen)).cpu() for name, value in squares.items()}
    member.take(replace(member.adapter, edits=method.chosen(sites, mean)))
    return (f"what is trained was chosen by squared gradients on {len(chosen):,} examples",)
