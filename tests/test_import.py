"""The Python face: light to import, complete, and one object under each name."""

import subprocess
import sys

import pytest

import ornstein as ou

HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "pydantic", "PIL")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after `code`."""
    line = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import ornstein",
        "import ornstein.cli",
        "import ornstein.train",
        "import ornstein.evaluate",
        "import ornstein.tasks.options",
        "import ornstein; ornstein.train, ornstein.tasks, ornstein.DataOptions",
    ],
)
def test_what_every_command_waits_for_is_light(code):
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize("name", [*ou.__all__, *ou._ROOMS])
def test_every_public_name_can_be_had(name):
    assert getattr(ou, name) is not None
    assert name in dir(ou)


def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        ou.trane


def test_train_is_a_verb_before_and_after_its_package_is_imported():
    code = """
import ornstein as ou
before = ou.train
from ornstein.train.loop import Loop
import ornstein.train.loop as loop
assert ou.train is before and callable(ou.train)
assert loop.Loop is Loop
try:
    ou.train()
except ou.OrnsteinError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "name the data" in done.stdout


def test_evaluate_is_a_verb_too():
    from ornstein.evaluate.evaluation import evaluate

    assert ou.evaluate.evaluate is evaluate  # pyright: ignore
    with pytest.raises(ou.OrnsteinError, match="not a run folder"):
        ou.evaluate("nowhere")


def test_verbs_of_tasks_are_functions_whatever_was_imported_first():
    import ornstein.tasks.restore
    import ornstein.tasks.sample

    assert ou.sample is ornstein.tasks.sample.sample
    assert ou.restore is ornstein.tasks.restore.restore
    assert ou.tasks.sample.Samples is ou.Samples
