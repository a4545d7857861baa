"""AdaLoRA against PEFT's: the forward, the penalty, and a whole fit's budget with PEFT's own allocator on the same gradients."""

from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, SiteError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.methods.adalora import AdaLoRA, AdaLoRAEdit
from lmtailor.readouts.head import Head
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.readouts.examples import sentiment_task
from tests.tiny import tiny_base, tiny_inputs


def count(method: AdaLoRA, base: Base) -> int:
    """Σ K · (I + O + 1), from the weights themselves."""
    shapes = {site.name: base.linear(site).weight_OI.shape for site in base.sites.select(method.at, "projection")}
    ranks = dict.fromkeys(shapes, method.init_rank) if method.ranks is None else method.ranks
    return sum(rank * (sum(shapes[site]) + 1) for site, rank in ranks.items())


def test_the_count_by_hand() -> None:
    """Four blocks: q, k, v and o of 48 × 48, up and down of 48 × 64."""
    assert AdaLoRA(init_rank=3, target_rank=2).edits(base_of("bert").sites, None).num_parameters == 4 * 3 * (4 * 97 + 2 * 113)


def adapted(edits: Edits) -> Iterator[AdaLoRAEdit]:
    for edit in edits:
        assert isinstance(edit, AdaLoRAEdit)
        yield edit


def names(base: Base, edit: AdaLoRAEdit) -> dict[str, Tensor]:
    """PEFT's names of an edit's tensors."""
    start = f"base_model.model.{base.sites[edit.site].module}"
    tensors = {"A": edit.q_KI, "B": edit.p_OK, "E": edit.lambda_K[:, None]}
    return {f"{start}.lora_{name}.default": tensor for name, tensor in tensors.items()}


def theirs(base: Base, edits: Edits, config: peft.AdaLoraConfig) -> Any:
    model = wrapped(tiny_base(base.family.name).model, config)
    state = {name: tensor.detach() for edit in adapted(edits) for name, tensor in names(base, edit).items()}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert {name for name in missing.missing_keys if "lora_" in name} == set()
    return model


PARITY: list[tuple[str, AdaLoRA, dict[str, Any]]] = [
    ("llama", AdaLoRA(init_rank=5, target_rank=3, at="block.*.attn.{q,v}"), {"target_modules": ["q_proj", "v_proj"]}),
    ("llama", AdaLoRA(init_rank=5, target_rank=3, alpha=7.0), {"target_modules": "all-linear"}),
    ("gpt2", AdaLoRA(init_rank=4, target_rank=2, at="block.*.attn.qkv"), {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("t5", AdaLoRA(init_rank=4, target_rank=2, at="block.*.{attn,cross}.{q,v}"), {"target_modules": ["q", "v"]}),
]


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: AdaLoRA, settings: dict[str, Any]) -> None:
    """PEFT divides by the rank and 1e-5, which is within the bound."""
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)), scale=0.3)
    alpha = int(method.alpha or method.init_rank)
    model = theirs(base, edits, peft.AdaLoraConfig(init_r=method.init_rank, lora_alpha=alpha, total_step=10, **settings))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_the_penalty_of_the_code_is_pefts() -> None:
    base = base_of("llama")
    method = AdaLoRA(init_rank=5, target_rank=3, at="block.*.attn.{q,v}", orthogonality="norm", gamma=0.3)
    edits = perturbed(method.edits(base.sites, generator(0)), scale=0.3)
    settings: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "total_step": 10, "init_r": 5, "lora_alpha": 5}
    inputs = tiny_inputs(base)
    with torch.no_grad():
        without, with_it = (
            theirs(base, edits, peft.AdaLoraConfig(orth_reg_weight=weight, **settings))
            .base_model(**inputs, labels=inputs["input_ids"])
            .loss
            for weight in (0.0, 0.3)
        )
    assert float(method.penalty(edits)) == pytest.approx(float(with_it - without), rel=1e-5)


