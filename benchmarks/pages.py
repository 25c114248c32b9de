"""What stands between two marks of a page: ``<!-- name -->`` and ``<!-- /name -->``."""

import re
from pathlib import Path


def between(text: str, name: str, new: str) -> str:
    """`text` with what stands between the marks of `name` replaced.

    Raises:
        ValueError: If there are no such marks.
    """
    mark = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not mark.search(text):
        raise ValueError(f"expected <!-- {name} --> ... <!-- /{name} -->, found none")
    return mark.sub(lambda found: f"{found[1]}\n{new}\n\n{found[2]}", text)


def put(page: Path, name: str, new: str) -> None:
    """Into the page, between the marks of `name`."""
    page.write_text(between(page.read_text(), name, new))
