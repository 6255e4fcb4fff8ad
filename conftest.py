"""Loads the leak check for everything that pytest runs here: tests, and the examples in src's docstrings."""

pytest_plugins = ["tests.leaks"]
