"""``multiprocessing.resource_tracker``: that very module."""

from multiprocessing.resource_tracker import *  # noqa: F403  for the type checkers

from fullcourt._faces.alias import be

be(__name__, "multiprocessing.resource_tracker")
