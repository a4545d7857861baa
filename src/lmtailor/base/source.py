"""Where a model is loaded from: a folder, a GGUF file, or an id on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from lmtailor.core.errors import InputError, near


@dataclass(frozen=True, kw_only=True)
class Source:
    """What transformers' loaders are given."""

    asked: str
    """What the user wrote."""
    place: str
    """A folder or a hub id."""
    gguf: str | None = None
    """Name of a GGUF file in the folder."""
    local: bool


def resolve(source: str | Path) -> Source:
    """Find out what a source is, and refuse at once what cannot be a model.

    Raises:
        InputError: the path does not exist, is no model, or has weights only as pickles.
    """
    asked, path = str(source), Path(source).expanduser()
    if not asked.strip():
        raise InputError("The base is an empty name. Give a hub id (org/name), a model folder or a .gguf file.")
    if path.is_file():
        return _file(asked, path)
    if path.is_dir():
        _check_folder(path)
        return Source(asked=asked, place=str(path), local=True)
    if isinstance(source, Path) or asked[0] in "./~\\" or asked.count("/") > 1 or path.suffix == ".gguf":
        beside = [str(one) for one in path.parent.iterdir() if _may_be_model(one)] if path.parent.is_dir() else []
        raise InputError(f"There is no file or folder {asked!r}. Models in its place: {near(str(path), beside)}")
    return Source(asked=asked, place=asked, local=False)


def _may_be_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()


def _file(asked: str, path: Path) -> Source:
    if path.suffix.lower() != ".gguf":
        raise InputError(
            f"{asked} is a single file that is not GGUF. Give the folder that holds config.json and the weights, or a .gguf file."
        )
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{asked} does not begin as a GGUF file does. It is damaged or something else; get it again.")
    return Source(asked=asked, place=str(path.parent), gguf=path.name, local=True)


def _check_folder(path: Path) -> None:
    names = sorted(one.name for one in path.iterdir())
    found = f"It holds {', '.join(names[:8])}{', …' if len(names) > 8 else ''}." if names else "It is empty."
    if "config.json" not in names:
        hint = "Give a folder with config.json, *.safetensors and the tokenizer's files."
        if "adapter_config.json" in names:
            hint = "It looks like an adapter: load the base that it was made for, then the adapter with load_adapter."
        elif gguf := [name for name in names if name.endswith(".gguf")]:
            hint = f"For a GGUF model give the file itself: {path / gguf[0]}."
        raise InputError(f"{path} is not a model folder: it has no config.json. {found} {hint}")
    if any(name.endswith(".safetensors") for name in names):
        return
    if pickles := [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]:
        raise InputError(
            f"{path} has its weights only as a pickle ({', '.join(pickles)}), which can run code when it is read, so it is "
            "never opened. Get the model in safetensors format, or convert it where you trust it: load it with transformers "
            "and call save_pretrained."
        )
    raise InputError(f"{path} has a config.json but no weights (*.safetensors). {found} Get the model again.")
