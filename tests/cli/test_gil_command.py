import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fullcourt.cli.main import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
COMMAND = [sys.executable, "-m", "fullcourt", "gil"]
SCRIPT = """\
import sys, threading, time
def loop():
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        pass
threads = [threading.Thread(target=loop) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("said", *sys.argv[1:], __name__)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return str(path)


def run(*words, cwd=None):
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def test_a_script_runs_as_ever_and_the_report_stands_beside_its_output(script, tmp_path):
    done = run("--html", str(tmp_path / "a.html"), "--trace", str(tmp_path / "a.json"), script, "--html", "x")
    assert done.returncode == 0
    assert done.stdout == "said --html x __main__\n"
    assert "Observed for" in done.stderr
    assert "GIL held" in done.stderr
    assert "</html>" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_module_runs_by_its_name(script, tmp_path):
    done = run("-m", "job", "-m", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "said -m __main__\n"


@pytest.mark.parametrize(("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_the_status_is_the_programs(tmp_path, end, status):
    path = tmp_path / "ends.py"
    path.write_text(f"import os, sys\n{end}\n", encoding="utf-8")
    done = run(str(path))
    assert done.returncode == status
    assert "Observed for" in done.stderr


def test_it_ends_with_the_program_whatever_that_leaves_running(tmp_path):
    path = tmp_path / "leaves.py"
    path.write_text(
        "import os, subprocess, sys, time\n"
        "quiet = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True, **quiet)\n"
        "print(child.pid, flush=True)\n"
        "files, of_child = f'/proc/{os.getppid()}/fd', f'/proc/{child.pid}/'\n"
        "def is_watched():\n"
        "    for number in os.listdir(files):\n"
        "        try:\n"
        "            if os.readlink(f'{files}/{number}').startswith(of_child):\n"
        "                return True\n"
        "        except OSError:\n"
        "            pass  # closed meanwhile\n"
        "end = time.monotonic() + 60\n"
        "while not is_watched() and time.monotonic() < end:\n"
        "    time.sleep(0.01)\n"
        "os._exit(0)\n",
        encoding="utf-8",
    )
    done = run(str(path))
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0
    assert "2 processes" in done.stderr


def test_a_running_program_is_watched_and_goes_on():
    code = "import time\nprint(flush=True)\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        done = run("--pid", str(program.pid), "--seconds", "0.6")
        alive = program.poll() is None
        program.kill()
    assert alive
    assert done.returncode == 0
    assert f"process {program.pid}" in done.stdout
    assert f"Python 3.{sys.version_info[1]}" in done.stdout


def test_ctrl_c_ends_the_program_and_the_report_comes(tmp_path):
    path = tmp_path / "waits.py"
    path.write_text("import time\nprint(flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    with subprocess.Popen(
        [*COMMAND, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as command:
        command.stdout.readline()
        time.sleep(0.2)
        os.killpg(command.pid, signal.SIGINT)
        _, said = command.communicate(timeout=30)
    assert command.returncode == 130
    assert "KeyboardInterrupt" in said
    assert "Observed for" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a script"),
        (["-m"], "-m needs a module"),
        (["--pid", "1", "x.py"], "just one of them"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["--pid", "4194305"], "there is no process 4194305"),
        (["--rate", "0", __file__], "--rate must be"),
        (["--seconds", "-1", __file__], "--seconds must be"),
        (["--seconds", "nan", __file__], "--seconds must be"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(words, said, capsys):
    assert main(["gil", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_line(script):
    done = run("--html", "/dev/full", script)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "fullcourt gil: cannot write /dev/full: No space left on device."
    assert "Traceback" not in done.stderr


def test_a_program_whose_streams_are_closed_runs(script):
    closing = ["sh", "-c", '"$@" 2>&-', "sh"]
    done = subprocess.run([*closing, *COMMAND, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "said __main__\n")
    closing = ["sh", "-c", '"$@" >&-', "sh"]
    done = subprocess.run([*closing, *COMMAND, script], capture_output=True, text=True, timeout=60, check=False)
    assert "Observed for" in done.stderr


def test_a_page_that_cannot_be_written_is_told_before_anything_runs(script, capsys, tmp_path):
    assert main(["gil", "--html", str(tmp_path / "no" / "page.html"), script]) == 3
    assert "cannot write" in capsys.readouterr().err
