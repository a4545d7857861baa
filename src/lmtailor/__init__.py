"""LM Tailor fits a pretrained language model to a task by every known route, compares the routes, and serves the winner.

Every public name is here, and is loaded when it is first used: importing the package imports no torch.

    import lmtailor as lt

    base = lt.load_base("folder, hub id or file.gguf")
    task = lt.load_task("card.toml")
    adapter = lt.fit(base, task, method=lt.methods.LoRA(rank=8), readout=lt.Head(), seed=0)
    lt.predict(base, adapter, ["a gripping film"])
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lmtailor.core.version import __version__

if TYPE_CHECKING:
    from lmtailor import methods as methods
    from lmtailor import strategies as strategies
    from lmtailor.base.base import Base as Base
    from lmtailor.base.load import load_base as load_base
    from lmtailor.compare.compare import compare as compare
    from lmtailor.core.errors import AdapterFileError as AdapterFileError
    from lmtailor.core.errors import DataError as DataError
    from lmtailor.core.errors import InputError as InputError
    from lmtailor.core.errors import LMTailorError as LMTailorError
    from lmtailor.core.errors import SiteError as SiteError
    from lmtailor.core.errors import StateError as StateError
    from lmtailor.core.errors import TrainingError as TrainingError
    from lmtailor.core.errors import UnsupportedError as UnsupportedError
    from lmtailor.edits.attach import attach as attach
    from lmtailor.fit.fit import fit as fit
    from lmtailor.fit.training import Training as Training
    from lmtailor.fit.unlabelled import Unlabelled as Unlabelled
    from lmtailor.infer.calibrate import calibrated as calibrated
    from lmtailor.infer.choices import score as score
    from lmtailor.infer.evaluate import evaluate as evaluate
    from lmtailor.infer.generate import generate as generate
    from lmtailor.infer.predict import predict as predict
    from lmtailor.infer.watched import evaluate_watched as evaluate_watched
    from lmtailor.objectives.distillation import Distillation as Distillation
    from lmtailor.objectives.supervised import Supervised as Supervised
    from lmtailor.readouts.calibration import Calibration as Calibration
    from lmtailor.readouts.conversation import Chat as Chat
    from lmtailor.readouts.demonstrations import Demonstrations as Demonstrations
    from lmtailor.readouts.demonstrations import Similar as Similar
    from lmtailor.readouts.head import Head as Head
    from lmtailor.readouts.options import Options as Options
    from lmtailor.readouts.span import Span as Span
    from lmtailor.readouts.tagging import Tags as Tags
    from lmtailor.readouts.text import Text as Text
    from lmtailor.readouts.verbalizer import Verbalizer as Verbalizer
    from lmtailor.store.adapter import Adapter as Adapter
    from lmtailor.store.adapter import new_adapter as new_adapter
    from lmtailor.store.bank import Bank as Bank
    from lmtailor.store.convert import convert as convert
    from lmtailor.store.export import export as export
    from lmtailor.store.folder import load_adapter as load_adapter
    from lmtailor.store.folder import save_adapter as save_adapter
    from lmtailor.store.merge import merge as merge
    from lmtailor.strategies.adapt import adapt as adapt
    from lmtailor.strategies.ensemble import predict_together as predict_together
    from lmtailor.strategies.probing import probe as probe
    from lmtailor.strategies.probing_settings import Probing as Probing
    from lmtailor.strategies.prompt_closeness import prompt_closeness as prompt_closeness
    from lmtailor.strategies.sensitivity import Sensitivity as Sensitivity
    from lmtailor.strategies.sensitivity import sensitivity as sensitivity
    from lmtailor.tasks.card import load_task as load_task
    from lmtailor.tasks.conversations import conversation_task as conversation_task
    from lmtailor.tasks.mixture import load_mixture as load_mixture
    from lmtailor.tasks.task import Task as Task
    from lmtailor.tasks.templates.collection import read_templates as read_templates

_HOME = {
    "Adapter": "lmtailor.store.adapter",
    "AdapterFileError": "lmtailor.core.errors",
    "Bank": "lmtailor.store.bank",
    "Base": "lmtailor.base.base",
    "Calibration": "lmtailor.readouts.calibration",
    "Chat": "lmtailor.readouts.conversation",
    "DataError": "lmtailor.core.errors",
    "Demonstrations": "lmtailor.readouts.demonstrations",
    "Distillation": "lmtailor.objectives.distillation",
    "Head": "lmtailor.readouts.head",
    "InputError": "lmtailor.core.errors",
    "LMTailorError": "lmtailor.core.errors",
    "Options": "lmtailor.readouts.options",
    "Probing": "lmtailor.strategies.probing_settings",
    "Similar": "lmtailor.readouts.demonstrations",
    "Sensitivity": "lmtailor.strategies.sensitivity",
    "SiteError": "lmtailor.core.errors",
    "Span": "lmtailor.readouts.span",
    "StateError": "lmtailor.core.errors",
    "Supervised": "lmtailor.objectives.supervised",
    "Tags": "lmtailor.readouts.tagging",
    "Task": "lmtailor.tasks.task",
    "Text": "lmtailor.readouts.text",
    "Training": "lmtailor.fit.training",
    "TrainingError": "lmtailor.core.errors",
    "Unlabelled": "lmtailor.fit.unlabelled",
    "UnsupportedError": "lmtailor.core.errors",
    "Verbalizer": "lmtailor.readouts.verbalizer",
    "adapt": "lmtailor.strategies.adapt",
    "attach": "lmtailor.edits.attach",
    "calibrated": "lmtailor.infer.calibrate",
    "compare": "lmtailor.compare.compare",
    "conversation_task": "lmtailor.tasks.conversations",
    "convert": "lmtailor.store.convert",
    "evaluate": "lmtailor.infer.evaluate",
    "evaluate_watched": "lmtailor.infer.watched",
    "export": "lmtailor.store.export",
    "fit": "lmtailor.fit.fit",
    "generate": "lmtailor.infer.generate",
    "load_adapter": "lmtailor.store.folder",
    "load_base": "lmtailor.base.load",
    "load_mixture": "lmtailor.tasks.mixture",
    "load_task": "lmtailor.tasks.card",
    "merge": "lmtailor.store.merge",
    "methods": "lmtailor",
    "new_adapter": "lmtailor.store.adapter",
    "predict": "lmtailor.infer.predict",
    "predict_together": "lmtailor.strategies.ensemble",
    "probe": "lmtailor.strategies.probing",
    "prompt_closeness": "lmtailor.strategies.prompt_closeness",
    "read_templates": "lmtailor.tasks.templates.collection",
    "save_adapter": "lmtailor.store.folder",
    "score": "lmtailor.infer.choices",
    "sensitivity": "lmtailor.strategies.sensitivity",
    "strategies": "lmtailor",
}
"""Where each public name lives: the module that has it, or the package it is a module of."""

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 (the names of a table)


class _Facade(ModuleType):
    """This module's class. `fit` and `compare` are functions here and rooms below.

    When a room is first imported, the import system binds it in its parent under its name. That must not hide the
    function, so such a binding is dropped; `from lmtailor.fit.training import Training` works all the same.
    """

    def __setattr__(self, name: str, value: object) -> None:
        room_of_the_same_name = isinstance(value, ModuleType) and _HOME.get(name, "lmtailor") != "lmtailor"
        if not room_of_the_same_name:
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lmtailor' has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f"{home}.{name}") if home == "lmtailor" else getattr(import_module(home), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


sys.modules[__name__].__class__ = _Facade
