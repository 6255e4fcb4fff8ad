"""A queue between two processes: one makes records, the other uses them as they come.

Run it: `python examples/05_queue.py`
"""

import multiprocessing
import multiprocessing.queues

import fullcourt

N_RECORDS = 8


def make(number: int) -> str:
    """The producer's work: one record."""
    return f"record {number}"


def use(record: str) -> str:
    """The consumer's work on one record."""
    return record.upper()


def produce(records: "multiprocessing.queues.Queue[str | None]") -> None:
    """Put every record into the queue, then None: a queue has no end of its own."""
    for number in range(N_RECORDS):
        records.put(make(number))
    records.put(None)


def consume(
    records: "multiprocessing.queues.Queue[str | None]", used: "multiprocessing.queues.Queue[str | None]"
) -> None:
    """Use each record that comes out of the queue, until None."""
    while (record := records.get()) is not None:
        used.put(use(record))
    used.put(None)


def with_the_standard_library() -> list[str]:
    """Two processes and a queue between them; a second queue brings the answers home."""
    records: multiprocessing.queues.Queue[str | None] = multiprocessing.Queue(maxsize=4)
    used: multiprocessing.queues.Queue[str | None] = multiprocessing.Queue()
    producer = multiprocessing.Process(target=produce, args=(records,))
    consumer = multiprocessing.Process(target=consume, args=(records, used))
    producer.start()
    consumer.start()
    answers = list(iter(used.get, None))
    producer.join()
    consumer.join()
    return report(answers)


def with_fullcourt() -> list[str]:
    """Two processes, each a pool of one: the results of the first stream into the second.

    A `Queue` of fullcourt's own comes later. What serves for it here is `imap`: it takes its input as it comes and
    holds only a bounded part of it, as a queue with a `maxsize` does; but the records pass through this process.
    """
    with fullcourt.Pool(1, name="producer") as producer, fullcourt.Pool(1, name="consumer") as consumer:
        records = producer.imap(make, range(N_RECORDS))
        answers = list(consumer.imap(use, records))
    return report(answers)


def report(answers: list[str]) -> list[str]:
    """Print the answers, and return them."""
    for answer in answers:
        print(f"  {answer}")
    return answers


# For the standard library: where processes are spawned, its children import this file again. fullcourt's do not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {len(result)} records")
