"""`lmtailor convert`."""

from pathlib import Path

from cyclopts.types import PositiveInt

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions
from lmtailor.core.errors import InputError

_MACHINE = MachineOptions()


def run(
    base: str,
    adapter: Path,
    /,
    *,
    rank: PositiveInt = 8,
    out: Path,
    any_base: bool = False,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Turn an adapter that changes weights into LoRA, and say how near it comes.

    The change of each weight is replaced by its best approximation of the rank. The table has the error of each site, as a
    share of the change.

    ```
    lmtailor convert MODEL adapters/mine --rank 16 --out adapters/mine-lora
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter.
        rank: Of the LoRA.
        out: Folder for it.
        any_base: Take this base although the adapter was made for another.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.store.convert import convert
    from lmtailor.store.folder import save_adapter

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty. Name another folder for the LoRA.")
    loaded = choices.the_base(base, machine)
    own = choices.the_adapter(adapter, loaded, any_base=any_base)
    with say.doing("decomposing"):
        converted, report = convert(own, loaded, rank)
    save_adapter(converted, out)
    rows = [(one.site, f"{one.rank}", f"{one.norm:.3g}", f"{100 * one.error:.2g} %") for one in report]
    say.table(("site", "rank", "change", "error"), rows, right=("rank", "change", "error"))
    say.fields(
        {
            "adapter": f"{out} ({converted.num_parameters:,} numbers; the largest error is "
            f"{100 * max(one.error for one in report):.2g} % of a change)"
        }
    )
