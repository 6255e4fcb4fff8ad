"""``concurrent.futures._base``, for programs that import from it: that very module."""

from concurrent.futures._base import *  # noqa: F403  for the type checkers

from fullcourt._faces.alias import be

be(__name__, "concurrent.futures._base")
