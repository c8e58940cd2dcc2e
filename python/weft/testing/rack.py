"""A machine's engines: programs beside the agent, each with a handoff file, some slots, and the jobs in them.

They live on when the agent is killed and end when the machine loses power; their files stay either way, as files do.
What the agent reads is what the files say, without the files: reading a directory is held to its own tests.
"""

from typing import Final

from weft.handoff import Handoff, HandoffFile

MODELS: Final = ("small", "large")
POOL_IDS: Final = ("p0", "p1")
SLOTS_MAX: Final = 4
_VRAM_BYTES: Final = 8 << 30


class Engine:
    """One engine. `jobs` are in its slots; one that is not `alive` has left its file behind."""

    def __init__(self, pool_id: str, pid: int, host: str, slots: int, models: tuple[str, ...]) -> None:
        self.pool_id = pool_id
        self.pid = pid
        self.slots = slots
        self.models = models
        self.alive = True
        self.has_file = True
        self.jobs: set[str] = set()
        self.url = f"http://{host}:{20_000 + pid}"

    def handoff(self) -> Handoff:
        """What its file says. Whoever keeps the file up to date does so at once."""
        free = self.slots - len(self.jobs)
        return Handoff(
            url=self.url,
            pool_id=self.pool_id,
            engine="llamacpp",
            slots_total=self.slots,
            slots_free=free,
            vram_free_bytes=_VRAM_BYTES * free,
            models_available=list(self.models),
            device_mask="0",
            pid=self.pid,
        )


class Rack:
    """The engines of one machine, at most one a pool."""

    pool_ids: Final = POOL_IDS

    def __init__(self, host: str) -> None:
        self.engines: dict[str, Engine] = {}
        self._host = host
        self._pids = 0

    def look(self) -> list[HandoffFile]:
        """What the handoff files say now, in order of name."""
        return [
            HandoffFile(name=f"{pool_id}-r0.json", handoff=engine.handoff())
            for pool_id, engine in sorted(self.engines.items())
            if engine.has_file
        ]

    def is_alive(self, pid: int) -> bool:
        """Whether an engine runs under a process id."""
        return any(engine.pid == pid and engine.alive for engine in self.engines.values())

    def start(self, pool_id: str, slots: int, models: tuple[str, ...]) -> None:
        """Start a pool's engine, in place of the one before: its file is written anew, and its jobs are over."""
        self._pids += 1
        self.engines[pool_id] = Engine(pool_id, self._pids, self._host, slots, models)

    def crash(self, pool_id: str) -> None:
        """An engine ends, and its file stays."""
        engine = self.engines[pool_id]
        engine.alive = False
        engine.jobs.clear()

    def retire(self, pool_id: str) -> None:
        """An engine is stopped, and takes its file along."""
        self.crash(pool_id)
        self.engines[pool_id].has_file = False

    def lose_power(self) -> None:
        """Every engine ends, and every file stays."""
        for pool_id in self.engines:
            self.crash(pool_id)

    def revive(self) -> None:
        """Whoever supervises the machine starts the engines that ended by themselves."""
        for pool_id, engine in list(self.engines.items()):
            if engine.has_file and not engine.alive:
                self.start(pool_id, engine.slots, engine.models)

    def begin(self, pool_id: str, job: str) -> bool:
        """A job comes. False when the engine has no room for it, or is no more."""
        engine = self.engines.get(pool_id)
        if engine is None or not engine.alive or len(engine.jobs) >= engine.slots:
            return False
        engine.jobs.add(job)
        return True

    def end(self, job: str) -> None:
        """A job is done, wherever it is."""
        for engine in self.engines.values():
            engine.jobs.discard(job)

    def ready(self) -> dict[str, tuple[int, int]]:
        """The pools a coordinator should believe to be ready, each with its free slots and all of them."""
        shown: dict[str, tuple[int, int]] = {}
        for engine in self.engines.values():
            if engine.has_file and engine.alive:
                shown[engine.pool_id] = (engine.slots - len(engine.jobs), engine.slots)
        return shown
