"""Thumbnails of pictures: a job that computes in pure Python and writes files, with one bad picture among the good.

Run it: `python examples/thumbnails.py`. Pictures are PGM files (grey, one byte a pixel), so nothing need be installed.
"""

import math
import tempfile
from pathlib import Path

import fullcourt

SIZE = 160
FACTOR = 8
SHADES = " .:-=+*#%@"


def draw_picture(path: Path, n_rings: int) -> None:
    """Write a picture of rings, `SIZE` x `SIZE`."""
    middle = SIZE / 2
    pixels = bytearray()
    for y in range(SIZE):
        for x in range(SIZE):
            pixels.append(int(127 + 127 * math.cos(math.hypot(x - middle, y - middle) * n_rings / middle * math.pi)))
    path.write_bytes(b"P5 %d %d 255\n" % (SIZE, SIZE) + pixels)


def make_thumbnail(path: Path) -> Path:
    """Scale the picture at `path` down by `FACTOR`, each pixel the mean of a square; return where it was written."""
    header, _, pixels = path.read_bytes().partition(b"\n")
    if not header.startswith(b"P5 "):
        raise ValueError(f"{path.name} is not a PGM picture")
    width, height = map(int, header.split()[1:3])
    small = bytearray()
    for top in range(0, height, FACTOR):
        for left in range(0, width, FACTOR):
            rows = (pixels[y * width + left : y * width + left + FACTOR] for y in range(top, top + FACTOR))
            small.append(sum(map(sum, rows)) // FACTOR**2)
    target = path.with_suffix(".thumbnail.pgm")
    target.write_bytes(b"P5 %d %d 255\n" % (width // FACTOR, height // FACTOR) + small)
    return target


def show(path: Path) -> None:
    """Print a thumbnail in letters."""
    header, _, pixels = path.read_bytes().partition(b"\n")
    width = int(header.split()[1])
    for start in range(0, len(pixels), 2 * width):  # every second row: a letter is twice as high as it is wide
        print("".join(SHADES[p * len(SHADES) // 256] for p in pixels[start : start + width]))


with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder, f"rings_{i}.pgm") for i in range(1, 11)]
    with fullcourt.Pool() as pool:
        pool.starmap(draw_picture, zip(paths, range(1, 11), strict=True))
        paths[3].write_text("this is no picture")
        outcomes = pool.map(make_thumbnail, paths, on_error="return")
    for outcome in outcomes:
        if isinstance(outcome, fullcourt.Failure):
            print(f"item {outcome.index} failed: {outcome.exception}")
    thumbnails = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    print(f"{len(thumbnails)} thumbnails of {len(paths)} pictures; the third:")
    show(thumbnails[2])
