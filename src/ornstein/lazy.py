"""Packages whose names are loaded when first used, so that importing them costs nothing."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def loader(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a `package` whose names live in the modules that `home` says."""

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{home[name]}", package), name)

    return load


def verb(package: str) -> None:
    """Let a `package` be called as the function of its own name: ``ornstein.train(...)``."""
    name = package.rpartition(".")[2]

    class Verb(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, name)(*args, **kwargs)

    sys.modules[package].__class__ = Verb
