"""The functions that run in workers: importable, so that every peer can send them by name."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

big: Any = None  # a worker's own large array, made at its first use
model: Any = None  # what an expensive initializer made


def noop(x: Any) -> Any:
    return x


def spin(seconds: float) -> float:
    """Be busy for so long by the clock."""
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass
    return seconds


def pid(_: Any = None) -> int:
    return os.getpid()


def ends_of(array: Any) -> float:
    return float(array[0]) + float(array[-1])


def sum_of(array: Any) -> float:
    return float(array.sum())


def make_array(n: int) -> Any:
    """Return the worker's own array of n float64, made once: so that only its way back is measured."""
    global big
    if big is None or len(big) != n:
        import numpy as np

        big = np.ones(n)
    return big


# -- workloads that peers publish -------------------------------------------------------------------------------------


def convolve(image: Any, kernel: Any) -> Any:
    """Every fifth pixel of the image convolved with a small kernel (as in Ray's published comparison)."""
    rows, columns = kernel.shape
    height, width = image.shape[0] - rows + 1, image.shape[1] - columns + 1
    out = 0.0
    for i in range(rows):
        for j in range(columns):
            out = out + kernel[rows - 1 - i, columns - 1 - j] * image[i : i + height : 5, j : j + width : 5]
    return out


def convolve_pair(pair: tuple[Any, Any]) -> Any:
    return convolve(*pair)


def make_document(seed: int, n_words: int) -> list[bytes]:
    import random

    draw = random.Random(seed).randbytes
    return [draw(20) for _ in range(n_words)]


def count_prefixes(counts: dict[bytes, int], document: list[bytes]) -> dict[bytes, int]:
    """Take in a document: how often each prefix of a word, up to three bytes, occurred so far."""
    for word in document:
        for n in (1, 2, 3):
            prefix = word[:n]
            counts[prefix] = counts.get(prefix, 0) + 1
    return counts


def popular(counts: dict[bytes, int]) -> set[bytes]:
    return {prefix for prefix, n in counts.items() if n > 3}


def load_model(seconds: float = 0.3) -> Any:
    """Stands for loading a model: takes its time, in every process that does it."""
    global model
    if model is None:
        spin(seconds)
        model = [i * 0.5 for i in range(1000)]
    return model


def predict(x: int) -> float:
    """Use the model of this worker; loads it where no initializer did."""
    loaded = load_model()
    spin(0.002)
    return float(loaded[x % len(loaded)])


def mandelbrot_row(y: int, width: int = 160, height: int = 120, n_max: int = 300) -> int:
    """One row of the set: rows through its middle cost a hundred times those at its edge."""
    total = 0
    ci = (y - height / 2) * 3.0 / height
    for x in range(width):
        c = complex((x - width * 0.75) * 3.0 / width, ci)
        z = 0j
        n = 0
        while n < n_max and (z.real * z.real + z.imag * z.imag) < 4.0:
            z = z * z + c
            n += 1
        total += n
    return total
