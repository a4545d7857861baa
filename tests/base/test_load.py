import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertForPreTraining,
    BertForPreTraining,
    BertForSequenceClassification,
    ElectraForPreTraining,
    LlamaForSequenceClassification,
    T5EncoderModel,
)
from transformers.utils import logging

from lmtailor.base.load import load_base
from lmtailor.core.errors import InputError, UnsupportedError
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_config, tiny_inputs, tiny_model, tiny_tokenizer


def saved(folder: Path, key: str, model: Any = None) -> Path:
    """A model folder with a tokenizer."""
    (model if model is not None else tiny_model(key)).save_pretrained(folder)
    tiny_tokenizer(kind_of(key)).save_pretrained(folder)
    return folder


def perturbed(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("bert"), "bert")


@pytest.mark.parametrize("key", FAMILIES)
def test_a_folder_gives_the_saved_model(key: str, tmp_path: Path) -> None:
    before = tiny_base(key)
    after = load_base(saved(tmp_path, key))
    assert (after.fingerprint, after.has_lm_head, after.dtype) == (before.fingerprint, True, torch.float32)
    assert after.source == str(tmp_path)
    inputs = tiny_inputs(before)
    with torch.no_grad():
        torch.testing.assert_close(after.model(**inputs).logits, before.model(**inputs).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("key", ["bert", "albert", "roberta", "llama", "modernbert"])
def test_a_checkpoint_without_lm_head_gives_a_headless_base(key: str, tmp_path: Path) -> None:
    model = tiny_model(key, head=False)
    base = load_base(saved(tmp_path, key, model))
    assert not base.has_lm_head
    assert base.trunk is base.model
    assert (base.pooler is not None) == (key in {"bert", "albert", "roberta"})
    inputs = tiny_inputs(base)
    torch.testing.assert_close(base.hidden(inputs).last_NTH, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("key", ["gpt2", "t5", "bart"])
def test_a_tied_lm_head_needs_no_weights_of_its_own(key: str, tmp_path: Path) -> None:
    base = load_base(saved(tmp_path, key, tiny_model(key, head=False)))
    assert base.has_lm_head
    head = base.sites["lm_head"]
    embedding = base.module(base.stacks[-1].embedding).get_parameter("weight")
    assert base.linear(head).weight_OI.data_ptr() == embedding.data_ptr()


def test_an_lm_checkpoint_without_pooler_has_none(bert: Path) -> None:
    base = load_base(bert)
    assert base.has_lm_head
    assert base.pooler is None


@pytest.mark.parametrize(("key", "kind"), [("bert", BertForPreTraining), ("albert", AlbertForPreTraining)])
def test_lm_head_and_pooler_are_both_kept(key: str, kind: Any, tmp_path: Path) -> None:
    model = perturbed(kind(tiny_config(key))).eval()
    base = load_base(saved(tmp_path, key, model))
    assert base.has_lm_head
    assert base.pooler is not None
    own = dict(getattr(model, key).pooler.named_parameters())
    kept = dict(base.pooler.named_parameters())
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in own)
    inputs = tiny_inputs(base)
    with torch.no_grad():
        torch.testing.assert_close(base.model(**inputs).logits, model(**inputs).prediction_logits)
        torch.testing.assert_close(base.trunk(**inputs).pooler_output, getattr(model, key)(**inputs).pooler_output)


def test_a_sequence_classifier_keeps_its_pooler(tmp_path: Path) -> None:
    model = perturbed(BertForSequenceClassification(tiny_config("bert"))).eval()
    base = load_base(saved(tmp_path, "bert", model))
    assert not base.has_lm_head
    assert base.pooler is not None
    assert torch.equal(base.pooler.get_parameter("dense.weight"), model.bert.pooler.dense.weight)
    inputs = tiny_inputs(base)
    torch.testing.assert_close(base.hidden(inputs).last_NTH, model.bert(**inputs).last_hidden_state)


@pytest.mark.parametrize(("key", "kind"), [("llama", LlamaForSequenceClassification), ("electra", ElectraForPreTraining)])
def test_checkpoints_with_other_heads_are_headless(key: str, kind: Any, tmp_path: Path) -> None:
    base = load_base(saved(tmp_path, key, kind(tiny_config(key))))
    assert not base.has_lm_head


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(bert: Path, dtype: Any, tmp_path: Path) -> None:
    base = load_base(bert, dtype=dtype)
    assert base.dtype == getattr(torch, dtype)
    assert all(parameter.dtype == base.dtype for parameter in base.model.parameters())
    assert base.fingerprint == load_base(bert).fingerprint
    stored = saved(tmp_path, "bert", tiny_model("bert").to(base.dtype))
    assert load_base(stored, dtype="auto").dtype == base.dtype
    assert load_base(stored).dtype == torch.float32


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("decoder")
    tokenizer.pad_token = None
    tiny_model("gpt2", pad_token_id=None).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = load_base(tmp_path)
    assert base.tokenizer.pad_token == "</s>"
    assert base.model.generation_config is not None
    assert base.model.generation_config.pad_token_id == 2


def test_transformers_settings_are_as_before(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_base(bert)
    with pytest.raises(InputError):
        load_base(bert.parent / "nothing")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


# what cannot be loaded


def edited(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_missing_weights_of_the_trunk_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    edited(folder, lambda weights: [weights.pop(name) for name in list(weights) if "layer.2.attention.self" in name])
    with pytest.raises(InputError, match=r"lacks weights.*bert\.encoder\.layer\.2\.attention\.self\.key\.bias.* and 1 more"):
        load_base(folder)


def test_missing_weights_of_a_headless_trunk_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama", tiny_model("llama", head=False))
    edited(folder, lambda weights: weights.pop("norm.weight"))
    with pytest.raises(InputError, match=r"lacks weights of the model itself: model\.norm\.weight"):
        load_base(folder)


def test_half_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "t5", T5EncoderModel(tiny_config("t5")))
    with pytest.raises(InputError, match=r"lacks weights of the model itself: decoder\.block\.0"):
        load_base(folder)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = edited(saved(tmp_path, "llama"), lambda weights: weights.update({"model.norm.weight": torch.ones(40)}))
    with pytest.raises(InputError, match=r"do not fit its configuration: model\.norm\.weight is \(40,\), not \(48,\)"):
        load_base(folder)


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "opened"),))

    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only as a pickle \(pytorch_model\.bin\).*never opened.*safetensors"):
        load_base(folder)
    assert not (tmp_path / "opened").exists()


