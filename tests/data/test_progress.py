"""Progress bars of preparations, on a terminal that the test opens."""

import os
import pty
import termios
from contextlib import redirect_stderr

import pytest

from hf_fer.data.progress import progress, without_bars


class Terminal:
    """Standard error on a terminal of 80 columns, for the time of a call."""

    def __init__(self):
        self.ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.screen = os.fdopen(theirs, "w")

    def shows(self, count: int) -> str:
        """What it shows while so many items are gone through."""
        with redirect_stderr(self.screen):
            assert list(progress(range(count), "Checking files", count)) == list(range(count))
        self.screen.write("end\n")
        self.screen.flush()
        text = ""
        while not text.endswith("end\r\n"):
            text += os.read(self.ours, 4096).decode()
        return text.removesuffix("end\r\n")


@pytest.fixture
def terminal():
    opened = Terminal()
    with opened.screen:
        yield opened
    os.close(opened.ours)


def test_a_terminal_shows_the_bar(terminal):
    shown = terminal.shows(60)
    assert "Checking files: 100%" in shown
    assert "60/60" in shown


def test_few_items_need_no_bar(terminal):
    assert not terminal.shows(49)


def test_a_recipe_can_turn_it_off_for_its_run(terminal):
    with without_bars():
        assert not terminal.shows(60)
    assert "60/60" in terminal.shows(60)


def test_a_log_file_has_no_bar(capfd):
    assert len(list(progress(range(60), "Checking files", 60))) == 60
    assert not capfd.readouterr().err
