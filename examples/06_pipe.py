"""A pipe between two processes: a question goes in, the answer comes back on the same line.

Run it: `python examples/06_pipe.py`
"""

import multiprocessing
import multiprocessing.connection

import fullcourt

QUESTIONS = ["level", "court", "rotor", "referee"]


def answer(word: str) -> str:
    """Say whether `word` reads the same from both ends."""
    return f"{word}: {'the same' if word == word[::-1] else 'another word'} from the other end"


def answer_all(connection: multiprocessing.connection.Connection) -> None:
    """Answer what comes through the pipe, until None comes.

    To wait for the end of the line would be to wait for ever: a forked child has a copy of the parent's end as well.
    """
    with connection:
        while (word := connection.recv()) is not None:
            connection.send(answer(word))


def with_the_standard_library() -> list[str]:
    """A duplex pipe: each side sends and receives, and both must take turns rightly or wait for ever."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=answer_all, args=(there,))
    process.start()
    there.close()
    answers = []
    for question in QUESTIONS:
        here.send(question)
        answers.append(here.recv())
        print(f"  {answers[-1]}")
    here.send(None)
    process.join()
    here.close()
    return answers


def with_fullcourt() -> list[str]:
    """A pool of one process: a question is a call, and its future is the answer.

    A `Pipe` of fullcourt's own comes later. For questions and answers the pool has the pipe inside: one line to each of
    its processes, and nobody has to take turns.
    """
    answers = []
    with fullcourt.Pool(1) as pool:
        for question in QUESTIONS:
            future = pool.submit(answer, question)
            answers.append(future.result())
            print(f"  {answers[-1]}")
    return answers


# For the standard library: where processes are spawned, its child imports this file again. fullcourt's does not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {len(result)} answers")
