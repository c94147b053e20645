from __future__ import annotations

import threading

from mainstay.resources.sqlalchemy.presence import Presence
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS


class Server:
    """One that is mute until it is told to answer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.may_answer = threading.Event()
        self.presence = Presence(self._ask, clock=lambda: self.now)

    def _ask(self) -> None:
        self.asked += 1
        self.may_answer.wait(PATIENCE_SECONDS)

    def is_lost_after(self, seconds: float) -> bool:
        """Look again and again until the time is over, as those do who wait."""
        ends = self.now + seconds
        while self.now < ends:
            self.now += 0.1
            is_lost = self.presence.is_lost
        return is_lost


def test_who_has_waited_for_a_moment_alone_does_not_ask() -> None:
    server = Server()
    assert not server.presence.is_lost_to(0.1)
    assert server.asked == 0


def test_a_server_that_answers_nobody_is_lost_until_it_answers() -> None:
    server = Server()
    assert not server.presence.is_lost_to(0.6)
    eventually(lambda: server.asked == 1)
    assert not server.is_lost_after(1.0)
    assert server.is_lost_after(1.0)
    assert server.presence.is_lost_to(2.6)
    assert server.asked == 1
    server.may_answer.set()
    eventually(lambda: not server.presence.is_lost)


def test_a_server_that_answers_somebody_is_there() -> None:
    server = Server()
    server.presence.doubt()
    assert not server.is_lost_after(1.0)
    server.presence.answered()
    assert not server.is_lost_after(1.0)
    assert server.is_lost_after(1.0)
    server.may_answer.set()


def test_a_process_that_was_paused_itself_blames_nobody() -> None:
    server = Server()
    server.presence.doubt()
    assert not server.is_lost_after(0.5)
    server.now += 60.0
    assert not server.is_lost_after(1.0)
    assert server.is_lost_after(1.0)
    server.may_answer.set()


def test_who_has_just_been_answered_does_not_ask_again() -> None:
    server = Server()
    server.presence.answered()
    server.presence.doubt()
    assert server.asked == 0
    server.now += 1.0
    server.presence.doubt()
    eventually(lambda: server.asked == 1)
    server.may_answer.set()


def test_a_refusal_is_an_answer() -> None:
    asked = threading.Event()

    def refuse() -> None:
        asked.set()
        raise ConnectionRefusedError

    now = [100.0]
    presence = Presence(refuse, clock=lambda: now[0])
    presence.doubt()
    assert asked.wait(PATIENCE_SECONDS)
    now[0] += 60.0
    eventually(lambda: not presence.is_lost)


def test_a_question_that_ends_without_an_answer_is_asked_again_until_nobody_needs_it() -> None:
    now = [100.0]
    asked = []

    def time_out() -> None:
        asked.append(threading.current_thread())
        now[0] += 2.0
        raise TimeoutError

    presence = Presence(time_out, clock=lambda: now[0])
    presence.doubt()
    eventually(lambda: len(asked) > 3)
    presence.close()
    eventually(lambda: not asked[0].is_alive())
