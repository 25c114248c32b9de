"""The command line: each command parses, makes one call, and prints.

Results go to standard output, all else to standard error. Each command lies in the module of its
name; none imports torch before it has said what it is about to do.
"""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, get_args

from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Parameter

from .. import __version__
from ..errors import Notice, OrnsteinError, StorageError, UsageError
from .augment import augment
from .cache import cache
from .classify import classify
from .compare import compare
from .demo import demo
from .detect import detect
from .distill import distill
from .doctor import doctor
from .edit import edit
from .evaluate import evaluate
from .export import export
from .machine import say
from .merge import merge
from .pull import pull
from .push import push
from .restore import restore
from .sample import sample
from .segment import segment
from .show import show
from .train import train
from .tune import tune

COMMANDS = (
    train,
    sample,
    restore,
    edit,
    segment,
    detect,
    classify,
    augment,
    distill,
    merge,
    evaluate,
    compare,
    show,
    doctor,
    demo,
    tune,
    export,
    push,
    pull,
    cache,
)


def whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse 1.5 where a whole number is asked for: it would be rounded, in silence."""
    for argument in arguments:
        kinds = [*_kinds(argument.hint)]
        whole = int in kinds and float not in kinds and str not in kinds
        for token in argument.tokens:
            if whole and _is_number(token.value) and float(token.value) % 1:
                raise CoercionError(argument=argument, token=token, target_type=int)


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of, and what else stands in it."""
    parts = get_args(hint)
    yield from chain.from_iterable(map(_kinds, parts)) if parts else (hint,)


app = App(
    name="ornstein",
    version=__version__,
    help="A diffusion model of your own data, and everything you can do with it.",
    default_parameter=Parameter(negative=()),
    config=(whole_numbers,),
    result_action="return_value",
)

for command in COMMANDS:
    app.command(command)


def main() -> None:
    """The program `ornstein`."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0 done, 1 a bug, 2 bad arguments, 3 storage, 4 locked, 5 diverged, 6 data, 7 a model file
    refused, 130 interrupted. What the user can mend is one line; only `--debug` shows more.
    """
    try:
        with _noticing():
            app(with_rows_ended(list(tokens)), exit_on_error=False, print_error=False)
        return 0
    except BrokenPipeError:  # whoever read our output has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in tokens:
            traceback.print_exc()
        code, line = _verdict(error)
    say(f"ornstein: {line}")
    return code


def with_rows_ended(tokens: list[str]) -> list[str]:
    """``--guidance 5 2 RUN`` as ``--guidance 5 --guidance 2 RUN``: what is no number ends a row."""
    if not any(tokens[:1] == [command.__name__] for command in COMMANDS):
        return tokens
    arguments = app[tokens[0]].assemble_argument_collection()
    rows = {name for a in arguments if a.parameter.n_tokens == -1 for name in a.names}
    found, row = list[str](), ""
    for token in tokens:
        if row and _is_number(token):
            found += [token] if found[-1] == row else [row, token]
        else:
            row = token if token in rows else ""
            found.append(token)
    return found


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


@contextmanager
def _noticing() -> Iterator[None]:
    """Say what is to be noticed as a line, without its place in the code."""
    with warnings.catch_warnings():
        show, speaks = warnings.showwarning, os.environ.get("RANK", "0") == "0"

        def line(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, Notice):
                show(message, category, *place)
            elif speaks:  # of the processes of torchrun, one
                say(str(message))

        warnings.showwarning = line
        yield


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and the line that tells a person what to do."""
    match error:
        case OrnsteinError():
            return error.exit_code, str(error)
        case CycloptsError():
            return UsageError.exit_code, " ".join(str(error).split())
        case KeyboardInterrupt():
            return 130, "Interrupted."
        case OSError(errno=errno.ENAMETOOLONG):
            return StorageError.exit_code, f"{str(error.filename)[:60]}... is too long for a name."
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return 1, f"This is a bug ({reason}); run the command again with --debug and report it."
