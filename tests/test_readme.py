"""The README's Python runs as it stands, on a tiny model in place of a real one."""

import re
from pathlib import Path
from typing import Any

from tests.fit.tasks import records
from tests.tiny import tiny_model, tiny_tokenizer

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_blocks_run(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "model")
    tiny_tokenizer("encoder").save_pretrained(tmp_path / "model")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, Any] = {
        name: records(count, seed) for seed, (name, count) in enumerate({"train": 40, "dev": 16, "test": 16}.items())
    }
    code = "\n".join(blocks).replace("path/to/model", str(tmp_path / "model"))
    code = code.replace("few_shot(16", "few_shot(4").replace("PET(", "PET(steps=2, repetitions=1, distil_steps=2, ")
    exec(compile(code, "README.md", "exec"), scope)
    assert len(scope["answers"]) == 2
    assert scope["pet"].labels == scope["task"].labels
    assert scope["lora"].scores["dev"]["accuracy"].n == 16
