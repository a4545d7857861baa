"""Which families are known, and how others are added.

A table is given to `load_base(…, family=TABLE)` or `Base.from_model(…, family=TABLE)`; or a package announces it, so
that users need do nothing, by an entry point in the group `lmtailor.families`: the name is the `model_type`, the
value a `Family`, or a function from the configuration to one.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from transformers import PreTrainedConfig

from lmtailor.base.decoder_families import DECODERS
from lmtailor.base.encoder_families import ENCODERS
from lmtailor.base.family import Family
from lmtailor.base.seq2seq_families import ENCODER_DECODERS
from lmtailor.core.errors import UnsupportedError

FamilyTable = Family | Callable[[PreTrainedConfig], Family]
"""A table, or a function to one where the configuration changes the modules."""

ENTRY_POINTS = "lmtailor.families"

BUILT_IN: Mapping[str, FamilyTable] = {**ENCODERS, **DECODERS, **ENCODER_DECODERS}


def known_families() -> tuple[str, ...]:
    """The model types that have a table, built in or announced by an installed package."""
    return tuple(dict.fromkeys([*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))]))


def family_of(config: PreTrainedConfig, table: FamilyTable | None = None) -> Family:
    """The table for a configuration.

    Args:
        config: a model's configuration.
        table: use this one instead of the known ones.

    Raises:
        UnsupportedError: no table is known, or the configuration asks for what the tables do not describe.
    """
    model_type = config.model_type
    found = table or BUILT_IN.get(model_type) or _announced(model_type)
    if model_type == "gemma3" and not table:
        raise UnsupportedError(
            "This is the multimodal Gemma 3 (model_type gemma3), and only text models are supported. Save its language "
            "model alone, a Gemma3ForCausalLM with model_type gemma3_text, and load that."
        )
    if found is None:
        raise UnsupportedError(
            f"The architecture {model_type!r} is not known. Known are {', '.join(known_families())}. To add it, describe its "
            "modules in a lmtailor.base.family.Family and pass it as family=…, or announce it as an entry point "
            f"{model_type!r} in the group {ENTRY_POINTS!r}."
        )
    family = found if isinstance(found, Family) else found(config)
    _check_config(config, family)
    return family


def _announced(model_type: str) -> FamilyTable | None:
    for point in entry_points(group=ENTRY_POINTS, name=model_type):
        table: FamilyTable = point.load()
        return table
    return None


def _check_config(config: PreTrainedConfig, family: Family) -> None:
    """Refuse settings that change a family's masks or blocks into what its table does not say."""
    settings = config.to_dict()
    if family.kind == "encoder" and settings.get("is_decoder"):
        raise UnsupportedError(
            f"This {family.name} model is set up as a decoder (is_decoder), but only encoders of it are known."
        )
    if family.kind == "decoder" and settings.get("use_bidirectional_attention"):
        raise UnsupportedError(
            f"This {family.name} model attends in both directions (use_bidirectional_attention), but only causal ones are known."
        )
    if settings.get("add_cross_attention"):
        raise UnsupportedError(f"This {family.name} model has cross-attention added (add_cross_attention), which is not known.")
