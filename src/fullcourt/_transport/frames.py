"""The wire: what a frame looks like, both ways.

A frame is one datagram of a ``SOCK_SEQPACKET`` socket (one message of the portable link)::

    byte 0     kind
         1     flags            BLOCK: the body is in a memfd block whose descriptor came with the frame
                                PARTS: the body follows in messages of its own (portable link)
                                RIGHTS (with BLOCK): further descriptors came, those of queues, pipes and locks in
                                the body; the block's last part says which of them are the function's, and which
                                are life lines
         2-3   unused
         4-7   function id      0: the function is not kept (its pickle is in this frame)
         8-15  chunk id
         16-19 start            index of the first task in its job
         20-23 count            tasks in this frame
         24-27 function bytes   length of the function's pickle at the head of the body; 0: the worker has it
         28-35 seconds          how long the tasks ran (worker to pool); how many SETTINGS and BROADCAST were sent
                                before these tasks, and must be heard before them (to a worker)
         36-   body             inline: [function's pickle][payload's pickle]
                                BLOCK: one u64 per part, the parts' lengths; in the block each part starts at a
                                multiple of 64 bytes, in the order: function, payload, out-of-band buffers
                                PARTS: the same table; each part follows in messages of at most PIECE_BYTES

To a worker: CALL (payload: ``(args, kwargs)``), MAP and STARMAP (payload: list of items), the same
as TIMED_MAP and TIMED_STARMAP (the start of each item is recorded in the journal), or as WHOLE_MAP and WHOLE_STARMAP
(nobody waits for a result by itself), STOP, SETTINGS (payload: what
of logs and warnings the program wants to have); over the portable link TAKE_BACK (give back what no slot has begun).
BROADCAST: the payload is a value that the worker keeps under a number, for tasks to come; with a count of 0, it forgets
that value. The number's lower half is in the place of the function id, the upper one in that of ``start``.

To the pool: RESULT (of a call), RESULTS (list: the next ``count`` items of a map chunk from ``start`` on), ERROR (the
task at ``start`` failed), READY (the process's id is in the place of the chunk's), INIT_FAILED. Where nothing ran:
MISSING (the worker lacks the function, or what was sent before the task: send it again), UNLOADABLE (the payload of
several items would not load: send them one by one), UNLOADABLE_FUNCTION (with the error), REVOKED (the rest of a chunk,
as the pool told it in the journal), and over the portable link TAKEN_BACK (one u64 per chunk: its id; these will not
run here). At any time, and always inline or as a block of their own: OUTPUT (text in UTF-8, of the stream ``start``: 1
stdout, 2 stderr; ``count`` 1: flush), LOG, WARNING (pickles). KEPT: a value was read; it lets the pool send what waits.

Nested tasks, which a task hands to its own pool: to the pool NESTED (payload: a pickled
:class:`fullcourt._engines.nested.Request`; its large buffers are the chunk's), NESTED_CANCEL, NESTED_REVOKE and
NESTED_STOP (chunk id: one of those) and, over the fast link, REPLIES_OPEN, with the descriptor of a socket over which
the answers shall come. These are frames as a worker sends them to the pool; their function id is the pid of the worker
that ran the task. Besides, GIVEN_BACK (the rest of a chunk, from ``start`` on, whose worker died, has not run) and
CANCEL_ANSWER (count 1: it was cancelled; 2: it is being stopped).
"""

from __future__ import annotations

import struct

__all__ = ["BLOCK", "HEADER", "MAX_INLINE", "pack"]

HEADER = struct.Struct("<BBxxIQIIId")
HEADER_BYTES = HEADER.size
pack = HEADER.pack
unpack = HEADER.unpack_from

# Larger bodies travel as descriptors. A default AF_UNIX buffer takes 208 KiB; three frames should fit.
MAX_INLINE = 60_000
RECEIVE_BYTES = 65536

BLOCK = 1
PARTS = 2
RIGHTS = 4

CALL = 1
MAP = 2
STARMAP = 3
STOP = 4
TAKE_BACK = 5
TIMED_MAP = 6  # MAP and STARMAP + 4
TIMED_STARMAP = 7
WHOLE_MAP = 10  # MAP and STARMAP + 8
WHOLE_STARMAP = 11
SETTINGS = 8
BROADCAST = 9
# These do not come back when a link is emptied: the worker must still get them.
NOT_TAKEN_BACK = frozenset((STOP, SETTINGS, BROADCAST))

RESULT = 16
RESULTS = 17
ERROR = 18
MISSING = 19
UNLOADABLE = 20
UNLOADABLE_FUNCTION = 23
REVOKED = 25
KEPT = 15  # below what tasks print and log: that is told apart by its number
READY = 21
INIT_FAILED = 22
TAKEN_BACK = 24
OUTPUT = 64
LOG = 65
WARNING = 66
NESTED = 32
NESTED_CANCEL = 33
REPLIES_OPEN = 34
GIVEN_BACK = 35
CANCEL_ANSWER = 36
NESTED_REVOKE = 37
NESTED_STOP = 38
# A frame of this single byte says that the next frame carries a descriptor: so only then need the pool call recvmsg,
# which costs a microsecond more than recv.
DESCRIPTOR_FOLLOWS = b"\xff"
