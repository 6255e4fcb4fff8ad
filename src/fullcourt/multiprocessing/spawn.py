"""``multiprocessing.spawn``: that very module."""

from multiprocessing.spawn import *  # noqa: F403  for the type checkers

from fullcourt._faces.alias import be

be(__name__, "multiprocessing.spawn")
