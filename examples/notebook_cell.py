"""Code that lives in no file: a notebook's cell, `python -c`, a program on stdin.

Run it: `python examples/notebook_cell.py`. `multiprocessing.Pool` fails with this cell or hangs wherever its workers
are not forked, as they cannot import the function; fullcourt sends a function that has no file along with the task.
"""

import subprocess
import sys

CELL = """\
import fullcourt

offset = 100

class Reading:
    def __init__(self, value):
        self.value = value

def calibrate(reading):
    return Reading(reading.value + offset)

with fullcourt.Pool(2) as pool:
    print(pool.map(lambda x: x * x, range(5)))
    answers = pool.map(calibrate, [Reading(1), Reading(2)])
    print([answer.value for answer in answers], all(isinstance(answer, Reading) for answer in answers))
"""

# What a notebook does with a cell, in three lines: compile it, and run it in the dictionary of a module `__main__`.
NOTEBOOK = f"cell = {CELL!r}\nimport __main__\nexec(compile(cell, '<cell 1>', 'exec'), __main__.__dict__)\n"


def run(title: str, *arguments: str, stdin: str = "") -> str:
    """Run this Python with `arguments`, show what it prints, and return it."""
    done = subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, check=False)
    print(f"-- {title} --")
    print(done.stdout, end="")
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


print(CELL)
outputs = {
    run("python -c CELL", "-c", CELL),
    run("python - < CELL", "-", stdin=CELL),
    run("as a notebook runs it", "-", stdin=NOTEBOOK),
}
assert len(outputs) == 1
print("all three gave the same")
