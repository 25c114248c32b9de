"""What of a run of scenes stands on its page: whether pictures show what was asked for."""

from ...core.shares import Share
from ..measures.scenes import Judged
from .bars import Bars, bars
from .report import Block, Drawing, Table


def scenes(judged: Judged) -> list[Block]:
    """The shares of pictures that are as asked for, beside real scenes that are read alike."""
    kinds = {
        "new captions": judged.unseen,
        "held out": judged.held_out,
        "real scenes": judged.real,
    }
    names = [name.capitalize() for name in judged.unseen]
    drawn = [
        Bars(kind, [(share.value, share.error) for share in found.values()])
        for kind, found in kinds.items()
    ]
    described = "Shares of pictures that show what their captions ask for, by respect."
    columns = (judged.unseen, judged.real, judged.held_out, judged.real_held_out)
    rows = [
        [name.capitalize(), *(_told(found[name]) for found in columns)] for name in judged.unseen
    ]
    n = next(iter(judged.unseen.values())).n
    caption = (
        f"Of {n:,} captions each, in per cent, with intervals of 95\u00a0%. Pictures are read "
        "thing by thing. Held out: one thing of each caption is of a kind and a colour that never "
        "came together in training. Real: the share of real scenes, of digits the reader does not "
        "know, that it finds right. What is drawn can seem no better than that."
    )
    head = ("", "new captions", "real", "held out", "real")
    return [
        Drawing(bars(names, drawn, describe=described), described),
        Table(head=head, rows=rows, caption=caption),
    ]


def _told(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.1f} ({100 * low:.1f}\u2026{100 * high:.1f})"