def test_truncated_and_garbled_weights(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"not weights at all", b""):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"Cannot read the weights of .*Get it again"):
            load_base(folder)


def test_a_broken_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(InputError, match="Cannot read the configuration of"):
        load_base(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"does not know the architecture of .*Known here are bert"):
        load_base(folder)


def test_an_architecture_that_transformers_or_we_do_not_know(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "from_the_future"}))
    with pytest.raises(UnsupportedError, match="from_the_future"):
        load_base(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "xlm"}))
    with pytest.raises(UnsupportedError, match=r"'xlm' is not known\. Known are bert, "):
        load_base(folder)


def test_code_of_the_model_s_own_runs_only_on_demand(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "configuration_homemade.Homemade"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_homemade.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match=r"comes with code of its own\. Pass trust_remote_code=True"):
        load_base(folder)


@pytest.mark.parametrize("key", ["bert", "gpt2", "llama", "t5"])
def test_no_tokenizer(key: str, tmp_path: Path) -> None:
    tiny_model(key).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer.*Put its tokenizer files"):
        load_base(tmp_path)


def test_a_garbled_tokenizer(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    (folder / "tokenizer.json").write_text("garbled")
    with pytest.raises(InputError, match="has no tokenizer that can be read"):
        load_base(folder)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    tiny_model("bert", vocab_size=100).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"has ids up to 139, but the model knows 100 words\. They do not belong together"):
        load_base(tmp_path)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, r"no config\.json\. It is empty"),
        ({"notes.txt": ""}, r"no config\.json\. It holds notes\.txt"),
        ({"adapter_config.json": "{}"}, "looks like an adapter"),
        ({"model.gguf": "GGUF"}, "For a GGUF model give the file itself"),
        ({"config.json": "{}"}, r"no weights \(\*\.safetensors\)"),
    ],
)
def test_folders_that_are_no_models(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        load_base(tmp_path)


def test_paths_that_are_not_there(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no file or folder .*Did you mean {bert}"):
        load_base(f"{bert}x")
    for path in (tmp_path / "a", "./no/such", "model.gguf"):
        with pytest.raises(InputError, match="There is no file or folder"):
            load_base(path)
    with pytest.raises(InputError, match="an empty name"):
        load_base(" ")
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="a single file that is not GGUF"):
        load_base(file)


def test_a_hub_id_that_is_not_in_the_cache() -> None:
    with pytest.raises(InputError, match=r"Cannot get the configuration of 'nobody/nothing'.*a connection is needed"):
        load_base("nobody/nothing")


@pytest.mark.parametrize(("dtype", "says"), [("bf16", "Did you mean bfloat16"), ("int8", "Known: float32, bfloat16")])
def test_unknown_dtypes(bert: Path, dtype: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"no dtype '{dtype}'.*{says}"):
        load_base(bert, dtype=dtype)


@pytest.mark.parametrize(
    ("device", "says"), [("cpus", "is no device. Did you mean cpu"), ("xpu", "no device for models"), ("cuda:99", "is not there")]
)
def test_unknown_devices(bert: Path, device: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_base(bert, device=device)


# GGUF


def write_gguf(path: Path, model: Any) -> None:
    """A tiny Llama as llama.cpp would store it, with a byte-level tokenizer."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is absent")
    writer = gguf.GGUFWriter(path, "llama")
    config, tokenizer = model.config, tiny_tokenizer("decoder")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number < 9 else 1 for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
    parts |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for i in range(4) for ours, theirs in parts.items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        stored, array = names[name.removesuffix(".weight")], value.numpy()
        if count := heads.get(stored.split(".")[-1]):  # llama.cpp's order of rotary features
            array = array.reshape(count, 2, array.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"{stored}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_loads_saves_and_loads_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama")
    write_gguf(tmp_path / "tiny.gguf", model)
    capfd.readouterr()
    base = load_base(tmp_path / "tiny.gguf")
    assert capfd.readouterr() == ("", "")
    inputs = tiny_inputs(base)
    torch.testing.assert_close(base.model(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert base.tokenizer("great").input_ids == tiny_tokenizer("decoder")("great").input_ids
    base.model.save_pretrained(tmp_path / "again")
    base.tokenizer.save_pretrained(tmp_path / "again")
    again = load_base(tmp_path / "again")
    assert again.fingerprint == base.fingerprint
    assert torch.equal(again.model(**inputs).logits, base.model(**inputs).logits)
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_damaged_gguf_files(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGML and more")
    with pytest.raises(InputError, match="does not begin as a GGUF file does"):
        load_base(path)
    write_gguf(path, tiny_model("llama"))
    whole = path.read_bytes()
    for data in (whole[:2000], b"GGUF" + struct.pack("<I", 99) + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"Cannot read the configuration of {path}: .*The file is damaged"):
            load_base(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"Cannot read .* of {path}: "):
        load_base(path)


def test_a_real_encoder(minilm: Path) -> None:
    base = load_base(minilm)
    assert (base.has_lm_head, base.max_length, base.hidden_size) == (False, 512, 384)
    assert base.pooler is not None


@pytest.mark.slow
def test_a_real_gguf_file(smollm2: Path) -> None:
    base = load_base(smollm2, dtype="bfloat16")
    assert (base.has_lm_head, base.max_length, base.sites.blocks()) == (True, 8192, 30)
    attention = base.sites["block.0.attn"].attention
    assert attention is not None
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (9, 3, 64)


def test_a_real_masked_lm(shared: Path) -> None:
    base = load_base(shared / "models" / "minilm-mlm")
    assert base.has_lm_head
    text = base.tokenizer("Paris is the capital of [MASK].", return_tensors="pt")
    last = base.hidden(dict(text)).last_NTH
    place = int((text["input_ids"][0] == base.tokenizer.mask_token_id).nonzero())
    best = base.tokenizer.convert_ids_to_tokens(base.lm_logits(last[0, place]).topk(20).indices.tolist())
    assert "france" in best
