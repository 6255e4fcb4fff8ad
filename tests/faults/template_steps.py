"""Preloaded into a template: the first one to load this dies at its n-th step. Imported by no test, but by its name."""

from __future__ import annotations

import os

from tests.faults import steps

number, _, path = os.environ["FULLCOURT_TEST_TEMPLATE_STEP"].partition(":")
try:
    os.close(os.open(f"{path}.claimed", os.O_CREAT | os.O_EXCL, 0o600))
except FileExistsError:
    pass
else:
    steps.arm(int(number), path)
