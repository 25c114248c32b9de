"""Provenance: what made an example, and how a picture says so itself."""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

VERSION = version("ornstein")

PNG = b"\x89PNG\r\n\x1a\n"
KEYWORD = "ornstein"

# What the press and picture archives read for 'made by a trained model'.
# Source: https://cv.iptc.org/newscodes/digitalsourcetype/.
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    "Iptc4xmpExt:DigitalSourceType="
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def provenance(
    identity: dict[str, Any],
    seen: int,
    seed: int,
    index: int,
    adapters: Sequence[tuple[str, float]] = (),
    prior: str | None = None,
) -> dict[str, Any]:
    """What identifies an example: with these, the run draws it again.

    Args:
        identity: Of the run.
        seen: Of the checkpoint.
        seed: Of the sequence it is in.
        index: Its number there.
        adapters: The runs that were put on, each with its strength.
        prior: The run that drew the embedding of the example, if one did.
    """
    facts = {
        "run": identity["id"],
        "data": identity.get("fingerprint"),
        "seen": seen,
        "seed": seed,
        "index": index,
        "ornstein": VERSION,
    }
    facts |= {"adapters": [list(one) for one in adapters]} if adapters else {}
    return facts | ({"prior": prior} if prior else {})


def stamp(png: bytes, facts: dict[str, Any]) -> bytes:
    """The same picture, bit for bit, with its provenance in the metadata of the file.

    Args:
        png: A PNG file.
        facts: From `provenance`.

    Source: https://www.w3.org/TR/png-3/#11iTXt.
    """
    if not png.startswith(PNG):
        raise ValueError("expected a PNG file")
    stop = 8 + 12 + 13  # signature, IHDR: text may follow at once
    said = "Made by ornstein, run {run}, seed {seed}, index {index}".format_map(facts)
    texts = {"Software": f"Ornstein {facts['ornstein']}", "Comment": said}
    texts |= {KEYWORD: json.dumps(facts), "XML:com.adobe.xmp": XMP}
    return png[:stop] + b"".join(_text(k, v) for k, v in texts.items()) + png[stop:]


def read_stamp(png: bytes) -> dict[str, Any] | None:
    """The provenance in a PNG file; None if there is none."""
    head = KEYWORD.encode() + bytes(5)  # not compressed, no language, no translated keyword
    for kind, data in _chunks(png):
        if kind == b"iTXt" and data.startswith(head):
            try:
                found = json.loads(data[len(head) :])
            except (ValueError, RecursionError):
                return None
            return found if isinstance(found, dict) else None
    return None


def _text(keyword: str, text: str) -> bytes:
    """An ``iTXt`` chunk, not compressed."""
    data = b"iTXt" + keyword.encode() + bytes(5) + text.encode()
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG) if png.startswith(PNG) else len(png)
    while place + 12 <= len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        place += 12 + size
