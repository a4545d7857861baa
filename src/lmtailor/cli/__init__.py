"""The command line: `lmtailor VERB …`. One file a verb, loaded when it is used."""

from lmtailor.cli.app import main, run

__all__ = ["main", "run"]
