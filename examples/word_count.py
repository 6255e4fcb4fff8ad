"""Count the words of the standard library's sources: a function over files, on processes.

Run it: `python examples/word_count.py`. There is no `__main__` guard in this file.
"""

import re
import sysconfig
import time
from collections import Counter
from pathlib import Path

import fullcourt

LIBRARY = Path(sysconfig.get_path("stdlib"))
word = re.compile(r"[a-z]{4,}")


def words_of(path: Path) -> Counter[str]:
    """How often each word of four letters and more stands in the file at `path`."""
    return Counter(word.findall(path.read_text(encoding="utf-8", errors="replace").lower()))


found = [*LIBRARY.glob("*.py"), *LIBRARY.glob("*/*.py")]
paths = sorted(path for path in found if path.is_file() and path.parent.name not in {"test", "site-packages"})
n_bytes = sum(len(path.read_bytes()) for path in paths)  # and now all are in the cache, so that both times are fair

start = time.perf_counter()
serial: Counter[str] = Counter()
for counts in map(words_of, paths):
    serial.update(counts)
serial_s = time.perf_counter() - start

start = time.perf_counter()
total: Counter[str] = Counter()
with fullcourt.Pool() as pool:
    for counts in pool.imap_unordered(words_of, paths):  # the answers are added while others are still being made
        total.update(counts)
parallel_s = time.perf_counter() - start

assert total == serial
print(f"{len(paths)} files, {n_bytes / 1e6:.1f} MB, {total.total():,} words, {len(total):,} different ones")
for text, n in total.most_common(5):
    print(f"  {n:>7,} {text}")
print(f"one after the other {serial_s:.2f} s, on the pool {parallel_s:.2f} s (its start included)")
