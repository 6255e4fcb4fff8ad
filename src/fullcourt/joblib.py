"""joblib's ``Parallel``, and with it scikit-learn's ``n_jobs``, on fullcourt's pools.

    import joblib
    import fullcourt.joblib

    fullcourt.joblib.register()
    with joblib.parallel_config(backend="fullcourt", n_jobs=4):
        ...

joblib is not installed with fullcourt; :func:`register` says what to install where it is missing.
"""

from __future__ import annotations

__all__ = ["register"]

# The first one whose backends get their results in callbacks and have `submit`'s predecessor by the same contract.
OLDEST = (1, 4)


def register(*, make_default: bool = False) -> None:
    """Make ``backend="fullcourt"`` known to joblib. Idempotent.

    Args:
        make_default: whether ``Parallel`` uses it where no other backend is asked for.

    ``parallel_config(backend="fullcourt", ...)`` takes, besides joblib's own parameters and `inner_max_num_threads`:
    `initializer`, `initargs`, `max_tasks_per_child`, `preload` and `start_method`, as :class:`fullcourt.Pool` has them.
    The start method is ``"forkserver"`` by default, on every Python: OpenMP, which scikit-learn uses, hangs in a fork
    of a program that has used it before.

    Raises:
        ImportError: joblib is missing, or older than 1.4; the message says what to install.
    """
    try:
        import joblib
    except ImportError as error:
        raise ImportError(
            "joblib is not installed, so there is nothing to register fullcourt with; "
            "install it with: pip install 'joblib>=1.4'"
        ) from error
    if version_of(joblib.__version__) < OLDEST:
        raise ImportError(
            f"joblib {joblib.__version__} is too old: its backends lack what this one builds on; "
            "install a newer one with: pip install 'joblib>=1.4'"
        )
    from fullcourt.adapters.joblib_backend import FullcourtBackend

    joblib.register_parallel_backend("fullcourt", FullcourtBackend, make_default=make_default)


def version_of(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2])
