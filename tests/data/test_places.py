"""The files a user names: in the order given, of folders and patterns in that of people."""

from pathlib import Path

import pytest

from ornstein.data.places import files_in
from ornstein.errors import DataError, UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scans/10.png", "scans/9.png", "scans/deep/1.PNG", "scans/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("scans/._9.png").touch()  # as file managers leave behind
    Path("a[1].png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ("scans", ["scans/9.png", "scans/10.png", "scans/deep/1.PNG"]),
        ("scans/*.png", ["scans/9.png", "scans/10.png"]),
        ("scans/**/1*", ["scans/10.png", "scans/deep/1.PNG"]),
        (["scans/10.png", Path("scans/9.png")], ["scans/10.png", "scans/9.png"]),
        (["scans/deep", "scans/9.png"], ["scans/deep/1.PNG", "scans/9.png"]),
        ("a[1].png", ["a[1].png"]),  # which is there, and no pattern
        ("scans/notes.txt", ["scans/notes.txt"]),  # whoever reads it says what is wrong
    ],
)
def test_every_file_that_is_named_in_order(here, places, names):
    assert [path.as_posix() for path in files_in(places)] == names


def test_what_is_taken_of_a_folder_is_up_to_the_reader(here):
    found = files_in("scans", lambda name: name.endswith(".txt"))
    assert [path.name for path in found] == ["notes.txt"]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ("*.jpg", "matches no files"),
        (["scans/9.png", "scans/deep/*.npy"], "scans/deep/[*].npy matches no files"),
        ("empty", "holds no examples"),
        ([], "at least one"),
        (["scans", "gone.png"], "There is no gone.png"),
    ],
)
def test_nothing_there_is_said(here, places, words):
    Path("empty").mkdir()
    with pytest.raises((UsageError, DataError), match=words):
        files_in(places)
