"""Which files here are no tests: programs that tests start, which need what not every Python has installed."""

from __future__ import annotations

collect_ignore = ["joblib_suite_plugin.py", "notebook_driver.py"]
