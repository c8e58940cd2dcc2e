"""Terms: who writes a journal that several coordinators reach, and what the others do meanwhile.

One reigns, the others follow: they merge what the log gains, answer what follows from state, and name the writer to
whoever asks for more. A writer leaves a *pulse* beside the log as long as it lives. Who has seen neither a new pulse
nor a new batch for a whole lease begins a term of its own, by appending it right after what it has followed. That is
all the fencing there is, and all that is needed: if the old writer lived after all and appended, the position is taken
and the term is not begun; if the term is begun first, the position the old writer expects is taken, and it learns of
its end from the log.

The lease is measured by the follower's own clock, from when it last *saw* something new, so no two clocks are compared.
What if the follower was stopped for an hour? It looks again before it judges. What if the journal does not answer? Then
nobody can see anything, and the lease begins anew when it does. What if the writer was stopped, and wakes up deposed?
Its lease has run out by its own clock too, so it reads the tail before it answers anything. What if two followers begin
a term at once? One append wins; to the other the batch is a sign of life. A writer that stops in order says so in its
last pulse, and the next one begins at once.

A writer that appends nothing is not deposed, for it pulses; and the log does not grow by that.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from weft.coordinator.ports import Clock
from weft.coordinator.writer import Writer
from weft.ledger import SharedJournal
from weft.ledger.filling import check_filled, read_filling
from weft.model.canonical import canonical_bytes
from weft.model.errors import JournalDamaged, JournalFailed, JournalTrimmed
from weft.model.ids import Term
from weft.model.policy import TERM_LEASE_MS, TERM_PULSE_MS
from weft.telemetry import Log, Metrics

_PULSES_PER_LEASE: Final = 5


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer leaves beside the log. `count` differs from one to the next; `ended` says that nobody reigns."""

    term: Term
    writer: str
    count: int
    ended: bool = False


_decoder: Final = msgspec.msgpack.Decoder(Pulse)


