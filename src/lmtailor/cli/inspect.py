"""`lmtailor inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.base.stack import Stack

_MACHINE = MachineOptions()
ADAPTER_FILES = ("adapter.json", "adapter_config.json")
"""What tells an adapter's folder from a model's."""


def run(source: str, /, *, machine: MachineOptions = _MACHINE) -> None:
    """Show the sites of a base, or what is in an adapter's folder.

    ```
    lmtailor inspect MODEL
    lmtailor inspect adapters/mine
    ```

    Args:
        source: Hub id, folder or .gguf file of a pretrained model; or the folder of an adapter.
        machine: How the base is loaded.
    """
    folder = Path(source).expanduser()
    if any((folder / name).is_file() for name in ADAPTER_FILES):
        from lmtailor.cli import adapter_contents

        adapter_contents.show(folder)
        return
    from lmtailor.cli import choices, site_table

    base = choices.the_base(source, machine)
    say.fields(_facts(base))
    say.result()
    rows = [(row.sites, row.kind, row.shape, row.module) for row in site_table.site_rows(base)]
    say.table(("sites", "kind", "shape", "module"), rows, right=("shape",))


def _facts(base: "Base") -> dict[str, str]:
    """What a base is."""
    config = type(base.model).__name__
    return {
        "base": base.source,
        "family": f"{base.family.name}, {base.kind} ({config})",
        "parameters": f"{base.num_parameters:,} ({base.dtype}, {base.device})".replace("torch.", ""),
        "blocks": ", ".join(_stack(stack) for stack in base.stacks),
        "features": f"{base.hidden_size}",
        "LM head": f"{base.vocab_size:,} words" if base.has_lm_head else "none: a verbalizer cannot read this base",
        "pooler": "yes" if base.pooler is not None else "no",
        "longest input": f"{base.max_length:,} tokens",
        "fingerprint": base.fingerprint,
    }


def _stack(stack: "Stack") -> str:
    """One stack in words."""
    name = f"{stack.name}: " if stack.name else ""
    sees = "causal" if stack.causal else "sees both sides"
    return f"{name}{len(stack.blocks)}, {sees}, positions by {stack.positions}"
