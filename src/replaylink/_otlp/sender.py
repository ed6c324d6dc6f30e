"""
A queue of log records, and the thread that sends them.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import random
import sys
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Final
from weakref import WeakMethod

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord

from .report import Report, log_records, write
from .request import (
    MAX_REQUEST_BYTES,
    Connection,
    TooLargeError,
    UnavailableError,
    UnwantedError,
    is_sending,
    shortened,
)
from .target import Target

BATCH_RECORDS: Final = 512

DELAY_S: Final = 0.5
"""How long records may wait for others to go with them: a line is to be seen at once."""

SHUTDOWN_S: Final = 4.0
"""How long the end of a process may be held up."""

FAILING_S: Final = 1.0
"""How long the end of an app may be held up by an endpoint in trouble."""

MAX_PAUSE_S: Final = 30.0
"""The longest pause between two tries, if the endpoint names none."""

MAX_TRIES: Final = 30
"""After this many tries, about a quarter of an hour, a batch must not block all others."""

MAX_REFUSALS: Final = 16
"""After this many parts of a batch that the endpoint will never take, with none that it
takes, all of it is unwanted. Nine halvings lead from a batch to one record."""

SMALL_BYTES: Final = 64 * 1024
"""A single record of this size is not what is too large for an endpoint."""

NO_CONTEXT: Final = Context()


class Sender(LogRecordProcessor):
    """
    Sends log records in batches, from a thread that starts with the first of them.

    A forked process starts anew: with an empty queue, for what is in it is the parent's
    to send, and with a thread and a connection of its own.

    A line may be logged in the middle of any other code of the same thread, by a signal
    handler or a finalizer. So no lock is waited for on the way into the queue.

    Args:
        target: Where to send to.
        max_queue_records: How many records may wait. Then the oldest are dropped.
    """

    def __init__(self, target: Target, max_queue_records: int) -> None:
        self._target = target
        self._max_queue_records = max_queue_records
        self._closed = False
        self._start_over()
        if hasattr(os, "register_at_fork"):
            method = WeakMethod(self._start_over)

            def start_over() -> object:
                here = method()
                return here and here()

            os.register_at_fork(after_in_child=start_over)
        atexit.register(self.shutdown)

    def _start_over(self) -> None:
        self._queue: deque[ReadableLogRecord] = deque(maxlen=self._max_queue_records)
        self._in_hand = 0
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection = Connection(self._target, self._hurry.wait)
        self._deadline = math.inf
        self._finish_by = -math.inf
        self._report = Report()
        self._failing = False
        self._told_of_failing = False
        self._dropped = 0
        self._left_out = 0
        self._left_out_why = ""

    @property
    def waiting(self) -> int:
        """
        How many records are not delivered yet.
        """
        return len(self._queue) + self._in_hand

    # --- in the threads that log -----------------------------------------------------

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if self._closed or is_sending():
            return
        # The context may hold much, and is of no use any more. The record is others' too:
        # this is copy.copy(), at a quarter of its cost.
        record = object.__new__(type(log_record.log_record))
        vars(record).update(vars(log_record.log_record), context=NO_CONTEXT)
        queue = self._queue
        if len(queue) >= self._max_queue_records:
            self._dropped += 1
        queue.append(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource,  # type: ignore[arg-type] # the SDK sets it
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )
        if self._thread is None:
            self._start()
        if len(queue) >= BATCH_RECORDS and self._wake.empty():
            self._wake.put(None)

    def _start(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # it is being started, perhaps further up in this very thread
        try:
            if self._thread is not None or self._closed:
                return
            thread = threading.Thread(target=self._run, name="replaylink-otlp", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending: close() sends then
                return
            self._thread = thread
        finally:
            self._lock.release()
        # A process that multiprocessing has forked, such as a worker of granian, ends without
        # atexit; before it does, these are called.
        multiprocessing = sys.modules.get("multiprocessing")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(self, self.shutdown, exitpriority=100)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.flush(timeout_millis / 1000)

    def flush(self, timeout_s: float, *, failing_s: float = math.inf) -> bool:
        """
        Send what waits; tell whether all of it was dealt with in time.

        Args:
            timeout_s: How long to wait for it, in seconds.
            failing_s: How long to wait for an endpoint in trouble.
        """
        start = time.monotonic()
        self._hurry.set()
        self._wake.put(None)
        while self.waiting:
            waited_s = time.monotonic() - start
            if (
                self._thread is None
                or waited_s >= timeout_s
                or (self._failing and waited_s >= failing_s)
            ):
                return False
            time.sleep(0.005)
        return True

    def finish(self) -> bool:
        """
        Send what waits, for the process may end with no more ado; tell whether that is done.

        What comes of it counts for the end that follows: a process is held up once. Tests
        may end an app many times, so an endpoint in trouble is not waited for as long.
        """
        now = time.monotonic()
        if now > self._finish_by + SHUTDOWN_S:
            self._finish_by = now + SHUTDOWN_S
        is_done = self.flush(self._finish_by - now, failing_s=FAILING_S)
        if is_done:
            self._finish_by = -math.inf
        else:
            self._tell_rest()
        return is_done

    def shutdown(self) -> None:
        self.close(SHUTDOWN_S)

    def close(self, timeout_s: float) -> bool:
        """
        Send what waits, and end; tell whether all of it was dealt with in time.
        """
        if self._closed:
            return True
        self._closed = True
        now = time.monotonic()
        if now < self._finish_by + SHUTDOWN_S:
            timeout_s = max(min(timeout_s, self._finish_by - now), 0.1)
        self._deadline = now + timeout_s
        atexit.unregister(self.shutdown)
        # A thread that is being started is there, or was not, when the lock is free.
        if self._lock.acquire(timeout=timeout_s / 2):
            self._lock.release()
        self._hurry.set()
        self._wake.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        elif self._queue:
            self._send_all()
        self._tell_losses(at_last=True)
        self._tell_rest()
        return not self.waiting

    # --- in the thread that sends ----------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=DELAY_S)
            self._hurry.clear()
            if self._closed:
                break
            if not self._send_all():
                return
        self._send_all()

    def _send_all(self) -> bool:
        """
        Send what waits; return False if the process ended before.
        """
        queue = self._queue
        # What comes meanwhile waits for others again, or else batches of a few would follow.
        left = len(queue)
        while queue and (left > 0 or len(queue) >= BATCH_RECORDS):
            # Counted before they are taken: they are never nowhere.
            self._in_hand = count = min(len(queue), BATCH_RECORDS)
            batch = [queue.popleft() for _ in range(count)]
            left -= count
            try:
                delivered = self._deliver(batch)
            except Exception as exc:
                self._leave_out(self._in_hand, f"{type(exc).__name__} in sending")
                delivered = True
            if not delivered:
                return False
            self._in_hand = 0
            self._tell_losses()
        return True

    def _deliver(self, batch: list[ReadableLogRecord]) -> bool:
        """
        Send a batch, in parts if need be; return False if the process ended before.
        """
        parts = [batch]
        tries = refusals = 0
        while parts:
            self._in_hand = sum(map(len, parts))
            if time.monotonic() >= self._deadline:
                return False
            part = parts[0]
            try:
                rejected = self._connection.post(part, self._deadline)
            except TooLargeError as exc:
                smaller = self._smaller(part, exc)
                if smaller is not None:
                    parts[:1] = smaller
                    continue
                error = UnavailableError("it answers 413 Content Too Large")
            except UnwantedError as exc:
                refusals += 1
                if refusals >= MAX_REFUSALS:
                    self._leave_out(self._in_hand, str(exc))
                    return True
                # It may be about one record: the others shall not go with it.
                if len(part) > 1:
                    parts[:1] = _halves(part)
                else:
                    self._leave_out(1, str(exc))
                    del parts[0]
                continue
            except UnavailableError as exc:
                error = exc
            else:
                del parts[0]
                tries = refusals = 0
                self._leave_out(rejected, "the endpoint rejected them")
                self._succeeded()
                continue

            tries += 1
            if time.monotonic() < self._deadline:
                self._failed(error)
            if self._closed:
                return False
            if tries >= MAX_TRIES:
                self._leave_out(len(part), f"tried {tries} times, {error}")
                del parts[0]
                tries = 0
                continue
            self._hurry.wait(_pause_s(error, tries))
            self._hurry.clear()
        return True

    def _smaller(
        self, part: list[ReadableLogRecord], exc: TooLargeError
    ) -> list[list[ReadableLogRecord]] | None:
        """
        Return what to send in place of a part that is too large; None to wait instead.
        """
        if len(part) > 1:
            return _halves(part)
        if exc.answered and exc.size <= SMALL_BYTES:
            return None
        [record] = part
        short = shortened(record, exc.size // 2 if exc.answered else MAX_REQUEST_BYTES)
        if short is None:
            self._leave_out(1, f"it has {exc.size:,} bytes")
            return []
        return [[short]]

    def _failed(self, error: UnavailableError) -> None:
        self._failing = True
        dropped = f", {log_records(self._dropped)} dropped" if self._dropped else ""
        self._told_of_failing |= self._report.say(
            "failing",
            f"cannot send logs to {self._target.shown}: {error}; "
            f"{log_records(self.waiting)} waiting{dropped}",
        )

    def _succeeded(self) -> None:
        if not self._failing:
            return
        self._failing = False
        if self._told_of_failing:
            self._told_of_failing = False
            dropped = f"; {log_records(self._dropped)} dropped meanwhile" if self._dropped else ""
            self._dropped = 0
            write(f"sending logs to {self._target.shown} works again{dropped}")

    def _leave_out(self, count: int, reason: str) -> None:
        if count:
            self._left_out += count
            self._left_out_why = reason

    def _tell_rest(self) -> None:
        left = self.waiting
        if left:
            message = f"{log_records(left)} did not reach {self._target.shown} before the end"
            self._report.say("end", message)

    def _tell_losses(self, *, at_last: bool = False) -> None:
        if self._left_out:
            message = f"{log_records(self._left_out)} left out: {self._left_out_why}"
            if self._report.say("left out", message, again=at_last):
                self._left_out = 0
        if self._dropped and (at_last or not self._failing):
            message = f"the queue was full: {log_records(self._dropped)} dropped, the oldest ones"
            if self._report.say("dropped", message, again=at_last):
                self._dropped = 0


def _halves(part: list[ReadableLogRecord]) -> list[list[ReadableLogRecord]]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


def _pause_s(error: UnavailableError, tries: int) -> float:
    if error.pause_s is not None:
        return error.pause_s
    # Many processes lost the same endpoint at the same moment.
    return min(2.0 ** (tries - 2), MAX_PAUSE_S) * random.uniform(0.8, 1.2)  # noqa: S311
