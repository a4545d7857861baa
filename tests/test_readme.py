"""The README's Python runs as it stands, on a tiny model in place of a real one."""

import csv
import re
from pathlib import Path
from typing import Any

import lmtailor as lt
from tests.fit.tasks import records
from tests.tiny import tiny_model, tiny_tokenizer

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_blocks_run(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "model")
    tiny_tokenizer("encoder").save_pretrained(tmp_path / "model")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    scope: dict[str, Any] = {
        name: records(count, seed) for seed, (name, count) in enumerate({"train": 40, "dev": 16, "test": 16}.items())
    }
    code = "\n".join(blocks[:2]).replace("path/to/model", str(tmp_path / "model"))
    code = code.replace("few_shot(16", "few_shot(4").replace("PET(", "PET(steps=2, repetitions=1, distil_steps=2, ")
    exec(compile(code, "README.md", "exec"), scope)
    assert len(scope["answers"]) == 2
    assert scope["pet"].labels == scope["task"].labels
    assert scope["lora"].scores["dev"]["accuracy"].n == 16


def test_the_python_of_what_is_written_runs(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer("decoder").save_pretrained(tmp_path / "model")
    block = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[2]
    (tmp_path / "data").mkdir()
    for name in ("dev", "test"):
        rows = [("name[The Cat], food[good]", "The cat is good."), ("name[The Cat], food[good]", "It is good, the cat.")]
        rows += [(f"name[Dog {number}]", f"I love dog {number}.") for number in range(8)]
        with (tmp_path / "data" / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("mr", "ref"), *rows])
    card = '"cards/e2e.toml", overrides=["folder=' + str(tmp_path / "data") + '", "files.train=dev.csv", "files.test=test.csv"]'
    code = block.replace('"cards/e2e.toml"', card).replace("lt.Training(", "lt.Training(max_steps=2, ")
    scope: dict[str, Any] = {"lt": lt, "base": lt.load_base(str(tmp_path / "model"))}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["says"].scores["dev"]["perplexity"].value > 1
