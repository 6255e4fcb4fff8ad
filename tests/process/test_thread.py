"""`Thread`: the standard library's, with a result."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading

import pytest

from fullcourt import NotSupported, Thread
from tests.process import process_tasks as tasks

T = 60.0


def test_it_brings_the_return_value():
    thread = Thread(target=tasks.double, args=(4,), kwargs={"plus": 1}, name="doubling")
    assert isinstance(thread, threading.Thread)
    thread.start()
    assert thread.result(T) == 9
    assert thread.exception() is None
    assert thread.name == "doubling"
    assert not thread.is_alive()


def test_it_brings_the_exception_itself():
    with Thread(target=tasks.fail, args=("why",)) as thread, pytest.raises(ValueError, match="why") as caught:
        thread.result(T)
    assert thread.exception() is caught.value
    assert any(entry.name == "fail" for entry in caught.traceback)


def test_a_subclass_with_a_run_of_its_own():
    class Mine(Thread[int]):
        def run(self):
            return 7

    with Mine() as mine:
        assert mine.result(T) == 7


def test_a_timeout_leaves_it_running():
    go = threading.Event()
    with Thread(target=go.wait) as thread:
        with pytest.raises(TimeoutError, match="goes on"):
            thread.result(0.01)
        go.set()
        assert thread.result(T) is True


def test_it_says_that_it_cannot_be_ended():
    with Thread(target=int) as thread:
        for end in (thread.interrupt, thread.terminate, thread.kill):
            with pytest.raises(NotSupported, match="no safe way"):
                end()


def test_it_is_started_once():
    with Thread(target=int) as thread, pytest.raises(RuntimeError, match="once"):
        thread.start()
    with pytest.raises(RuntimeError):
        Thread(target=int).result()


def test_leaving_with_by_an_exception_waits():
    done = []
    with pytest.raises(KeyError), Thread(target=done.append, args=(1,)):
        raise KeyError
    assert done == [1]


def test_awaiting():
    async def main():
        go = threading.Event()
        one, two = Thread(target=go.wait), Thread(target=tasks.fail, args=("no",))
        one.start()
        two.start()
        go.set()
        results = await asyncio.gather(one, two, return_exceptions=True)
        assert results[0] is True
        assert isinstance(results[1], ValueError)
        with pytest.raises(TimeoutError):
            again = threading.Event()
            with Thread(target=again.wait) as blocked:
                try:
                    await asyncio.wait_for(asyncio.ensure_future(forward(blocked)), 0.05)
                finally:
                    again.set()
        assert blocked.result() is True  # cancelling the waiting task left it alone

    async def forward(thread):
        return await thread

    asyncio.run(main())


def test_an_exception_that_nobody_asked_for_goes_to_the_hook(monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append((args.exc_type, str(args.exc_value))))
    with Thread(target=tasks.fail, args=("unasked",)) as thread:
        pass
    assert seen == []
    del thread
    gc.collect()
    assert seen == [(ValueError, "unasked")]


def test_its_arguments_live_no_longer_than_the_call():
    class Thing:
        pass

    import weakref

    thing = Thing()
    gone = weakref.ref(thing)
    go = threading.Event()

    def use(thing):
        del thing
        gc.collect()
        go.wait(T)

    thread = Thread(target=use, args=(thing,))
    thread.start()
    del thing
    go.set()
    thread.result(T)
    assert gone() is None


def test_a_start_that_failed_can_be_tried_again(monkeypatch):
    thread = Thread(target=tasks.double, args=(4,), kwargs={"plus": 1})
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, name, refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                thread.start()
    thread.start()
    assert thread.result(T) == 9


def test_it_runs_in_the_context_that_it_is_given():
    variable = contextvars.ContextVar("variable", default="none")
    context = contextvars.copy_context()
    context.run(variable.set, "its own")
    with Thread(target=variable.get, context=context) as thread:
        assert thread.result(T) == "its own"
    with Thread(target=variable.get) as thread:
        assert thread.result(T) == "none"
