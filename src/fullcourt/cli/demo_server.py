"""The web server of `fullcourt demo`, on loopback, run as a program of its own: `python demo_server.py DELAY_S`.

It answers `GET /N` with the content of the N-th file, DELAY_S after the request came. The paths come on stdin, a line
each, ended by an empty line; then it prints its port, and serves until stdin ends, which happens at the latest when
its parent dies.

It imports nothing of this package, so that it can be run by its path.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def serve(bodies: list[bytes], delay_s: float) -> None:
    """Serve until stdin ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(delay_s)
            name = head.split(b" ", 2)[1].lstrip(b"/")
            known = name.isdigit() and int(name) < len(bodies)
            body = bodies[int(name)] if known else b""
            status = b"200 OK" if known else b"404 Not Found"
            writer.write(
                b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # whoever asked has gone, or did not speak HTTP
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Read the paths and serve them."""
    paths: list[str] = []
    for line in sys.stdin:
        if line == "\n":
            break
        paths.append(line.removesuffix("\n"))
    asyncio.run(serve([Path(path).read_bytes() for path in paths], float(sys.argv[1])))


if __name__ == "__main__":
    main()
