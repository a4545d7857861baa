"""Numbers as people read them, the same in the terminal and in the report."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_NAMES = {
    "bleu": "BLEU",
    "nist": "NIST",
    "meteor": "METEOR",
    "cider": "CIDEr",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "coco_rouge_l": "ROUGE-L (COCO)",
}
_NARROW = "\u202f"
"""A narrow space that does not break, between a number and its unit."""


def count(value: float) -> str:
    """22713216 → 22.7 M; 590 → 590. Three digits."""
    for size, prefix in _PREFIXES:
        if value >= size * 0.9995:
            return f"{_three(value / size)}{_NARROW}{prefix}"
    return f"{value:.0f}"


def grouped(value: int) -> str:
    """A whole number with its thousands apart: 38 157; four digits stay together."""
    return f"{value:,}".replace(",", _NARROW) if value >= 10_000 else str(value)


def size(value: float) -> str:
    """Bytes: 91000000 → 91.0 MB; 0 → "–"."""
    if value <= 0:
        return "–"
    return f"{count(value)}B" if value >= 999.5 else f"{value:.0f}{_NARROW}B"


def duration(seconds: float) -> str:
    """Seconds: 0.42 s, 12.3 s, 4 min 05 s, 3 h 07 min; 0 → "–"."""
    if seconds <= 0:
        return "–"
    if seconds < 99.95:
        return f"{_three(seconds) if seconds >= 1 else f'{seconds:.2f}'}{_NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NARROW}min{_NARROW}{rest:02d}{_NARROW}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{_NARROW}h{_NARROW}{minutes:02d}{_NARROW}min"


def share(value: float) -> str:
    """0.0031 → 0.31 %; 1 → 100 %; 0 → "–"."""
    percent = 100 * value
    if percent <= 0:
        return "–"
    if percent < 0.01:
        return f"<{_NARROW}0.01{_NARROW}%"
    digits = 2 if percent < 0.995 else 1 if percent < 9.95 else 0
    return f"{percent:.{digits}f}{_NARROW}%"


def score(value: float) -> str:
    """Three decimals, with a real minus: 0.712, −0.031."""
    text = f"{value:.3f}".replace("-", "−")
    return text if text != "−0.000" else "0.000"


def signed(value: float) -> str:
    """A difference: +0.012, −0.031."""
    text = f"{value:+.3f}".replace("-", "−")
    return text if text[1:] != "0.000" else "0.000"


def interval(low: float, high: float) -> str:
    """[0.690, 0.731]"""
    return f"[{score(low)}, {score(high)}]"


def p_value(p: float) -> str:
    """p < 0.01, p = 0.03, p = 0.4."""
    if p < 0.01:
        return "p < 0.01"
    return f"p = {p:.2f}" if p < 0.095 else f"p = {p:.1f}"


def metric_name(metric: str) -> str:
    """A metric's name in running text: macro_f1 → macro-F1, rouge_l → ROUGE-L."""
    return _NAMES.get(metric) or metric.replace("_f1", "-F1").replace("_", " ")


def listed(items: list[str], last: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def _three(value: float) -> str:
    """A number from 1 to 1000 with three digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
