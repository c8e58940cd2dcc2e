"""Serving objects: the threads between the engine's inbox and `Transfers`.

One thread takes messages, a few work on them, since hashing and disks take milliseconds and nobody should wait for
somebody else's. The engine's inbox is bounded and refuses what does not fit; this takes no more out of it than there
are hands, so the bound holds all the way.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from weft.agent.transfers import Transfers
from weft.dataplane import Message
from weft.dataplane.exchange import TOPIC, decode_request, encode, refusal
from weft.model.errors import Busy, Closed, PeerInternal, WeftError
from weft.model.policy import STAGING_SLOTS_MAX

_HANDS: Final = STAGING_SLOTS_MAX
_LOOK_MS: Final = 200
"""How long the receiving thread waits for a message before it looks at the clock and at whether to stop."""

Ticket = tuple[int, int, int]


class Inbox(Protocol):
    """Where messages come from and answers go: a lender, from this side."""

    def receive(self, timeout_ms: int) -> Message | None:
        """The next message, or None when none came in time."""
        ...

    def answer(self, ticket: Ticket, data: bytes) -> None:
        """Answer a message."""
        ...

    def refuse(self, ticket: Ticket, code: str, detail: str) -> None:
        """Refuse a message."""
        ...


class Serving:
    """Answers peers' messages about objects from its making to `close`."""

    def __init__(self, inbox: Inbox, transfers: Transfers[Ticket]) -> None:
        self._inbox = inbox
        self._transfers = transfers
        self._stopping = threading.Event()
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="weft objects")
        self._idle = threading.Semaphore(2 * _HANDS)
        self._receiver = threading.Thread(target=self._receive, name="weft object inbox", daemon=True)
        self._receiver.start()

    def close(self) -> None:
        """Take no more messages, finish what is being worked on, end the transfers. Closing twice is harmless."""
        self._stopping.set()
        self._receiver.join()
        self._hands.shutdown(wait=True)
        self._transfers.close()

    def _receive(self) -> None:
        while not self._stopping.is_set():
            if not self._idle.acquire(timeout=_LOOK_MS / 1_000):
                continue
            try:
                message = self._inbox.receive(_LOOK_MS)
            except Closed:
                self._idle.release()
                return
            if message is None or message.ticket is None:
                self._idle.release()
            else:
                self._hand_on(message, message.ticket)
            self._look_at_the_clock()

    def _hand_on(self, message: Message, ticket: Ticket) -> None:
        if message.topic != TOPIC:
            self._idle.release()
            self._inbox.refuse(ticket, "not_supported", f"this node answers nothing of topic {message.topic:#x}")
            return
        self._hands.submit(self._work, message, ticket)

    def _work(self, message: Message, ticket: Ticket) -> None:
        try:
            self._answer(message, ticket)
            self._serve_the_line()
        finally:
            self._idle.release()

    def _answer(self, message: Message, ticket: Ticket) -> None:
        try:
            answer = self._transfers.handle(message.sender, decode_request(message.payload), ticket)
        except WeftError as error:
            answer = refusal(error)
        except Exception as error:
            answer = refusal(PeerInternal(f"the node met a bug: {type(error).__name__}"))
        if answer is not None:
            self._inbox.answer(ticket, encode(answer))

    def _serve_the_line(self) -> None:
        while (turn := self._transfers.next_in_line()) is not None:
            answer = self._transfers.handle(turn.sender, turn.request, turn.whom)
            if answer is not None:
                self._inbox.answer(turn.whom, encode(answer))

    def _look_at_the_clock(self) -> None:
        for late in self._transfers.expire():
            self._inbox.answer(late.whom, encode(refusal(Busy("no staging slot became free in time; try again"))))
        self._serve_the_line()
