import io
import json

import numpy as np
import pytest
from PIL import Image

from ornstein.runs.provenance import XMP, provenance, read_stamp, stamp

IDENTITY = {"id": "a" * 26, "fingerprint": "f00d", "codec": {}}


def png(mode: str = "L") -> bytes:
    out = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def test_a_stamped_picture_is_the_same_picture_and_says_where_it_is_from():
    facts = provenance(IDENTITY, seen=640, seed=7, index=3)
    for mode in ("L", "RGB", "RGBA", "P", "1", "I;16"):
        plain = png(mode)
        stamped = stamp(plain, facts)
        before, after = (Image.open(io.BytesIO(data)) for data in (plain, stamped))
        after.load()
        assert after.mode == before.mode and after.tobytes() == before.tobytes()
        assert read_stamp(stamped) == facts
        assert after.info["Comment"] == f"Made by ornstein, run {'a' * 26}, seed 7, index 3"
        assert json.loads(after.info["ornstein"]) == facts
        assert after.info["Software"].startswith("Ornstein ")


def test_programs_that_know_only_the_standard_of_the_press_are_told_too():
    facts = provenance(IDENTITY, seen=640, seed=7, index=3)
    picture = Image.open(io.BytesIO(stamp(png(), facts)))
    assert "trainedAlgorithmicMedia" in XMP
    assert picture.info["XML:com.adobe.xmp"] == XMP


def test_provenance_names_all_that_the_example_depends_on():
    facts = provenance(IDENTITY, seen=640, seed=7, index=3)
    assert facts.keys() == {"run", "data", "seen", "seed", "index", "ornstein"}
    assert (facts["run"], facts["data"], facts["seen"]) == ("a" * 26, "f00d", 640)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", png(), png()[:50], b"GIF89a", bytes(99)]
)
def test_without_a_stamp_there_is_none(data):
    assert read_stamp(data) is None


def test_a_stamp_that_was_tampered_with_is_none():
    stamped = stamp(png(), provenance(IDENTITY, seen=1, seed=1, index=1))
    assert read_stamp(stamped.replace(b'{"run"', b'["run"')) is None


def test_what_is_no_png_is_not_stamped():
    with pytest.raises(ValueError, match="expected a PNG"):
        stamp(b"GIF89a", provenance(IDENTITY, seen=1, seed=1, index=1))
