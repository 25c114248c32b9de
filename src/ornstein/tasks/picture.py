"""A picture of examples as a file, in a format that people look at."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from PIL import Image


def write_picture(picture: "Image.Image", path: Path) -> Path:
    """Write a picture in the format that the ending of `path` names.

    Raises:
        UsageError: If it names none.
        StorageError: If the disk refuses.
    """
    from ..data.codec import write_bytes

    out = BytesIO()
    picture.save(out, format_of(path))
    return write_bytes(path, out.getvalue())


def format_of(path: Path) -> str:
    """The format that the ending of `path` names, known without torch.

    Raises:
        UsageError: If it names none that can be written.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UsageError(f"{path} does not end like a picture: write it as {path.stem}.png.")
    return kind


def png(picture: "Image.Image") -> bytes:
    """The bytes of a PNG file."""
    out = BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()
