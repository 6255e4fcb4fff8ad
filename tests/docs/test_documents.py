"""The Python code blocks of README.md and docs/ run as they stand.

A document is one program: its ```python blocks, in order, in one file without a `__main__` guard. The file's lines are
the document's, blank between the blocks, so that a traceback names the document's line. Blocks of another language
(text, console, sh, mermaid ...) are not run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


def python_lines(text: str) -> list[str]:
    """The document's lines with all but the Python blocks' blanked; an unclosed block is an error."""
    lines, language = [], None
    for line in text.splitlines():
        fence = line.strip()
        if fence.startswith("```"):
            language = fence.removeprefix("```").strip() if language is None else None
            lines.append("")
        else:
            lines.append(line if language == "python" else "")
    assert language is None, f"a code block of {language!r} is not closed"
    return lines


DOCUMENTS = {
    str(path.relative_to(ROOT)): lines
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if any(lines := python_lines(path.read_text(encoding="utf-8")))
}


def run_document(name: str, folder: Path, start_method: str | None = None) -> None:
    lines = list(DOCUMENTS[name])
    if start_method:  # on the first line, which is the title's
        assert not lines[0]
        lines[0] = f"import multiprocessing; multiprocessing.set_start_method({start_method!r})"
    script = folder / (Path(name).stem + ".py")
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{name} failed; the lines below are its own\n{done.stdout}{done.stderr}"


def test_the_readme_has_code():
    assert "README.md" in DOCUMENTS


def test_a_block_keeps_its_line_numbers():
    assert python_lines("# T\n```python\nx = 1\n```\n```text\nno\n```") == ["", "", "x = 1", "", "", "", ""]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_code_of_a_document_runs(name, tmp_path):
    run_document(name, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has only spawn")
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_the_code_of_the_readme_runs_under_each_start_method(start_method, tmp_path):
    run_document("README.md", tmp_path, start_method)
