"""Preloaded into a template: the first one to load this dies at its n-th step. Imported by no test, but by its name."""

from __future__ import annotations

import os

from tests.faults import steps

ORDER = os.environ.get("FULLCOURT_TEST_TEMPLATE_STEP")  # none where pytest looks for doctests


def arm(order: str) -> None:
    number, _, path = order.partition(":")
    try:
        os.close(os.open(f"{path}.claimed", os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    steps.arm(int(number), path)


if ORDER is not None:
    arm(ORDER)
