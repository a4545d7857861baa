"""Every family's table, held against a tiny model of it in motion."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmtailor.base.base import Base
from lmtailor.base.sites import Site
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in FAMILIES},
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "t5-gated": ("t5", {"feed_forward_proj": "gated-gelu"}),
    "albert-inner": ("albert", {"inner_group_num": 2, "num_hidden_groups": 1, "num_hidden_layers": 2}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "marian-two-vocabularies": ("marian", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 401}),
}
everyone = pytest.mark.parametrize("name", VARIANTS)


@functools.cache
def base_of(name: str) -> Base:
    key, overrides = VARIANTS[name]
    return tiny_base(key, **overrides)


def first(value: Any) -> Tensor:
    tensor = value[0] if isinstance(value, tuple) else value
    assert isinstance(tensor, Tensor)
    return tensor


def run(base: Base, hooks: dict[str, Callable[[Any, Tensor, Tensor], Tensor | None]], **options: Any) -> None:
    """One forward of the model with functions (module, first input, output) -> new output or None at module paths."""
    with ExitStack() as stack, torch.no_grad():
        for path, function in hooks.items():

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, function: Any = function) -> Any:
                x = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))
                new = function(module, x, first(output))
                if new is None:
                    return None
                return (new, *output[1:]) if isinstance(output, tuple) else new

            stack.callback(base.module(path).register_forward_hook(hook, with_kwargs=True).remove)
        base.model(**tiny_inputs(base, **options))


@everyone
def test_every_site_is_called_and_has_the_declared_widths(name: str) -> None:
    base = base_of(name)
    seen: dict[str, list[tuple[int, int | None]]] = {}

    def note(path: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        seen.setdefault(path, []).append((y.shape[-1], x.shape[-1] if x.is_floating_point() else None))

    run(base, {path: functools.partial(note, path) for path in {site.module for site in base.sites.values()}})
    for site in base.sites.values():
        assert len(seen[site.module]) == site.calls, site
        assert 0 <= site.call < site.calls
        out, width = seen[site.module][site.call]
        if site.part is not None:
            assert site.fused is not None
            assert site.part.width == site.width
            assert site.part.rows().max() < out == base.sites[site.fused].width
        else:
            assert out == site.width, site
        assert site.in_width is None or site.in_width == width, site


@everyone
def test_names_are_complete(name: str) -> None:
    base = base_of(name)
    for stack in base.stacks:
        prefix = f"{stack.name}." if stack.name else ""
        cross = stack.name == "decoder"
        assert f"{prefix}embed" in base.sites
        assert base.sites.blocks(stack.name) == len(stack.blocks) == 4
        for number in range(4):
            block = f"{prefix}block.{number}"
            wanted = [block, f"{block}.ffn.up", f"{block}.ffn.down", f"{block}.norm2"]
            wanted += [f"{block}.{sub}" for sub in ("attn", "ffn")] + [f"{block}.attn.{part}" for part in "qkvo"]
            wanted += [f"{block}.cross", *(f"{block}.cross.{part}" for part in "qkvo")] if cross else []
            missing = [site for site in wanted if site not in base.sites]
            assert not missing
            assert base.sites[block].block == number
    assert "lm_head" in base.sites


@everyone
def test_parts_of_fused_projections_tile_the_whole(name: str) -> None:
    base = base_of(name)
    parts: dict[str, list[Site]] = {}
    for site in base.sites.values():
        if site.fused is not None:
            parts.setdefault(site.fused, []).append(site)
    for fused, some in parts.items():
        rows = torch.cat([site.part.rows() for site in some if site.part is not None])
        assert sorted(rows.tolist()) == list(range(base.sites[fused].width))


def sublayers(base: Base, block: Site) -> list[Site]:
    names = (f"{block.name}.{sub}" for sub in ("attn", "cross", "ffn"))
    return [base.sites[name] for name in names if name in base.sites]


@everyone
def test_a_block_without_its_sublayers_is_the_residual_stream(name: str) -> None:
    base = base_of(name)
    hooks = {site.module: lambda m, x, y: torch.zeros_like(y) for site in base.sites.values() if site.kind == "sublayer"}
    ends: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def note(path: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        ends.setdefault(path, []).append((x, y))

    gemma = base.family.name.startswith("gemma")
    assert not gemma or all(path.endswith("layernorm") for path in hooks)
    blocks = [site for site in base.sites.values() if site.kind == "block"]
    run(base, {**hooks, **{block.module: functools.partial(note, block.module) for block in blocks}})
    for block in blocks:
        x, y = ends[block.module][block.call]
        for site in sublayers(base, block):
            if site.next_norm is not None:
                x = base.module(base.sites[site.next_norm].module)(x)
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@everyone
def test_entry_residual_and_output_add_up(name: str) -> None:
    """The residual that enters a sublayer and its output make what follows: the next norm's input, or the next residual."""
    base = base_of(name)
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def note(path: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        inputs.setdefault(path, []).append(x.flatten(0, -2))
        outputs.setdefault(path, []).append(y.flatten(0, -2))

    paths = {site.module for site in base.sites.values() if site.kind != "embedding"}
    paths |= {site.entry.module for site in base.sites.values() if site.entry is not None}
    run(base, {path: functools.partial(note, path) for path in paths})
    parallel = name == "gpt_neox"
    for block in [site for site in base.sites.values() if site.kind == "block"]:
        subs, call = sublayers(base, block), block.call
        assert subs[0].entry is not None
        torch.testing.assert_close(inputs[subs[0].entry.module][call], inputs[block.module][call])
        for site, after in zip(subs, [*subs[1:], None], strict=True):
            assert site.entry is not None
            assert site.entry.normed == (site.next_norm is None)
            total = inputs[site.entry.module][call] + outputs[site.module][call]
            if site.next_norm is not None:
                found = inputs[base.sites[site.next_norm].module][call]
            elif after is not None:
                assert after.entry is not None
                found = inputs[after.entry.module][call]
                total = inputs[site.entry.module][call] if parallel else total
            else:
                found = outputs[block.module][call]
                total = total + outputs[subs[0].module][call] if parallel else total
            torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-5)


