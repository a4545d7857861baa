"""Modules of a base in PEFT folders whose tensors are named by them: from sites to names when writing, and back when reading."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from lmtailor.base.sites import Site, SiteKind
from lmtailor.core.errors import AdapterFileError, UnsupportedError, near
from lmtailor.edits.edit import Edit
from lmtailor.store.adapter import Adapter
from lmtailor.store.peft.config import TENSORS, flag
from lmtailor.store.peft.kind import PREFIX, Folder, Target
from lmtailor.store.peft.targets import check_targets
from lmtailor.store.peft.task import module_path

EditT = TypeVar("EditT", bound=Edit)


def path_of(site: Site, target: Target) -> str:
    """The path of a site's module in the class that the folder is for.

    Raises:
        UnsupportedError: a forward calls the module more than once, or PEFT's class does not have it.
    """
    if site.calls > 1:
        raise UnsupportedError(
            f"{site.name} is call {site.call} of a module that {target.outline.family} calls {site.calls} times in a forward, "
            "each with tensors of its own here. Other programs have one set a module."
        )
    return module_path(target.outline, site.module, target.task)


def whole_paths(adapter: Adapter, target: Target, kind: type[EditT], why: str = "") -> dict[str, EditT]:
    """The edits of whole modules by the paths of these.

    Args:
        adapter: with such edits alone.
        target: what the folder is for.
        kind: of the edits.
        why: PEFT has no form for edits of parts of a fused module; "{whole}" and "{part}" stand for their names.

    Raises:
        UnsupportedError: an edit is of a part of a fused module; and as `path_of`.
    """
    out: dict[str, EditT] = {}
    for edit in adapter.edits:
        assert isinstance(edit, kind)
        site = target.outline.sites[edit.site]
        if site.part is not None:
            raise UnsupportedError(why.format(whole=site.fused, part=site.name))
        out[path_of(site, target)] = edit
    return out


def exact_targets(paths: Iterable[str], target: Target) -> list[str]:
    """`target_modules` for these modules.

    Raises:
        UnsupportedError: PEFT would adapt another module too, since a listed name also matches every path that ends with it, or
            leave one out, since it is stored whole with the head.
    """
    wanted, outline = frozenset(paths), target.outline
    for module in outline.modules:
        if target.task == "SEQ_CLS" and outline.in_trunk(module) is None:
            continue
        path = module_path(outline, module, target.task)
        caught = None if path in wanted else next((one for one in _ends(path) if one in wanted), None)
        if caught is not None:
            raise UnsupportedError(f"PEFT would also adapt {path!r}, since it ends with the name {caught!r} of another module.")
    for one in sorted(wanted):
        if hidden := [module for module in target.saved if f".{module}." in f".{one}."]:
            raise UnsupportedError(f"PEFT does not adapt {one!r}, since {hidden[0]!r} is stored whole.")
    return sorted(wanted)


def _ends(path: str) -> Iterator[str]:
    """What a path ends with, by whole names: "a.b.c" with "b.c" and "c"."""
    while rest := path.partition(".")[2]:
        yield rest
        path = rest


def named_sites(folder: Folder, ending: str, kind: SiteKind) -> dict[str, Site]:
    """The sites of the modules that a file has tensors for, by the paths that it calls them, in the order of the forward.

    Args:
        folder: what is read.
        ending: of the names of the tensors, after the path: ".ia3_l".
        kind: of the sites.

    Raises:
        AdapterFileError: there are none, one is no such site of the base, or the configuration does not name it.
    """
    paths = [name[len(PREFIX) : -len(ending)] for name in folder.header if name.startswith(PREFIX) and name.endswith(ending)]
    if not paths:
        raise AdapterFileError(f"{TENSORS} has no tensor whose name ends in {ending}.")
    outline = folder.outline
    # What shares its weight with a module that is named is adapted with it, and not named itself.
    tied = outline.shared if flag(folder.config, "ensure_weight_tying") else {}
    check_targets(folder.config, [path for path in paths if f"{outline.find(path)}.weight" not in tied])
    own = {site.module: site for site in outline.sites.values() if site.kind == kind and site.part is None}
    found: dict[str, Site] = {}
    for path in paths:
        site = own.get(outline.find(path))
        if site is None:
            raise AdapterFileError(f"{path[:120]!r} is no {kind} of this base. {near(path[:120], own)}")
        if site.calls > 1:
            raise AdapterFileError(
                f"{path!r} is called {site.calls} times in a forward of {outline.family}. Its tensors cannot be read: here, each "
                "call has its own."
            )
        if site in found.values():
            raise AdapterFileError(f"{path!r} names a module that another tensor names too.")
        found[path] = site
    order = {name: number for number, name in enumerate(outline.sites)}
    return dict(sorted(found.items(), key=lambda pair: order[pair[1].name]))
