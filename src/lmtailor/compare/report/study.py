"""A study of sensitivity as a part of a comparison's page."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmtailor.compare.report.canvas import Picture
from lmtailor.compare.report.sensitivity import sensitivity_lede, sensitivity_pictures
from lmtailor.strategies.sensitivity_record import SensitivityRecord


@dataclass(frozen=True, kw_only=True)
class ShownStudy:
    """What the page says of a study on one base."""

    base: str
    reason: str = ""
    """Why there is no result; "" where there is one."""
    lede: str = ""
    pictures: Sequence[Picture] = ()
    link: str = ""
    """The study's own page, from the folder of this one."""


def shown_study(base: str, record: SensitivityRecord, link: str, number: int) -> ShownStudy:
    """A study that came to its end.

    Args:
        base: its name in the plan.
        record: what was found.
        link: to the study's own page.
        number: of the study on the page.
    """
    pictures = sensitivity_pictures(record, within=f"study-{number}-")
    return ShownStudy(base=base, lede=sensitivity_lede(record), pictures=pictures, link=link)
