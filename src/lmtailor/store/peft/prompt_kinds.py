"""PREFIX_TUNING and PROMPT_TUNING: folders of prefixes and soft prompts, written and read."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import TokenPrompt
from lmtailor.methods._prompts import SoftPromptEdit, word_embeddings
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.method import Method
from lmtailor.methods.prefix import PlainPrefix, Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import integer
from lmtailor.store.peft.kind import Folder, Found, PeftKind, Target
from lmtailor.store.peft.prompts import (
    NAME,
    attention_sites,
    check_prefix,
    check_prompt,
    prefix_config,
    prefix_from,
    prefix_tensors,
    prompt_config,
    prompt_edits,
    prompt_tensors,
)

SIZES = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"})
"""Keys of every type that stands before the input."""


class PrefixTuningKind(PeftKind):
    """Keys and values before every layer."""

    name: ClassVar[str] = "PREFIX_TUNING"
    writes: ClassVar[tuple[type[Method], ...]] = (Prefix,)
    # A network that computed the prefix is not stored: what is stored is what it computed.
    keys: ClassVar[frozenset[str]] = SIZES | {"prefix_projection", "encoder_hidden_size", "init_weights"}
    by_module: ClassVar[bool] = False

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """The sizes of the prefix."""
        return prefix_config(adapter.edits, target.outline, target.task)

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The prefix as one matrix."""
        return prefix_tensors(adapter.edits, target.outline)

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The prefix from the matrix."""
        return prompt_edits(adapter.edits, target.outline, tensors)

    def found(self, folder: Folder) -> Found:
        """A prefix of as many virtual tokens as the configuration says."""
        config, outline = folder.config, folder.outline
        check_prefix(outline, folder.task)
        length, layers = integer(config, "num_virtual_tokens"), integer(config, "num_layers")
        own = attention_sites(outline)
        attention = own[0].attention
        assert attention is not None
        twice = outline.kind == "encoder-decoder"
        if layers < len(own) or (layers > len(own) and not twice):
            raise AdapterFileError(f"num_layers is {layers}; this base has {len(own)} layers that take a prefix.")
        _expect(config, "token_dim", attention.kv_width)
        _expect(config, "num_attention_heads", attention.kv_heads)
        _expect_submodules(config, 2 if twice else 1)
        method = Prefix(length=length, at="decoder.block.*.attn" if twice else "block.*.attn")

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            (edit,) = empty
            assert isinstance(edit, PlainPrefix)
            return Edits((prefix_from(tensors[NAME], edit, twice=twice),))

        return Found(method=method, shapes={NAME: (length, 2 * layers * attention.kv_width)}, edits=edits)


class PromptTuningKind(PeftKind):
    """Virtual tokens before the input embeddings; a hard prompt is written as its words' embeddings, and read as a soft one."""

    name: ClassVar[str] = "PROMPT_TUNING"
    writes: ClassVar[tuple[type[Method], ...]] = (SoftPrompt, HardPrompt)
    # How a prompt started has no influence on what is stored.
    keys: ClassVar[frozenset[str]] = SIZES | {
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    }
    by_module: ClassVar[bool] = False

    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """The sizes of the prompt."""
        return prompt_config(_embedded(adapter, target), target.outline, target.task)

    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The prompt as one matrix."""
        return prompt_tensors(_embedded(adapter, target))

    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The prompt from the matrix."""
        return prompt_edits(adapter.edits, target.outline, tensors)

    def found(self, folder: Folder) -> Found:
        """A prompt of as many virtual tokens as the configuration says."""
        config, outline = folder.config, folder.outline
        check_prompt(outline, folder.task)
        length = integer(config, "num_virtual_tokens")
        site = next(site for site in outline.sites.values() if site.kind == "embedding" and site.stack != "decoder")
        _expect(config, "token_dim", site.width)
        # PEFT stores a prompt for the decoder too by default, and never uses it.
        copies = 1
        if outline.kind == "encoder-decoder" and config.get("num_transformer_submodules") in (None, 2):
            copies = 2
        else:
            _expect_submodules(config, 1)

        def edits(empty: Edits, tensors: Mapping[str, Tensor]) -> Edits:
            return prompt_edits(empty, outline, {NAME: tensors[NAME][:length].contiguous()})

        return Found(
            method=SoftPrompt(length=length),
            shapes={NAME: (copies * length, site.width)},
            edits=edits,
            virtual=outline.kind == "encoder",
        )


def _embedded(adapter: Adapter, target: Target) -> Edits:
    """The prompts, of which a hard one's words are now embeddings.

    Raises:
        UnsupportedError: these are the base's, and it is not at hand.
    """
    if not isinstance(adapter.method, HardPrompt):
        return adapter.edits
    if target.base is None:
        raise UnsupportedError(
            "A hard prompt has words, and PEFT stores embeddings, which are the base's. Export it with the base "
            "(export(…, base=base))."
        )
    soft = []
    for edit in adapter.edits:
        assert isinstance(edit, TokenPrompt)
        rows = word_embeddings(target.base, edit.site, edit.ids).float().cpu()
        soft.append(SoftPromptEdit(site=edit.site, length=edit.length, place=edit.place, prompt_NH=rows))
    return Edits(tuple(soft))


def _expect(config: Mapping[str, Any], key: str, wanted: int) -> None:
    if (found := integer(config, key)) != wanted:
        raise AdapterFileError(f"{key} is {found}, but this base needs {wanted}. The adapter is of another base.")


def _expect_submodules(config: Mapping[str, Any], wanted: int) -> None:
    if config.get("num_transformer_submodules") is not None:
        _expect(config, "num_transformer_submodules", wanted)