def test_the_penalty_of_the_paper() -> None:
    """Σ ‖PᵀP - I‖² + ‖QQᵀ - I‖²; zero for orthonormal P and Q, and it has a gradient."""
    method = AdaLoRA(init_rank=3, target_rank=2, at="block.0.attn.q", gamma=0.5)
    edits = perturbed(method.edits(base_of("bert").sites, generator(0)), scale=0.3, grad=True)
    (edit,) = adapted(edits)
    wanted = 0.0
    for gram in (edit.p_OK.T @ edit.p_OK, edit.q_KI @ edit.q_KI.T):
        wanted += 0.5 * float(sum((float(gram[i, j].detach()) - (i == j)) ** 2 for i in range(3) for j in range(3)))
    penalty = method.penalty(edits)
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-5)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert edit.p_OK.grad is not None
    assert edit.p_OK.grad.any()
    ortho = torch.linalg.qr(torch.randn(48, 3, generator=generator(1)))[0]
    exact = Edits((edit.with_tensors({"p_OK": ortho, "q_KI": ortho.T}),))
    assert float(method.penalty(exact).detach()) < 1e-10


TOTAL = 20


def test_a_whole_fits_budget_is_that_of_pefts_allocator() -> None:
    """The same tensors and gradients, moved by the same noise, through all phases: warm-up, fall, final."""
    base = base_of("llama")
    method = AdaLoRA(init_rank=6, target_rank=2, at="block.*.attn.{q,v}", warmup_share=0.15, final_share=0.25, every=2)
    edits = perturbed(method.edits(base.sites, generator(0)), grad=True)
    config = peft.AdaLoraConfig(
        init_r=6, target_r=2, lora_alpha=6, tinit=3, tfinal=5, deltaT=2, total_step=TOTAL, target_modules=["q_proj", "v_proj"]
    )
    model = theirs(base, edits, config)
    parameters = dict(model.named_parameters())
    rng, memory = generator(3), dict[str, Tensor]()
    alive = []
    for step in range(TOTAL):
        for edit in adapted(edits):
            for name, tensor in names(base, edit).items():
                gradient = torch.randn(tensor.shape, generator=rng)
                parameters[name].grad = gradient.clone()
                field = {"A": "q_KI", "B": "p_OK", "E": "lambda_K"}[name.split("lora_")[1][0]]
                own = edit.trained()[field]
                own.grad = gradient.reshape(own.shape)
                with torch.no_grad():
                    own.add_(own.grad, alpha=-0.01)
                    parameters[name].add_(gradient, alpha=-0.01)
        with torch.no_grad():
            method.stepped(edits, memory, step, TOTAL)
        model.base_model.update_and_allocate(step)
        for edit in adapted(edits):
            for name, tensor in names(base, edit).items():
                assert torch.equal(tensor == 0, parameters[name] == 0), (step, name)
                assert torch.allclose(tensor, parameters[name], rtol=1e-5, atol=1e-7), (step, name)
        alive.append(sum(int(edit.lambda_K.count_nonzero()) for edit in adapted(edits)))
    assert alive[:4] == [48] * 4  # warm-up, and the first step after it is odd
    assert 16 < alive[6] < 48
    assert alive[15:] == [16] * 5
    finished_method, finished = method.finished(edits)
    assert isinstance(finished_method, AdaLoRA)
    wanted = {name.removesuffix(".lora_E"): sum(kept) for name, kept in model.peft_config["default"].rank_pattern.items()}
    assert {base.sites[site].module: rank for site, rank in (finished_method.ranks or {}).items()} == {
        name.removesuffix(".lora_E.default"): rank for name, rank in wanted.items() if rank
    }
    assert sum((finished_method.ranks or {}).values()) == 16
    shapes = finished_method.edits(base.sites, None).state()
    assert {name: value.shape for name, value in shapes.items()} == {n: v.shape for n, v in finished.state().items()}
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        before = logits(base, inputs)
    with torch.no_grad(), attach(base, Worn(finished)):
        assert apart(logits(base, inputs), before) < 1e-5


