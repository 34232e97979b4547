"""The lock that goes to whoever has waited longest."""

import signal
import threading
import time

import pytest

from lens_sdk.turn_lock import TurnLock


def test_two_threads_that_want_it_all_the_time_take_turns() -> None:
    lock = TurnLock()
    order: list[str] = []

    def work(name: str) -> None:
        for _ in range(50):
            with lock, lock:
                order.append(name)
                # Long enough for the other to stand in line again.
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    with lock:
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert "".join(order).count("ab") > 40


def test_who_was_interrupted_while_waiting_is_passed_over() -> None:
    lock, held, leave = TurnLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            leave.wait(5)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(5)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), lock:
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    leave.set()
    holding.join()
    taken = threading.Thread(target=hold)
    taken.start()
    taken.join(5)
    assert not taken.is_alive()
