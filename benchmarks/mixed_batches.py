"""Many adapters in one batch: a decode step beside the base's and beside PEFT's.

LoRA of rank 8 on all linear layers, float32, prompts of 32 tokens; one step decodes one token for every row with a cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from timing import alternate, once
from torch import Tensor

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.edits.attach import Attached, attach
from lmtailor.store.adapter import Adapter
from lmtailor.store.bank import Bank

LINEAR = "block.*.attn.{q,k,v,o}, block.*.ffn.{gate,up,down}"
PROMPT = 32
ROUNDS = 21
EIGHT = (
    ("lora", {"rank": 8, "at": LINEAR}),
    ("lora", {"rank": 8, "at": LINEAR, "dora": True}),
    ("ia3", {}),
    ("prefix", {"length": 10}),
    ("soft_prompt", {"length": 10}),
    ("houlsby", {}),
    ("bitfit", {"add_missing": True}),
    ("layer_norm_tuning", {}),
)


def moved(base: Base, name: str, settings: dict[str, Any], seed: int) -> Adapter:
    """An adapter away from its start."""
    adapter = lt.new_adapter(base, method=lt.methods.method_class(name)(**settings), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    return adapter.with_state(
        {key: value + 0.01 * torch.randn(value.shape, generator=rng) for key, value in adapter.state.items()}
    )


def stepper(model: Any, rows: int, **options: Any) -> tuple[Callable[[], Tensor], Tensor]:
    """A function that decodes one token for every row, and its logits."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (rows, PROMPT), generator=rng)
    token = torch.randint(100, 40_000, (rows, 1), generator=rng)
    mask = torch.ones(rows, PROMPT + 1, dtype=torch.long)
    with torch.inference_mode():
        cache = model(input_ids=ids, attention_mask=mask[:, :-1], use_cache=True, **options).past_key_values

    @torch.inference_mode()
    def step() -> Tensor:
        out: Tensor = model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, **options).logits
        cache.crop(-1)
        return out

    return step, step().clone()


def decode(base: Base, adapters: Sequence[Adapter], rows: Sequence[int | None]) -> dict[str, float]:
    """Median seconds of a step, ours and the base's, in turns. Attaching and detaching between them are not timed."""
    plain, _ = stepper(base.model, len(rows))
    attached = attach(base, adapters, rows)
    with attached:
        ours, _ = stepper(base.model, len(rows))
    seconds: dict[str, list[float]] = {"base": [], "ours": []}
    for _ in range(ROUNDS):
        plain()  # what the other side left in the processor's caches is not its own
        seconds["base"].append(once(plain))
        with attached:
            ours()
            seconds["ours"].append(once(ours))
    return {name: statistics.median(values) for name, values in seconds.items()}


def stacking(attached: Attached) -> float:
    """Seconds to plan and stack all sites of a batch."""

    def stack() -> None:
        for site in attached.engine.sites:
            plan = attached.engine.plan(site.name)
            for group in () if plan is None else (group for stage in plan.stages for group in stage):
                group.stacked(attached.base.dtype)

    with torch.inference_mode(), attached:
        return once(stack)


def peft_steps(base: Base, folders: Sequence[Path], rows: int) -> tuple[Callable[[], Tensor], Tensor, list[float]]:
    """PEFT's step with one adapter a row, its logits, and the seconds that each adapter took to load."""
    import copy

    from peft import PeftModel

    names = [f"a{number}" for number in range(rows)]
    loads = []
    began = time.perf_counter()
    model = PeftModel.from_pretrained(copy.deepcopy(base.model), str(folders[0]), adapter_name=names[0]).eval()
    loads.append(time.perf_counter() - began)
    for name, folder in zip(names[1:], folders[1:rows], strict=True):
        loads.append(once(lambda name=name, folder=folder: model.load_adapter(str(folder), adapter_name=name)))
        print(f"\r  PEFT has loaded {len(loads)} of {rows}", end="", flush=True)
    print()
    step, logits = stepper(model, rows, adapter_names=names)
    return step, logits, loads


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rows", type=int, nargs="+", default=[16, 64])
    arguments.add_argument("--without-peft", action="store_true")
    arguments.add_argument("--plain-products", action="store_true", help="ours with the base's own matrix products")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    base = lt.load_base(chosen.model, plain_products=chosen.plain_products)
    most = max(chosen.rows)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = [root / str(number) for number in range(most)]
        for number, folder in enumerate(folders):
            lt.save_adapter(moved(base, "lora", {"rank": 8, "at": LINEAR}, number), folder)
        bank = Bank(base)
        registered = [once(lambda i=i: bank.register(f"a{i}", folders[i % most])) for i in range(1000)]
        print(
            f"registering: first {registered[0] * 1e3:.1f} ms, median {sorted(registered)[500] * 1e3:.1f} ms, "
            f"1,000th {registered[-1] * 1e3:.1f} ms"
        )
        took = once(lambda: bank.take([f"a{i}" for i in range(most)]))
        print(f"first use: {took / most * 1e3:.0f} ms an adapter; {bank.resident / 1e6:.0f} MB in memory")
        for rows in chosen.rows:
            adapters = bank.take([f"a{i}" for i in range(rows)])
            attached = attach(base, adapters, range(rows))
            first, again = stacking(attached), stacking(attached)
            print(f"{rows} rows, {rows} adapters: stacking {first:.3f} s, again {again:.3f} s")
            times = decode(base, adapters, range(rows))
            print(
                f"  base {times['base'] * 1e3:.1f} ms, ours {times['ours'] * 1e3:.1f} ms: {times['ours'] / times['base']:.2f} x"
            )
            if not chosen.without_peft:
                peft_row(base, adapters, folders, rows, times)
        mixture = [moved(base, name, settings, seed) for seed in (0, 1) for name, settings in EIGHT]
        times = decode(base, mixture, range(16))
        print(
            f"16 rows, 8 methods: base {times['base'] * 1e3:.1f} ms, ours {times['ours'] * 1e3:.1f} ms: "
            f"{times['ours'] / times['base']:.2f} x"
        )


def peft_row(base: Base, adapters: Sequence[Adapter], folders: Sequence[Path], rows: int, times: dict[str, float]) -> None:
    """PEFT on the same adapters and tokens; its logits must be ours."""
    step, theirs, loads = peft_steps(base, folders, rows)
    with attach(base, adapters, range(rows)):
        _, ours = stepper(base.model, rows)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    assert apart < 1e-4, f"the logits differ by {apart:.1e}"
    seconds = alternate({"peft": step}, rounds=7)["peft"]
    print(
        f"  PEFT {seconds * 1e3:.1f} ms: {seconds / times['base']:.2f} x the base, {seconds / times['ours']:.1f} x ours; "
        f"logits apart by {apart:.1e}; loading {loads[1]:.2f} s the 2nd, {loads[-1]:.2f} s the {rows}th"
    )


if __name__ == "__main__":
    main()
