"""`lmtailor export`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions

_MACHINE = MachineOptions()


def run(
    base: str,
    adapter: Path,
    /,
    *,
    form: Annotated[str, Parameter(name="--format")] = "peft",
    out: Path,
    without_head: bool = False,
    max_rank: PositiveInt = 16,
    any_base: bool = False,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Write an adapter in the form of another program.

    ```
    lmtailor export MODEL adapters/mine --format vllm --out served/mine
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter.
        form: Whose form: peft, vllm or lorax.
        out: Folder for the export.
        without_head: Leave out a head that the other program has no place for, and export the method alone.
        max_rank: With vllm, the largest rank that the server takes (its --max-lora-rank).
        any_base: Take this base although the adapter was made for another.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.store.export import export

    loaded = choices.the_base(base, machine)
    own = choices.the_adapter(adapter, loaded, any_base=any_base)
    export(own, out, format=form, without_head=without_head, max_rank=max_rank, base=loaded)
    say.fields({form: str(out)})
