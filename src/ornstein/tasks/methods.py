"""By which method to mend, as the options say, and what is known of its draws."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import TypeVar

from ..core.measured import BIASES, METHODS, Method
from ..core.particles import Particles
from ..core.posterior import Measured
from ..errors import UsageError
from .options import RestoreOptions, suggestion

Made = TypeVar("Made")


def method_of(options: RestoreOptions) -> Method:
    """The method that the options name, with what they say of it.

    Raises:
        UsageError: If there is none of that name, or it cannot be made so.
    """
    name = options.method
    if name not in METHODS:
        raise UsageError(f"There is no method {name!r}{suggestion(name, [*METHODS, 'particles'])}")
    own = {"iterations": options.iterations} if name == "mmps" else {}
    return _made(name, METHODS[name], own | (options.tuning or {}))


def particles_of(options: RestoreOptions, measured: Measured) -> Particles:
    """Those that compete for explaining `measured`.

    Raises:
        UsageError: If they cannot be made so.
    """

    def competing(least: float = Particles.least) -> Particles:
        return Particles(measured, least)

    return _made("particles", competing, options.tuning or {})


def caution(options: RestoreOptions) -> str:
    """What is known to be wrong with the draws, in a sentence; empty if it is nothing."""
    if options.method not in BIASES:
        return ""
    follows, variance = BIASES[options.method]
    return (
        f"Draws by {options.method} are biased: of two correlated numbers, one known, the other "
        f"follows it {follows:.2f} times as much as it should and has {variance:.2f} times its "
        "variance; choose mmps, or measure the bands with --calibrate 100."
    )


def _made(name: str, make: Callable[..., Made], given: Mapping[str, float]) -> Made:
    known = signature(make).parameters
    for parameter in given:
        if parameter not in known:
            other = suggestion(parameter, known) if known else ": it has nothing to tune."
            raise UsageError(f"The method {name} knows no {parameter!r}{other}")
    whole = {k: int(v) if float(v).is_integer() else v for k, v in given.items()}
    try:
        return make(**whole)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The method {name} cannot be made so: {error}.") from None
