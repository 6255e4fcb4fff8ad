"""``multiprocessing.process``: that very module."""

from multiprocessing.process import *  # noqa: F403  for the type checkers

from fullcourt._faces.alias import be

be(__name__, "multiprocessing.process")