class Terms:
    """Makes a coordinator the writer when there is none, and a follower when there is another."""

    def __init__(
        self,
        writer: Writer,
        journal: SharedJournal,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        *,
        name: str,
        address: str,
        on_begun: Callable[[], None],
        on_followed: Callable[[], None],
        lease_ms: int = TERM_LEASE_MS,
    ) -> None:
        """`on_begun` is called when a term was begun, `on_followed` now and then for as long as another reigns."""
        self._writer = writer
        self._journal = journal
        self._clock = clock
        self._log = log
        self._name, self._address = name, address
        self._on_begun, self._on_followed = on_begun, on_followed
        self._lease_ms = lease_ms
        self._pulse_ms = min(TERM_PULSE_MS, lease_ms // _PULSES_PER_LEASE)
        self._count = 0
        self._pulsed_ms = 0
        self._seen: bytes | None = None
        self._seen_ms: int | None = None
        self._begun = metrics.counter("weft_terms_begun_total", "Terms this coordinator has begun.")
        metrics.gauge("weft_term", "The last term in the log, as far as it was followed.", self._last_term)
        metrics.gauge("weft_reigns", "Whether this coordinator writes.", lambda: float(writer.reigns))

    @property
    def hears(self) -> bool:
        """Whether the log or the writer's pulse was seen to move within a lease."""
        return self._is_fresh(self._clock.monotonic_ms())

    async def start(self) -> None:
        """Follow the log to its end, and begin a term where there is no writer and never was, or the last one left.

        Raises `JournalFailed` for a log that a rebuild has not put here to its end.
        """
        try:
            until = await read_filling(self._journal)
        except JournalFailed as error:
            # The log may be read all the same, and is whole where no rebuild was cut short.
            self._log.warning("the note beside the log could not be read", code=error.code, reason=error.message)
        else:
            await check_filled(self._journal, until)
        await self._writer.follow()
        ledger = self._writer.state.ledger
        sign = await self._journal.last_pulse()
        if ledger is None or ledger.term == 0 or self._has_ended(sign):
            await self._begin()
        else:
            self._see(sign)
        if not self._writer.reigns:
            self._log.info("following", writer=self._last_address())

    async def run(self) -> None:
        """Reign or follow until cancelled. Ends by raising when the log cannot be followed any more."""
        while True:
            if self._writer.reigns:
                await self._reign_on()
            else:
                await self._follow_on()

    async def leave(self) -> None:
        """Say that nobody reigns any more, once the last command was answered. A journal that is gone is not told."""
        if self._writer.reigns:
            try:
                await self._journal.pulse(self._sign(ended=True))
            except JournalFailed as error:
                self._log.warning("the term was left without a word", code=error.code, reason=error.message)

    async def _reign_on(self) -> None:
        """One pulse. A newer writer's is not covered up without being looked at."""
        began_ms = self._clock.monotonic_ms()
        try:
            newer = _parse(await self._journal.last_pulse())
            if newer is not None and newer.term > self._writer.term:
                self._writer.doubt()
            await self._journal.pulse(self._sign())
            self._pulsed_ms = began_ms
        except JournalFailed as error:
            self._log.warning("a pulse was not taken", code=error.code, reason=error.message)
        await asyncio.sleep(self._pulse_ms / 1_000)
        if not self._writer.reigns:
            self._seen_ms = None
            self._log.info("following", writer=self._last_address())

    async def _follow_on(self) -> None:
        """One look at the log and the pulse, and a term when both have been silent for a lease."""
        self._on_followed()
        try:
            await self._journal.wait(self._writer.state.marks.position, self._pulse_ms)
            # Before the look: a pause of this process while it looks must not count as silence of the writer.
            now_ms = self._clock.monotonic_ms()
            merged = await self._writer.follow()
            sign = await self._journal.last_pulse()
            if merged or sign != self._seen or self._seen_ms is None:
                self._see(sign)
            elif now_ms - self._seen_ms < self._lease_ms:
                return
            if (self._has_ended(sign) and not merged) or not self._is_fresh(now_ms):
                await self._begin()
        except (JournalDamaged, JournalTrimmed):
            raise
        except JournalFailed as error:
            if self._seen_ms is not None:
                self._log.warning("the log cannot be followed now", code=error.code, reason=error.message)
            # Nobody can be judged by one who sees nothing.
            self._seen_ms = None
            await asyncio.sleep(self._pulse_ms / 1_000)

    async def _begin(self) -> None:
        self._pulsed_ms = self._clock.monotonic_ms()
        if not await self._writer.begin_term(self._name, self._address, self._lease_holds):
            self._seen_ms = None
            return
        self._begun.add()
        self._log.info("term begun", term=self._writer.term, writer=self._name, address=self._address)
        self._on_begun()

    def _see(self, sign: bytes) -> None:
        self._seen, self._seen_ms = sign, self._clock.monotonic_ms()

    def _is_fresh(self, now_ms: int) -> bool:
        return self._seen_ms is not None and now_ms - self._seen_ms < self._lease_ms

    def _has_ended(self, sign: bytes) -> bool:
        """Whether the writer of the last term said that it stops. An earlier one's word says nothing any more."""
        pulse, ledger = _parse(sign), self._writer.state.ledger
        return pulse is not None and pulse.ended and ledger is not None and pulse.term == ledger.term

    def _lease_holds(self) -> bool:
        """Whether everybody else must still take this writer for alive. Shorter than their lease, by a pulse."""
        return self._clock.monotonic_ms() - self._pulsed_ms < self._lease_ms - self._pulse_ms

    def _sign(self, *, ended: bool = False) -> bytes:
        self._count += 1
        return canonical_bytes(Pulse(term=self._writer.term, writer=self._name, count=self._count, ended=ended))

    def _last_term(self) -> float:
        ledger = self._writer.state.ledger
        return float(ledger.term) if ledger is not None else 0.0

    def _last_address(self) -> str:
        ledger = self._writer.state.ledger
        return ledger.address if ledger is not None else ""


def _parse(sign: bytes) -> Pulse | None:
    """A pulse, or None for one of another version: it differs from the last all the same."""
    try:
        return _decoder.decode(sign)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
