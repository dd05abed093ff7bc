"""Ctrl-C and SIGTERM: the first is noted, the second acts as it always did."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from trtkit.training.interrupt import SIGNALS, TrainingInterrupted, interruptible


@pytest.fixture(autouse=True)
def own_handlers():
    """A handler of the test's own for both signals, whatever runs the tests."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: caught.append(number))
    yield caught
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_acts_as_usual(own_handlers, number):
    with interruptible() as stopping:
        assert not stopping()
        signal.raise_signal(number)
        assert stopping()
        assert own_handlers == []
        signal.raise_signal(number)
        assert own_handlers == [number]
        assert stopping()


def test_after_the_first_signal_the_other_acts_as_usual_too(own_handlers):
    with interruptible() as stopping:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stopping()
    assert own_handlers == [signal.SIGINT]


def test_a_second_ctrl_c_is_python_s_own():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_handlers_are_put_back(own_handlers, interrupted, fails):
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        with interruptible() as stopping:
            assert [signal.getsignal(number) for number in SIGNALS] != before
            if interrupted:
                signal.raise_signal(signal.SIGINT)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert stopping() == interrupted
    signal.raise_signal(signal.SIGTERM)
    assert own_handlers == [signal.SIGTERM]


def test_one_training_after_the_other(own_handlers):
    for _ in range(2):
        with interruptible() as stopping:
            assert not stopping()
            signal.raise_signal(signal.SIGINT)
            assert stopping()
    assert own_handlers == []


def test_another_thread_is_never_interrupted(own_handlers):
    before = [signal.getsignal(number) for number in SIGNALS]
    answers: list[bool] = []

    def train() -> None:
        with interruptible() as stopping:
            answers.append(stopping())
            answers.append([signal.getsignal(number) for number in SIGNALS] == before)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False, True]


def test_the_interruption_is_a_keyboard_interrupt_with_words():
    assert issubclass(TrainingInterrupted, KeyboardInterrupt)
    assert str(TrainingInterrupted("resume it")) == "resume it"


NOTED = """
import signal, time
from trtkit.atomic import remove_on_signals
from trtkit.training.interrupt import interruptible
remove_on_signals()
with interruptible() as interrupted:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(1.5)
    print(interrupted(), flush=True)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)
"""


def test_the_command_line_s_own_end_waits_for_the_second_signal():
    run = [sys.executable, "-c", NOTED]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
    assert done.returncode == -signal.SIGTERM
