"""Modules that were trained whole beside any method, `modules_to_save`: here and in PEFT 0.21 they give the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.methods import method_name
from lmtailor.methods.adalora import AdaLoRA
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.ia3 import IA3
from lmtailor.methods.layer_norm_tuning import LayerNormTuning
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Method
from lmtailor.methods.oft import OFT
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.select import Select
from lmtailor.methods.union import Union
from lmtailor.methods.vera import VeRA
from lmtailor.store.adapter import Adapter
from lmtailor.store.export import export
from lmtailor.store.folder import load_adapter
from tests.parity.exchange import ours_in_peft, theirs_here
from tests.parity.loading import QUIET, made_by_peft, peft
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),  # PEFT adapts norms, and is not sure that it may
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),  # what is tested here is refused
]

OURS: list[tuple[str, Method, type]] = [
    ("llama", IA3(), peft.IA3Config),
    ("llama", LayerNormTuning(at="block.*.norm1"), peft.LNTuningConfig),
    ("llama", AdaLoRA(init_rank=3, target_rank=2, at="block.*.attn.{q,v}"), peft.AdaLoraConfig),
    ("llama", VeRA(rank=8, at="block.*.attn.{q,o}"), peft.VeraConfig),
    ("llama", OFT(block_size=4), peft.OFTConfig),
    ("llama", LoRA(rank=2), peft.LoraConfig),
    ("bert", IA3(), peft.IA3Config),
    ("t5", AdaLoRA(init_rank=3, target_rank=2, at="encoder.block.*.attn.q"), peft.AdaLoraConfig),
]


@pytest.mark.parametrize(("key", "method", "config"), OURS, ids=lambda value: value if isinstance(value, str) else "")
def test_ours_in_peft(tmp_path: Path, key: str, method: Method, config: type) -> None:
    modules = {"bert": "block.1.attn.o, block.0.norm2", "t5": "decoder.block.1.ffn.down"}.get(key, "block.1.ffn.gate, final_norm")
    union = Union(parts=(Select(at=modules), method))
    assert ours_in_peft(tiny_base(key), union, tmp_path, config)["modules_to_save"]


TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
THEIRS: list[tuple[str, Any]] = [
    ("ia3", peft.IA3Config(**TARGETS, feedforward_modules=[], modules_to_save=["norm", "layers.1.mlp.up_proj"])),
    ("layer_norm_tuning", peft.LNTuningConfig(target_modules=["input_layernorm"], modules_to_save=["layers.0.mlp.down_proj"])),
    ("adalora", peft.AdaLoraConfig(**TARGETS, init_r=3, total_step=10, modules_to_save=["norm"])),
    ("vera", peft.VeraConfig(target_modules=["q_proj", "o_proj"], r=8, modules_to_save=["layers.2.mlp"])),
    ("oft", peft.OFTConfig(**TARGETS, oft_block_size=4, modules_to_save=["norm"])),
]
WHOLE = [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]]


def parts_of(adapter: Adapter) -> list[str]:
    """Names of the methods."""
    assert isinstance(adapter.method, Union)
    return [method_name(part) for part in adapter.method.parts]


@pytest.mark.parametrize(("name", "config"), THEIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_theirs_here(tmp_path: Path, name: str, config: Any) -> None:
    assert parts_of(theirs_here(tiny_base("llama"), config, tmp_path)) == [name, "select"]


@pytest.mark.parametrize("saved", WHOLE, ids=",".join)
@pytest.mark.parametrize("config", [peft.IA3Config, peft.LoraConfig])
def test_heads_and_tables_of_words(tmp_path: Path, config: Any, saved: list[str]) -> None:
    """Where they share no weight; what PEFT parts and is one here is refused."""
    settings = {"target_modules": ["q_proj"], "modules_to_save": saved}
    settings |= {"feedforward_modules": []} if config is peft.IA3Config else {}
    assert parts_of(theirs_here(tiny_base("llama", tie_word_embeddings=False), config(**settings), tmp_path))[1:] == ["select"]
    base = tiny_base("llama", tie_word_embeddings=True)
    made_by_peft(base, config(**settings), tmp_path / "tied")
    with pytest.raises(AdapterFileError, match=r"modules_to_save has .*, which shares its weight with"):
        load_adapter(tmp_path / "tied", base)


def test_prompts_have_none(tmp_path: Path) -> None:
    base = tiny_base("llama")
    made_by_peft(base, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**written, "modules_to_save": ["norm"]}))
    with pytest.raises(
        AdapterFileError, match=r"modules_to_save stores whole modules, which PEFT's PREFIX_TUNING has for SEQ_CLS"
    ):
        load_adapter(tmp_path, base)


UNIONS: list[tuple[Union, str]] = [
    (Union(parts=(Prefix(length=2), Select(at="final_norm"))), "trains no modules whole beside prefix. Leave select out"),
    (Union(parts=(IA3(), BitFit(add_missing=True))), "trains no biases beside ia3. Leave bitfit out"),
    (Union(parts=(IA3(), LoRA(rank=2))), "one method, .* this union has ia3, lora"),
    (Union(parts=(Houlsby(bottleneck=2), Select(at="final_norm"))), "The method houlsby has no form in PEFT"),
    (Union(parts=(IA3(), Select(at="block.*.attn.k"))), "PEFT does not adapt .*k_proj.* stored whole"),
]


@pytest.mark.parametrize(("method", "message"), UNIONS, ids=lambda value: "" if isinstance(value, Union) else value[:30])
def test_unions_without_a_form(tmp_path: Path, method: Union, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        export(moved_adapter(tiny_base("llama"), method), tmp_path / "x")
