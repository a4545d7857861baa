"""Mixtures on the command line: what a fit learns from."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmtailor.cli import choices, say
from lmtailor.cli.options import MixtureOptions, TaskOptions
from lmtailor.core.errors import InputError
from lmtailor.tasks.mixture import load_mixture
from lmtailor.tasks.task import Task
from lmtailor.tasks.watched import Watched

MIXTURE = "mixture."
"""Start of settings that are the mixture's."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a fit learns from."""

    task: Task
    watched: tuple[Watched, ...]
    """Held-out tasks."""
    settings: tuple[str, ...]
    """Those of `--set` that are neither the task's nor the mixture's."""


def the_data(blend: MixtureOptions, data: TaskOptions, settings: Sequence[str], *, seed: int) -> Learned:
    """The mixture, or else the task; what is odd in it is said.

    Raises:
        InputError: both are given, settings of a mixture without one, and as `load_mixture` and `the_task`.
    """
    own = [text.removeprefix(MIXTURE) for text in settings if text.startswith(MIXTURE)]
    rest = tuple(text for text in settings if not text.startswith(MIXTURE))
    if blend.mixture is None:
        if own:
            raise InputError(f"{MIXTURE}{own[0]} is a setting of a mixture, but there is none. Give --mixture, or leave it out.")
        return Learned(task=choices.the_task(data, rest, seed=seed), watched=(), settings=rest)
    clash = next((name for name, value in vars(data).items() if value not in (None, ())), None)
    card = next((text for text in rest if text.startswith(choices.TASK)), None)
    if clash is not None or card is not None:
        flag = f"--{clash.replace('_', '-')}" if clash is not None else f"--set {card}"
        raise InputError(f"{flag} and --mixture are both given. The mixture's cards say what the tasks are: change it there.")
    found = load_mixture(blend.mixture, overrides=own)
    say.plain(str(found))
    for note in found.task.notes:
        say.warn(note)
    return Learned(task=found.task, watched=found.watched, settings=rest)