def stepped(method: AdaLoRA, edits: Edits, memory: dict[str, Tensor], steps: range, total: int) -> None:
    """Steps with gradients that depend on the step alone."""
    for step in steps:
        rng = generator(step)
        for tensor in edits.state().values():
            tensor.grad = torch.randn(tensor.shape, generator=rng)
        with torch.no_grad():
            for tensor in edits.state().values():
                assert tensor.grad is not None
                tensor.add_(tensor.grad, alpha=-0.01)
            method.stepped(edits, memory, step, total)


@pytest.mark.parametrize("stop", [5, 12])
def test_the_memory_is_all_that_is_needed_to_go_on(stop: int) -> None:
    """In the middle of the fall, and after it."""
    base = base_of("bert")
    method = AdaLoRA(init_rank=4, target_rank=2, at="block.*.attn.{q,v}")

    def start() -> Edits:
        return perturbed(method.edits(base.sites, generator(0)), grad=True)

    whole, memory = start(), dict[str, Tensor]()
    stepped(method, whole, memory, range(16), 16)
    part, memory = start(), {}
    stepped(method, part, memory, range(stop), 16)
    again = part.with_state({name: value.detach().clone().requires_grad_() for name, value in part.state().items()})
    stepped(method, again, {name: value.clone() for name, value in memory.items()}, range(stop, 16), 16)
    assert all(torch.equal(value, again.state()[name]) for name, value in whole.state().items())


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_fit_of_few_steps_still_reaches_the_budget(total: int) -> None:
    method = AdaLoRA(init_rank=4, target_rank=2, at="block.*.attn.{q,v}")
    edits = perturbed(method.edits(base_of("bert").sites, generator(0)), grad=True)
    stepped(method, edits, {}, range(total), total)
    assert sum(int(edit.lambda_K.count_nonzero()) for edit in adapted(edits)) == 8 * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_rank": 13}, "target_rank is 13; it must be from 1 to init_rank, which is 12"),
        ({"target_rank": 0}, "target_rank is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"warmup_share": 0.5, "final_share": 0.5}, "leave no steps in which the budget falls"),
        ({"warmup_share": -0.1}, "warmup_share -0.1"),
        ({"every": 0}, "every is 0"),
        ({"beta1": 1.0}, r"beta1 1\.0"),
        ({"gamma": -1.0}, r"gamma is -1\.0"),
        ({"ranks": {"block.0.attn.q": 0}}, "Every rank in `ranks` is at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaLoRA(**settings)


def test_ranks_must_fit_the_base_and_the_pattern() -> None:
    sites = base_of("llama").sites
    with pytest.raises(InputError, match=r"rank 17 is above that of block\.0\.attn\.v, a 16 × 48 matrix"):
        AdaLoRA(init_rank=17, at="block.*.attn.v").edits(sites, None)
    with pytest.raises(
        InputError, match=r"`ranks` has 'block\.0\.attn\.q', which the pattern 'block\.\*\.attn\.v' does not select"
    ):
        AdaLoRA(at="block.*.attn.v", ranks={"block.0.attn.q": 2}).edits(sites, None)
    with pytest.raises(SiteError, match=r"llama has no site 'block\.9\.attn\.q'"):
        AdaLoRA(ranks={"block.9.attn.q": 2}).edits(sites, None)


def test_a_fit_ends_with_the_budgets_ranks() -> None:
    """Through the loop: penalty, steps and plain form."""
    base = tiny_base("bert")
    method = AdaLoRA(init_rank=4, target_rank=2, at="block.*.attn.{q,v}")
    training = Training(epochs=4, batch_size=4, keep="last")
    adapter = fit(base, sentiment_task(), method=method, readout=Head(), training=training, seed=0)
    assert isinstance(adapter.method, AdaLoRA)
    ranks = adapter.method.ranks or {}
    assert sum(ranks.values()) == 8 * 2
    assert len(set(ranks.values())) > 1
    assert all(bool((edit.lambda_K != 0).all()) for edit in adapted(adapter.edits))
