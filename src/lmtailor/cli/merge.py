"""`lmtailor merge`."""

from pathlib import Path

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions

_MACHINE = MachineOptions()


def run(
    base: str,
    adapter: Path,
    /,
    *,
    out: Path,
    without_head: bool = False,
    any_base: bool = False,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Put an adapter's changes into the weights, as a plain transformers model.

    Only what is a change of weights can be merged; `lmtailor methods` says which methods are.

    ```
    lmtailor merge MODEL adapters/mine --out models/mine
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        adapter: Folder of an adapter.
        out: Folder for the model; empty, or not there.
        without_head: Leave out a head that no class of transformers has, and merge the method alone.
        any_base: Take this base although the adapter was made for another.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.store.merge import merge, save_merged

    loaded = choices.the_base(base, machine)
    own = choices.the_adapter(adapter, loaded, any_base=any_base)
    with say.doing("merging"):
        model = merge(loaded, own, without_head=without_head)
        save_merged(model, loaded.tokenizer, out)
    say.fields({"model": f"{out} ({type(model).__name__})"})
