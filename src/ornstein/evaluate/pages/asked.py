"""The page of what was asked for: a row for each wish, from the same noise."""

from collections.abc import Sequence
from pathlib import Path

from ...data.image import ImageCodec
from ...errors import UsageError
from ...tasks.picture import png
from ...tasks.sample import Samples
from .report import Picture, Section, write_report
from .sheets import sheet


def asked_page(path: Path, run: str, rows: Sequence[tuple[str, Samples]], foot: str = "") -> Path:
    """A page of what was drawn, a row for each thing asked for.

    Args:
        path: Of the page.
        run: Its name.
        rows: What was asked for, and what was drawn, in each row from the same noise.
        foot: What stands below.

    Raises:
        UsageError: If the run draws no pictures.
        StorageError: If the disk refuses.
    """
    codec, sections = rows[0][1].codec, []
    if not isinstance(codec, ImageCodec):
        raise UsageError("--page is for runs that draw pictures.")
    for asked, drawn in rows:
        picture = Picture(
            data=png(sheet(codec, drawn.x)), alt=f"{len(drawn)} pictures of: {asked}", caption=""
        )
        sections.append(Section(asked, [picture]))
    lede = (
        f"What {run} drew, a row for each thing that was asked for. In each column the noise is "
        "the same: what differs is what was asked for."
    )
    return write_report(path, "Drawn as asked", lede, sections, foot)
