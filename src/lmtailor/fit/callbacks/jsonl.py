"""A log of a fit for programs: one JSON object a line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lmtailor.core.files import disk_error
from lmtailor.fit.callbacks.callback import Asked, Ended, Evaluated, HearsAsked, Started, Stepped


class JsonlCallback(HearsAsked):
    """Appends to a file, so that a resumed run goes on in the same log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, event: str, values: dict[str, Any]) -> None:
        line = json.dumps({"event": event, **values}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise disk_error(error, self.path) from error

    def started(self, event: Started) -> None:
        """event "started"."""
        self._write("started", dataclasses.asdict(event))

    def stepped(self, event: Stepped) -> None:
        """event "step"."""
        self._write("step", dataclasses.asdict(event))

    def evaluated(self, event: Evaluated) -> None:
        """event "evaluation", with the scores."""
        values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event) if field.name != "scores"}
        self._write("evaluation", {**values, "scores": event.scores.to_mapping()})

    def asked(self, event: Asked) -> None:
        """event "held out", with the scores by task."""
        scores = {task: own.to_mapping() for task, own in event.scores.items()}
        self._write("held out", {"name": event.name, "step": event.step, "epoch": event.epoch, "scores": scores})

    def ended(self, event: Ended) -> None:
        """event "ended"."""
        self._write("ended", dataclasses.asdict(event))
