"""Pictures as SVG inside a page: drawn by Matplotlib, coloured by the page's CSS, once for wide and once for narrow screens.

Matplotlib knows no CSS, so each colour is drawn as a placeholder and replaced by its variable. Text stays text: it
takes the page's font, can be found and read aloud.
"""

import io
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lmtailor.compare.report.colours import HUES

_NAMES = ("ink", "muted", "faint", "paper", "accent", *(f"hue-{key}" for key in HUES))
_PLACEHOLDERS = {name: f"#0000{number + 1:02x}" for number, name in enumerate(_NAMES)}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"

WIDE, NARROW = 560, 342
"""Widths of the two drawings (CSS pixels)."""


def colour(name: str) -> str:
    """The placeholder of a CSS variable: ink, muted, faint, paper, accent, or hue-KEY."""
    return _PLACEHOLDERS[name]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for a page."""

    name: str
    """Unique in the page."""
    title: str
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    wide: Markup
    narrow: Markup


class Canvas:
    """One drawing, on which a unit is a CSS pixel."""

    def __init__(self, width: int, height: int, margins: tuple[float, float, float, float]) -> None:
        """Make a figure with one axes.

        Args:
            width: of the drawing.
            height: of the drawing.
            margins: left, right, bottom, top of the axes.
        """
        left, right, bottom, top = margins
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasAgg(self.figure)  # measures texts
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        self.axes: Axes = self.figure.add_axes(box)
        self.axes.set_axisbelow(True)
        self.axes.tick_params(length=0, pad=6)
        self._tips: dict[str, str] = {}

    @property
    def narrow(self) -> bool:
        """Whether it is for a narrow screen."""
        return self.width < WIDE

    def tip(self, artist: Artist, text: str) -> None:
        """Show a text where the pointer is on an artist."""
        gid = f"mark-{len(self._tips)}"
        artist.set_gid(gid)
        self._tips[gid] = text

    def svg(self, name: str) -> Markup:
        """The drawing as an SVG element whose ids begin with `name`."""
        stream = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's fonts have it
            self.figure.savefig(
                stream, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
            )
        root = ET.fromstring(stream.getvalue())  # noqa: S314 - written two lines above
        for element in root.iter():
            _restyle(element, name, self._tips)
        for key in ("width", "height"):
            root.attrib.pop(key, None)
        root.set("aria-hidden", "true")
        for style in root.findall(f"{{{_SVG}}}defs"):
            root.remove(style)
        ET.register_namespace("", _SVG)
        text = ET.tostring(root, encoding="unicode").replace("ns1:href", "href").replace("xmlns:ns1", "xmlns:xlink")
        for key, placeholder in _PLACEHOLDERS.items():
            text = text.replace(placeholder, f"var(--{key})")
        return Markup(text)  # noqa: S704 - Matplotlib and ElementTree escaped every text in it


def make_picture(name: str, *, title: str, alt: str, caption: str, draw: Callable[[int], Canvas]) -> Picture:
    """Draw a picture for wide and for narrow screens.

    Args:
        name: unique in the page.
        title: of the figure.
        alt: what it shows, in words.
        caption: how to read it.
        draw: makes the drawing of a width.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 12,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.spines.bottom": False,
        "axes.edgecolor": colour("faint"),
        "axes.labelcolor": colour("muted"),
        "text.color": colour("ink"),
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "grid.color": colour("faint"),
        "grid.linewidth": 1,
        "axes.unicode_minus": True,
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        wide, narrow = (draw(width).svg(f"{name}-{width}") for width in (WIDE, NARROW))
    return Picture(name=name, title=title, alt=alt, caption=caption, wide=wide, narrow=narrow)


def clean(text: str) -> str:
    """A text without characters that XML cannot hold."""
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs") or char in "\t\n")


def _restyle(element: ET.Element, name: str, tips: dict[str, str]) -> None:
    """Give an element the page's font, ids of its own and its tip."""
    style = element.get("style")
    if style and "font-family" in style:
        element.set("style", re.sub(r"font-family:[^;]*;?\s*", "", style))
    gid = element.get("id")
    if gid in tips:
        element.set("class", "mark")
        element.set("data-tip", clean(tips[gid]))
    if gid is not None:
        element.set("id", f"{name}-{gid}")
    for key in ("href", f"{{{_XLINK}}}href"):
        target = element.attrib.pop(key, None)
        if target is not None:
            element.set("href", f"#{name}-{target.removeprefix('#')}")