@pytest.fixture
def spied() -> Iterator[Callable[[Base], list[tuple[Any, Tensor, Tensor, Tensor]]]]:
    """Switches a base to an attention function that records (module, q, k, v) of every call."""
    changed: list[tuple[Any, str]] = []

    def spy(base: Base) -> list[tuple[Any, Tensor, Tensor, Tensor]]:
        calls: list[tuple[Any, Tensor, Tensor, Tensor]] = []

        def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Any:
            calls.append((module, q, k, v))
            options.pop("softcap", None)  # Gemma 2's own; it changes no projection
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, **options)

        ALL_ATTENTION_FUNCTIONS.register("spy", attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register("spy", sdpa_mask)
        for config in {id(c): c for c in (getattr(m, "config", None) for m in base.model.modules()) if c is not None}.values():
            changed.append((config, config._attn_implementation))
            config._attn_implementation_internal = "spy"
        return calls

    yield spy
    for config, before in changed:
        config._attn_implementation_internal = before
    for registry in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        registry._global_mapping.pop("spy", None)


@everyone
def test_q_k_and_v_are_what_attention_gets(name: str, spied: Any) -> None:
    """Adding 1 to a projection changes that tensor at the attention interface, and in the first block no other."""
    base = base_of(name)
    calls = spied(base)
    run(base, {})
    plain = list(calls)
    for site in base.sites.values():
        if site.kind != "sublayer" or site.attention is None or site.block not in (0, 2):
            continue
        module = base.module(site.attention.module)
        for number, part in enumerate("qkv"):
            projection = base.sites[f"{site.name}.{part}"]
            seen = Counter[str]()

            def add(module: nn.Module, x: Tensor, y: Tensor, projection: Site = projection, seen: Any = seen) -> Tensor | None:
                seen["calls"] += 1
                if seen["calls"] - 1 != projection.call:
                    return None
                if projection.part is None:
                    return y + 1
                return projection.part.put(y, projection.part.take(y) + 1)

            calls.clear()
            run(base, {projection.module: add})
            ours = [(old, new) for old, new in zip(plain, calls, strict=True) if old[0] is module][site.call]
            changed = [not torch.allclose(a, b, atol=1e-6) for a, b in zip(ours[0][1:], ours[1][1:], strict=True)]
            assert changed == [number == one for one in range(3)], (site.name, part)
            heads, kv_heads = ours[0][1].shape[1], ours[0][2].shape[1]
            assert (heads, kv_heads) == (site.attention.heads, site.attention.kv_heads)
            assert ours[0][1].shape[-1] == site.attention.head_dim
            assert site.attention.cross == (".cross" in site.name)


@everyone
def test_gate_goes_through_the_activation_and_up_does_not(name: str) -> None:
    base = base_of(name)
    gates = [site for site in base.sites.values() if site.name.endswith("ffn.gate")]
    gated = name in {"llama", "mistral", "qwen2", "qwen2-window", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3"}
    assert bool(gates) == (gated or name in {"modernbert", "umt5", "t5-gated"})
    for gate in gates:
        before = gate.name.removesuffix(".gate")
        inner: dict[str, Tensor] = {}
        for part in ("gate", "up"):
            site = base.sites[f"{before}.{part}"]

            def sink(module: nn.Module, x: Tensor, y: Tensor, site: Site = site) -> Tensor:
                if site.part is None:
                    return torch.full_like(y, -50.0)
                return site.part.put(y, torch.full_like(site.part.take(y), -50.0))

            def note(module: nn.Module, x: Tensor, y: Tensor, part: str = part, inner: dict[str, Tensor] = inner) -> None:
                inner[part] = x

            run(base, {site.module: sink, base.sites[f"{before}.down"].module: note})
        assert inner["gate"].abs().max() < 1e-6 < inner["up"].abs().max()


@everyone
def test_norm_views_equal_their_modules(name: str) -> None:
    base = base_of(name)
    norms = [site for site in base.sites.values() if site.kind == "norm"]
    assert norms
    for site in norms:
        view, module = base.norm(site), base.module(site.module)
        x = torch.randn(2, 3, site.width) * 3 + 1
        shift = 0 if view.shift_H is None else view.shift_H
        assert view.gain_H.std() > 0.01
        torch.testing.assert_close(view.normalised(x) * view.gain_H + shift, module(x), rtol=1e-5, atol=1e-5)


@everyone
def test_linear_views_equal_their_modules(name: str) -> None:
    base = base_of(name)
    for site in [site for site in base.sites.values() if site.kind == "projection"]:
        view, module = base.linear(site), base.module(site.module)
        x = torch.randn(2, 3, site.in_width or 0)
        y = module(x)
        y = y if site.part is None else site.part.take(y)
        assert view.weight_OI.shape == (site.width, site.in_width)
        torch.testing.assert_close(linear(x, view.weight_OI, view.bias_O), y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(view.row_norms_O(), view.weight_OI.pow(2).sum(1).sqrt())


@everyone
def test_windows_are_those_of_the_masks(name: str) -> None:
    base = base_of(name)
    before = base.model.config._attn_implementation
    base.model.set_attn_implementation("eager")
    masks: dict[str, list[Any]] = {}
    tokens = 12
    try:
        with ExitStack() as hooks, torch.no_grad():
            for site in base.sites.values():
                if site.attention is None or site.attention.cross or site.attention.module in masks:
                    continue
                masks[site.attention.module] = []

                def note(module: nn.Module, args: Any, kwargs: Any, path: str = site.attention.module) -> None:
                    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask", kwargs.get("mask"))
                    masks[path].append(mask)

                hooks.callback(base.module(site.attention.module).register_forward_pre_hook(note, with_kwargs=True).remove)
            ids = torch.arange(9, 9 + tokens)[None]
            base.model(input_ids=ids, **({"decoder_input_ids": ids} if base.kind == "encoder-decoder" else {}))
    finally:
        base.model.set_attn_implementation(before)
    place = torch.arange(tokens)
    distance = place[:, None] - place[None, :]
    for site in base.sites.values():
        if site.attention is None or site.attention.cross:
            continue
        causal = next(stack.causal for stack in base.stacks if stack.name == site.stack)
        allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        if site.attention.window is not None:
            allowed &= distance.abs() < site.attention.window
        mask = masks[site.attention.module][site.call]
        seen = torch.ones_like(allowed) if mask is None else mask[0, 0] == 0
        assert torch.equal(seen.expand(tokens, tokens), allowed), site.name


def test_which_blocks_have_windows() -> None:
    def windows(name: str) -> list[int | None]:
        found = [site.attention.window for site in base_of(name).sites.values() if site.attention is not None]
        return found

    assert windows("modernbert") == [None, 5, None, 5]
    assert windows("mistral") == [6] * 4
    assert windows("gemma2") == [6, None, 6, None]
    assert windows("gemma3_text") == [6, None, 6, None]
    assert windows("qwen2-window") == [None, None, 5, 5]
    assert windows("llama") == [None] * 4


@everyone
def test_positions_fill_the_table_and_no_more(name: str) -> None:
    base = base_of(name)
    for stack in base.stacks:
        if stack.max_positions is None:
            assert stack.positions in {"argument", "relative"}
            assert stack.position_embedding is None
            continue

        def forward(tokens: int, decoder: bool = stack.name == "decoder") -> Tensor:
            ids = torch.full((1, tokens), 9)
            more = {"decoder_input_ids": ids[:, :2]} if base.kind == "encoder-decoder" else {}
            if decoder:
                ids, more = ids[:, :2], {"decoder_input_ids": ids}
            with torch.no_grad():
                return base.hidden({"input_ids": ids, **more}).last_NTH

        assert forward(stack.max_positions).isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            forward(stack.max_positions + 1)


def test_albert_blocks_are_calls() -> None:
    sites = base_of("albert").sites
    assert [(sites[f"block.{i}"].call, sites[f"block.{i}"].calls) for i in range(4)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert sites["block.0"].module == sites["block.1"].module != sites["block.2"].module
    inner = base_of("albert-inner").sites
    assert [inner[f"block.{i}"].module[-1] for i in range(4)] == ["0", "1", "0", "1"]


def test_what_is_no_site() -> None:
    assert "block.0.norm1" not in base_of("modernbert").sites
    assert "block.1.norm1" in base_of("modernbert").sites
    assert "final_norm" not in base_of("opt-350m").sites
    assert "block.0.attn.q_norm" in base_of("qwen3").sites
    assert base_of("qwen3").sites["block.0.attn.q_norm"].width == 16
    assert [f"block.0.norm{i}" in base_of("gemma2").sites for i in range(1, 6)] == [True] * 4 + [False]


def test_opt_with_projections_has_two_sizes() -> None:
    base = base_of("opt-350m")
    assert (base.hidden_size, base.output_size) == (48, 32)
    states = base.hidden(tiny_inputs(base), layers=(0,))
    assert (states.last_NTH.shape[-1], states.layers[0].shape[-1]) == (32, 48)
