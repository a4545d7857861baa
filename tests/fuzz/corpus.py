"""What once went wrong, or might: crafted tensor files and adapter folders, made here, each of a few bytes.

`python -m tests.fuzz.corpus FOLDER` writes the tensor files into a folder, as seeds for a fuzzer.
"""

import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WANTED: Mapping[str, tuple[int, ...]] = {"a": (2, 3), "b.0": (4,)}
"""The tensors that the good file has."""
BODY = struct.pack("<10f", *range(1, 11))
GOOD: Mapping[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b.0": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
}


def packed(header: Mapping[str, Any] | bytes, body: bytes = BODY, *, length: int | None = None) -> bytes:
    """The bytes of a tensor file, whatever they mean."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _with(**entries: Any) -> dict[str, Any]:
    return {**GOOD, **entries}


_TWICE = json.dumps(GOOD)[:-1].encode() + b', "a": ' + json.dumps(entry([6], [0, 24])).encode() + b"}"

FILES: Mapping[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": packed(b"", b""),
    "header of eighteen exabytes": packed(GOOD, length=(1 << 64) - 1),
    "header that wraps around": packed(GOOD, length=(1 << 64) - 8),
    "header into the body": packed(GOOD, length=len(json.dumps(GOOD)) + 8),
    "header cut": packed(GOOD, length=len(json.dumps(GOOD)) - 4),
    "no JSON": packed(b"\x80\x04\x95pickle"),
    "a list": packed(b"[1, 2]"),
    "nested": packed(b'{"a":' * 900 + b"1" + b"}" * 900),
    "nested beyond the parser": packed(b"[" * 200_000),
    "half a character": packed(b'{"\\ud800": 1}'),
    "no UTF-8": packed(b'{"\xff": 1}'),
    "byte order mark": packed(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "a name twice": packed(_TWICE),
    "not a number": packed({**GOOD, "__metadata__": {"x": float("nan")}}),
    "shape beyond the bytes": packed(_with(a=entry([1 << 40, 3], [0, 24]))),
    "shape below the bytes": packed(_with(a=entry([1], [0, 24]))),
    "product overflows": packed(_with(a=entry([1 << 33, 1 << 33], [0, 24]))),
    "product overflows to the right size": packed(_with(a=entry([1 << 62, 4, 6], [0, 24]))),
    "bytes overflow": packed(_with(a=entry([1 << 62], [0, 24]))),
    "offsets overflow": packed(_with(a=entry([2, 3], [(1 << 64) - 24, 0]))),
    "offsets turned": packed(_with(a=entry([2, 3], [24, 0]))),
    "negative offsets": packed(_with(a=entry([2, 3], [-24, 0]))),
    "offsets of three": packed(_with(a=entry([2, 3], [0, 12, 24]))),
    "overlap": packed(_with(a=entry([2, 3], [16, 40]))),
    "hole": packed(_with(a=entry([1], [4, 8]))),
    "negative size": packed(_with(a=entry([-2, -3], [0, 24]))),
    "size is a fraction": packed(_with(a=entry([2.5, 3], [0, 24]))),
    "size is a text": packed(_with(a=entry("23", [0, 24]))),
    "size is true": packed(_with(a=entry([True, 6], [0, 24]))),
    "size is no integer of a machine": packed(_with(a=entry([10**40], [0, 24]))),
    "nothing times everything": packed(_with(c=entry([0, 1 << 62], [40, 40]))),
    "a scalar too many": packed(_with(c=entry([], [40, 44])), BODY + b"\0\0\0\0"),
    "type is a list": packed(_with(a=entry([2, 3], [0, 24], ["F32"]))),
    "type is unknown": packed(_with(a=entry([2, 3], [0, 24], "F33"))),
    "type of no adapter": packed(_with(a=entry([2, 3], [0, 24], "I32"))),
    "a field too many": packed(_with(a={**entry([2, 3], [0, 24]), "url": "http://x"})),
    "metadata of numbers": packed({**GOOD, "__metadata__": {"format": 1}}),
    "metadata is a tensor": packed({**GOOD, "__metadata__": entry([1], [40, 44])}, BODY + b"\0\0\0\0"),
    "a path up": packed({"../../a": GOOD["a"], "b.0": GOOD["b.0"]}),
    "a path from the root": packed({"/etc/passwd": GOOD["a"], "b.0": GOOD["b.0"]}),
    "a name with zero": packed({"a\0": GOOD["a"], "b.0": GOOD["b.0"]}),
    "a name without letters": packed({"": GOOD["a"], "b.0": GOOD["b.0"]}),
    "a name of a megabyte": packed({"a" * (1 << 20): GOOD["a"], "b.0": GOOD["b.0"]}),
    "not finite": packed(GOOD, struct.pack("<10f", *range(9), float("inf"))),
    "finite in float64 alone": packed(
        {"a": entry([2, 3], [0, 48], "F64"), "b.0": entry([4], [48, 64])}, b"\x7f" * 48 + b"\0" * 16
    ),
    "cut": packed(GOOD, BODY[:-1]),
    "one byte too many": packed(GOOD, BODY + b"\0"),
    "no tensors": packed({"__metadata__": {"format": "pt"}}, b""),
    "many tensors of nothing": packed({f"t{i}": entry([0], [0, 0]) for i in range(5000)}, b""),
    "a zip": b"PK\x03\x04" + b"\0" * 200,
}
"""Tensor files, none of which may be read."""


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter.json"
        values = json.loads(path.read_text("utf-8"))
        change(values)
        path.write_text(json.dumps(values), "utf-8")

    return apply


def _setting(**settings: Any) -> Callable[[Path], None]:
    return _manifest(lambda m: m["method"]["settings"].update(settings))


def _method(name: str, **settings: Any) -> Callable[[Path], None]:
    return _manifest(lambda m: m.update(method={"name": name, "settings": settings}))


def _text(text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "adapter.json").write_text(text, "utf-8")

    return apply


def _to_itself(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.unlink()
    path.symlink_to(path)


def _claimed_labels(folder: Path) -> None:
    """A head of 2⁴⁰ labels that takes no bytes, in PEFT's form."""
    (folder / "adapter.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_CLS"}), "utf-8")
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for name in ("classifier.weight", "score.weight"):
        header[f"base_model.model.{name}"] = entry([1 << 40, 0], [len(body), len(body)])
    path.write_bytes(packed(header, body))


