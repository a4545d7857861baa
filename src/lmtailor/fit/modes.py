"""Which modules run in training mode: those in blocks that hold something trained. The frozen rest stays in eval mode."""

from lmtailor.base.base import Base
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, WeightEdit


def trained_modules(base: Base, edits: Edits) -> tuple[str, ...]:
    """Paths of the modules whose dropout is active while training.

    Blocks with an edit; the whole stacks if the weights of every block are replaced.
    """
    blocks = [path for stack in base.stacks for path in stack.blocks]
    found: set[str] = set()
    weighted: set[str] = set()
    for edit in edits:
        if isinstance(edit, WeightEdit):
            weighted |= {path for path in blocks if edit.site.startswith(f"{path}.")}
            continue
        for name in edit.sites if isinstance(edit, PrefixEdit) else (edit.site,):
            site = base.sites[name]
            if site.block is not None:
                stack = next(stack for stack in base.stacks if stack.name == site.stack)
                found.add(stack.blocks[site.block])
            elif site.kind == "projection":
                found.add(site.module)
    if weighted == set(blocks):
        return tuple(stack.root for stack in base.stacks)
    return tuple(sorted(found | weighted))


def set_training(base: Base, paths: tuple[str, ...]) -> None:
    """Training mode for these modules, eval mode for all others."""
    base.model.train(False)
    for path in paths:
        base.module(path).train()


def set_eval(base: Base) -> None:
    """Eval mode for all modules."""
    base.model.train(False)
