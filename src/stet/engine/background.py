"""A thread for long work that may be dropped at any moment, such as compiling."""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class _Stop(BaseException):
    """Raised inside the thread to end it; `except Exception` does not catch it."""


@contextmanager
def _silence_stop() -> Iterator[None]:
    """Silence the report of a `_Stop` that a finaliser swallowed."""
    hook = sys.unraisablehook

    def quiet(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, _Stop):
            hook(unraisable)

    sys.unraisablehook = quiet
    try:
        yield
    finally:
        sys.unraisablehook = hook


class Background(Generic[T]):
    """Works off items one after the other, in a thread that starts with the first.

    A daemon thread that still runs when the interpreter is torn down may abort the process from
    within native code, so `stop` has to be called before.

    Args:
        work: processes an item; returns whether to go on with the next one.
        name: name of the thread.
    """

    def __init__(self, work: Callable[[T], bool], name: str) -> None:
        self._work = work
        self._name = name
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopped = False

    def put(self, item: T) -> None:
        """Add an item; after `stop` it is ignored."""
        with self._starting:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._items.put(item)

    def stop(self, timeout: float = 10.0) -> bool:
        """Drop what is left, interrupt what is being done, and wait for the thread.

        Python code is interrupted at its next instruction, native code when it returns.

        Args:
            timeout: seconds to wait.

        Returns:
            Whether the thread has ended.
        """
        with self._starting:
            self._stopped = True
            thread = self._thread
        if thread is None:
            return True
        while not self._items.empty():
            self._items.get()
        self._items.put(None)
        if thread is threading.current_thread():
            return False
        deadline = time.monotonic() + timeout
        with _silence_stop():
            while thread.is_alive() and time.monotonic() < deadline:
                # Again and again, for an exception that hits a finaliser is swallowed there.
                if thread.ident is not None:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop)
                    )
                thread.join(0.1)
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                item = self._items.get()
                if item is None or not self._work(item):
                    return
        except _Stop:
            return