FOLDERS: Mapping[str, Callable[[Path], None]] = {
    "rank of a billion": _setting(rank=10**9),
    "rank beyond torch": _setting(rank=(1 << 63) + 1),
    "rank as text": _setting(rank="2"),
    "alpha beyond float32": _setting(alpha=1e300),
    "a step of zero": _setting(at="block.[::0].attn.q"),
    "alternatives without end": _setting(at="block.0" + "{,}" * 40 + "x"),
    "commas without end": _setting(at="a," * 20_000),
    "a pattern of stars": _setting(at="*" * 3000),
    "a prefix of 10^18": _method("prefix", length=10**18),
    "a prompt of 10^12": _method("soft_prompt", length=10**12),
    "a bottleneck of 10^15": _method("houlsby", bottleneck=10**15),
    "a dimension of 10^15": _method("intrinsic_said", dimension=10**15),
    "a share of nothing": _method("fish_mask", fraction=5e-324),
    "unions in unions": _method("union", parts=[{"name": "union", "parts": [{"name": "lora"}] * 2}] * 2),
    "a union of one thousand": _method("union", parts=[{"name": "lora", "rank": 1}] * 1000),
    "a method by its path": _method("../../lora"),
    "a method by its module": _method("os.system"),
    "settings of another method": _method("bitfit", rank=2),
    "deep settings": _manifest(lambda m: m.update(provenance=json.loads('{"a":' * 500 + "1" + "}" * 500))),
    "half a character": _manifest(lambda m: m.update(made_with="\ud800")),
    "a text of a megabyte": _manifest(lambda m: m.update(made_with="x" * (1 << 20))),
    "lines in a name": _manifest(lambda m: m.update({"a\nb\x1b[31m": 1})),
    "a file elsewhere": _manifest(lambda m: m["tensors"].update(sha256={"../other.safetensors": "0" * 64})),
    "a file from the root": _manifest(lambda m: m["tensors"].update(sha256={"/etc/passwd": "0" * 64})),
    "no digest": _manifest(lambda m: m["tensors"].update(sha256={})),
    "a digest of another": _manifest(lambda m: m["tensors"]["sha256"].update({"adapter_model.safetensors": "0" * 64})),
    "a format to come": _manifest(lambda m: m.update(format=1 << 63)),
    "a format that is true": _manifest(lambda m: m.update(format=True)),
    "a key twice": _text('{"format": 1, "format": 1}'),
    "not a number": _text('{"format": NaN}'),
    "infinity by digits": _text('{"format": 1e999}'),
    "an integer without end": _text('{"format": ' + "9" * 100_000 + "}"),
    "brackets without end": _text("[" * 1_000_000),
    "no JSON": _text("\0" * 100),
    "a link to itself": _to_itself,
    "labels without bytes": _claimed_labels,
}
"""Changes of a good folder (LoRA of rank 2 on a tiny BERT), after which it may not be read."""


def main(folder: Path) -> None:
    """Write the tensor files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((packed(GOOD), *FILES.values())):
        (folder / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
