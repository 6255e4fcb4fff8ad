"""Modules of the standard library under a second name."""

from __future__ import annotations

import importlib
import sys

__all__ = ["be"]


def be(name: str, standard: str) -> None:
    """Have the module that is being imported under this name be that one of the standard library.

    ``import`` gives what stands in ``sys.modules`` when a module's code has run (the import statement's reference).
    So its classes are the very same, and what programs ask with ``isinstance`` stays true.
    """
    sys.modules[name] = importlib.import_module(standard)
