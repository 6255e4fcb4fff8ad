"""A pytest plugin that puts our backend in loky's place before joblib's own tests are imported.

Tests that say "loky", or leave the backend open, then run on ours. Those that are about other backends are left out.
"""

from __future__ import annotations

import joblib.parallel

import fullcourt.joblib

fullcourt.joblib.register()
joblib.parallel.BACKENDS["loky"] = joblib.parallel.BACKENDS.pop("fullcourt")

OTHERS = ("multiprocessing", "threading", "sequential", "spawn", "back_compat_backend")


def is_elses(parameters: dict[str, object]) -> bool:
    """Whether all backends among a test's parameters are others."""
    backends = [value for name, value in parameters.items() if name.endswith("backend")]
    names = [value if isinstance(value, str) else type(value).__name__ for value in backends]
    ours = [name for name in names if name in {"loky", "FullcourtBackend", "NoneType"}]
    return bool(backends) and not ours


def pytest_collection_modifyitems(config, items):
    others = [item for item in items if hasattr(item, "callspec") and is_elses(item.callspec.params)]
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=others)
