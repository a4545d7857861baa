"""What all pages share: style, script, and a policy that lets nothing else run."""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmtailor.core.version import __version__

_HERE = files("lmtailor.compare.report")


def render_page(template: str, context: Mapping[str, object]) -> str:
    """A page as HTML.

    Args:
        template: name of its file beside this one.
        context: what it shows; style, script, the script's hash and the version are added.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _text("tip.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {
        "version": __version__,
        "style": Markup(_text("style.css")),  # noqa: S704 - the package's own files
        "script": Markup(script),  # noqa: S704
        "script_hash": f"sha256-{digest}",
    }
    return environment.from_string(_text(template)).render({**shared, **context})


def _text(name: str) -> str:
    return (_HERE / name).read_text("utf-8")
