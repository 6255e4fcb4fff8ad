"""``multiprocessing.shared_memory``: that very module."""

from multiprocessing.shared_memory import *  # noqa: F403  for the type checkers

from fullcourt._faces.alias import be

be(__name__, "multiprocessing.shared_memory")
