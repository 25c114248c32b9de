"""The page of what was asked for: a row for each wish, from the same noise."""

from collections.abc import Sequence
from pathlib import Path

from ... import __version__
from ...data.image import ImageCodec
from ...errors import UsageError
from ...tasks.picture import png
from ...tasks.sample import Samples
from .report import Picture, Section, write_report
from .sheets import sheet

IN_A_ROW = 8  # pictures: of more, each is too small to be seen on a phone


def asked_page(path: Path, run: str, rows: Sequence[tuple[str, Samples]], how: str) -> Path:
    """A page of what was drawn, a row for each thing asked for.

    Args:
        path: Of the page.
        run: Its name.
        rows: What was asked for, and what was drawn, in each row from the same noise.
        how: They were drawn, in a few words.

    Raises:
        UsageError: If the run draws no pictures.
        StorageError: If the disk refuses.
    """
    codec, sections = rows[0][1].codec, []
    if not isinstance(codec, ImageCodec):
        raise UsageError("--page is for runs that draw pictures.")
    for asked, drawn in rows:
        picture = Picture(
            data=png(sheet(codec, drawn.x, min(IN_A_ROW, len(drawn)))),
            alt=f"{len(drawn)} pictures of: {asked}",
            caption="",
        )
        sections.append(Section(asked or "nothing", [picture]))
    lede = (
        f"What {run} drew for each thing that was asked for, from the same noise in the same "
        "place: what differs is what was asked for."
    )
    foot = (
        f"Drawn with {how}. Written by ornstein {__version__}. This page is whole in itself: no "
        "scripts, nothing from the network."
    )
    return write_report(path, "Drawn as asked", lede, sections, foot)
