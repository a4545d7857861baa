"""`lmtailor closeness`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions

_MACHINE = MachineOptions()


def run(
    base: str,
    one: Path,
    other: Path,
    /,
    *,
    any_base: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Say how close the prompts of two adapters are: by their embeddings, and by the neurons that they make the base use.

    All numbers are cosines, 1 for equal prompts. Prompts of near tasks are good starts for each other: see the strategy spot.

    ```
    lmtailor closeness MODEL adapters/reviews adapters/tweets
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        one: Folder of an adapter with a soft prompt, a hard prompt or a prefix.
        other: Another one of the same kind.
        any_base: Take this base although an adapter was made for another.
        as_json: Write one JSON object.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.strategies.prompt_closeness import prompt_closeness

    loaded = choices.the_base(base, machine)
    first, second = (choices.the_adapter(folder, loaded, any_base=any_base) for folder in (one, other))
    found = prompt_closeness(loaded, first, second)
    if as_json:
        say.json_line({**vars(found), "by_layer": dict(found.by_layer)})
        return
    rows = [
        ("mean tokens", found.average_tokens),
        ("all pairs of tokens", found.per_token),
        ("active neurons", found.neurons),
        *((f"active neurons of {site}", value) for site, value in found.by_layer.items()),
    ]
    say.table(("closeness by", "cosine"), [(name, f"{value:.4f}") for name, value in rows], right=("cosine",))
