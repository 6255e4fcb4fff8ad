"""`fullcourt doctor`: what this machine and this Python offer to parallel programs, and where they limit.

Each fact is looked up in a function of its own (doctor_probes.py) that answers "unknown" rather than fail: a doctor
who falls ill with the patient helps nobody.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

from fullcourt.cli import doctor_probes as probes
from fullcourt.cli import exits

if TYPE_CHECKING:
    from fullcourt.cli.doctor_probes import Facts

__all__ = ["examine", "run_doctor", "version"]

_TITLES = {
    "fullcourt": "fullcourt",
    "python": "Python",
    "cores": "Cores",
    "gil": "GIL",
    "interpreters": "Interpreters",
    "start_methods": "Start methods",
    "limits": "Limits",
    "memory": "Memory",
    "system": "System calls",
}


def run_doctor(*, as_json: bool) -> int:
    """Print the findings; returns 0, whatever they are."""
    findings = examine()
    if as_json:
        json.dump(findings, sys.stdout, indent=2)
        print()
    else:
        print(_text(findings))
    return exits.OK


def examine() -> dict[str, Facts]:
    """Return all findings by section, ready for JSON; `None` stands for unknown.

    Example:
        >>> examine()["cores"]["usable"] >= 1
        True
    """
    return {
        "fullcourt": {"version": version(), **probes.packages()},
        "python": probes.python(),
        "cores": probes.cores(),
        "gil": probes.gil(),
        "interpreters": probes.interpreters(),
        "start_methods": probes.start_methods(),
        "limits": probes.limits(),
        "memory": probes.memory(),
        "system": probes.system(),
    }


def version() -> str:
    """Return the version of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("fullcourt")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"


def _text(findings: dict[str, Facts]) -> str:
    lines: list[str] = []
    for section, facts in findings.items():
        lines.append(_TITLES[section])
        lines += [f"  {_label(name):<26} {_shown(name, value)}" for name, value in facts.items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def _shown(name: str, value: object) -> str:
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_bytes"):
            return _bytes_text(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g} s" if name.endswith("_s") else f"{value:g}"
        case list():
            return ", ".join(map(str, cast("list[object]", value))) or "none"
        case _:
            return str(value)


def _label(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def _bytes_text(n_bytes: int) -> str:
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
