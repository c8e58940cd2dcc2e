"""What can happen to a cluster, each with a weight, drawn from the seed.

An action is done to the world at once, or begun by a program in it; nothing here waits. What an action breaks, another
mends with more weight, so that a cluster limps and lives.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from weft.core.region import USABLE_STATES
from weft.model.object import ObjectHash
from weft.model.policy import STRIPE_BYTES
from weft.testing.borrower import Borrower
from weft.testing.cluster import Cluster, question, questions
from weft.testing.faults import Fault
from weft.testing.host import PLACE, Host
from weft.testing.machine import Machine
from weft.testing.network import CALM, Weather
from weft.testing.process import Process
from weft.testing.rack import MODELS, POOL_IDS, SLOTS_MAX
from weft.testing.tenant import Tenant
from weft.testing.watcher import Watcher

_REGIONS_MAX: Final = 6
"""Names programs use. Few, so that they meet each other."""
_JOBS_MAX: Final = 24
"""Jobs one program runs at once."""
_HOLD_S_MEAN: Final = 8.0
"""How long a job takes: a few beats."""
_LONG_S: Final = 40.0
"""Longer than a node may be silent and be called lost."""


class Harmable(Protocol):
    """A machine that keeps the log, or a copy of it."""

    name: str
    process: Process | None

    def start(self) -> None:
        """Start its process."""
        ...

    def kill(self, *, silently: bool = False) -> None:
        """End it as SIGKILL does, or with `silently` as a power cut."""
        ...

    def harm(self, chance: random.Random) -> None:
        """Make it slow, or wrong in a way of its own."""
        ...

    def mend(self) -> None:
        """Take back what `harm` did."""
        ...


class Actions:
    """The hands that do it."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.borrowers = [Borrower(cluster, f"p{order}") for order in range(3)]
        self.operator = Borrower(cluster, "operator")
        self.tenants = [Tenant(cluster, f"t{order}") for order in range(2)]
        self.watchers = [Watcher(cluster, f"w{order}") for order in range(2)]
        self._returns_s: list[tuple[float, Callable[[], None]]] = []
        self._table = [(weight, getattr(self, name)) for name, weight in WEIGHTS.items()]
        self._total = sum(weight for weight, _ in self._table)

    def act(self) -> None:
        """Do one thing, and what was put off until now."""
        self._do_what_is_due()
        drawn = self.chance.random() * self._total
        for weight, action in self._table:
            drawn -= weight
            if drawn < 0:
                self.cluster.trace.note(f"action {action.__name__}")
                action()
                return

    def relent(self) -> None:
        """Stop every fault: links carry, disks write, clocks go, whoever is paused goes on, the coordinator runs."""
        cluster = self.cluster
        self.cluster.trace.note("faults stop")
        self._returns_s.clear()
        cluster.network.heal_all()
        cluster.network.weather = CALM
        if cluster.server is not None:
            cluster.server.mend()
            if cluster.server.process is None:
                cluster.server.start()
            else:
                cluster.server.process.resume()
        if cluster.places is not None:
            cluster.places.relent()
        for host in cluster.hosts:
            self._mend_disk(host)
            if host.process is not None:
                host.process.resume()
        for machine in cluster.machines.values():
            if machine.process is not None:
                machine.process.resume()
            if machine.memory is not None:
                machine.memory.full.mend()
                machine.memory.stalls.mend()
                machine.memory.fence_fails.mend()
        for host in cluster.hosts:
            self._ensure_coordinator(host)
        for watcher in self.watchers:
            watcher.kill()
            watcher.start()
        for tenant in self.tenants:
            tenant.hurry()

    @property
    def under_way(self) -> int:
        """How many programs wait for answers, or hold a job."""
        borrowing = sum(borrower.under_way for borrower in (*self.borrowers, self.operator))
        return borrowing + sum(tenant.under_way for tenant in self.tenants)

    def tidy(self) -> None:
        """What an operator does when the storm is over: found what was destroyed, and want what was drained."""
        state = self.cluster.host.state
        if state is None or self.operator.under_way:
            return
        if state.cluster is None:
            self.operator.ask("found", questions.found("weft"))
        elif drained := [node.node_id for node in state.nodes.values() if node.drained]:
            self.operator.ask(f"resume {drained[0]}", question("resume_node", node_id=drained[0]))

    def rest(self) -> None:
        """Nothing happens but time."""

    def start_agent(self) -> None:
        """A machine that was down comes back."""
        down = [machine for machine in self._machines() if machine.process is None]
        if down:
            self.chance.choice(down).start()

    def kill_agent(self) -> None:
        """SIGKILL."""
        if (machine := self._running()) is not None:
            machine.kill()
            if self.chance.random() < 0.5:
                self._later(self.chance.uniform(0.0, 3.0), lambda: self._ensure_started(machine))

    def power_off_agent(self) -> None:
        """A power cut: its connections do not even end."""
        if (machine := self._running()) is not None:
            machine.kill(silently=True)

    def power_off_some(self) -> None:
        """A power cut that takes several at once."""
        for _ in range(self.chance.randint(2, 6)):
            self.power_off_agent()

    def stop_agent(self) -> None:
        """SIGTERM: it leaves."""
        if (machine := self._running()) is not None:
            machine.stop()

    def pause_agent(self) -> None:
        """SIGSTOP for a while."""
        machine = self._running()
        if machine is not None and machine.process is not None:
            machine.process.pause()
            self._later(self._while_s(), machine.process.resume)

    def pause_coordinator(self) -> None:
        """SIGSTOP for a while."""
        process = self._host().process
        if process is not None:
            process.pause()
            self._later(self._while_s(), process.resume)

    def kill_coordinator(self) -> None:
        """SIGKILL, and a supervisor that starts it again."""
        host = self._host()
        host.kill()
        self._later(self._while_s(), partial(self._ensure_coordinator, host))

    def power_off_coordinator(self) -> None:
        """A power cut, which takes what was not synced."""
        host = self._host()
        host.kill(silently=True)
        self._later(self._while_s(), partial(self._ensure_coordinator, host))

    def stop_coordinator(self) -> None:
        """SIGTERM."""
        host = self._host()
        host.stop()
        self._later(1.0 + self._while_s(), partial(self._ensure_coordinator, host))

    def harm_place(self) -> None:
        """What keeps the log beside the journal is killed, loses power, is paused, slow or wrong."""
        if self.cluster.places is None:
            return
        how = self.chance.choice(["kill", "power", "pause", "harm", "harm"])
        for machine in self.cluster.places.draw(self.chance):
            self._harm(machine, how)

    def harm_journal(self) -> None:
        """The same of the journal's own machine."""
        if self.cluster.server is not None:
            self._harm(self.cluster.server, self.chance.choice(["kill", "power", "pause", "harm"]))

    def cut_coordinator(self) -> None:
        """A coordinator loses the journal, or what keeps the log beside it, in one direction or both."""
        far = [] if self.cluster.server is None else [self.cluster.server.name] * 3
        if self.cluster.places is not None:
            far += [machine.name for machine in self.cluster.places.machines]
        if not far:
            return
        source, target = self._host().place, self.chance.choice(far)
        if self.chance.random() < 0.5:
            source, target = target, source
        self.cluster.network.cut(source, target, both=self.chance.random() < 0.5)
        self._later(self._outage_s(), lambda: self.cluster.network.heal(source, target))

    def cut_link(self) -> None:
        """One machine loses the coordinator, or another machine, in one direction or both."""
        names = [machine.name for machine in self._machines()]
        source = self.chance.choice(names)
        target = PLACE if self.chance.random() < 0.7 else self.chance.choice(names)
        if self.chance.random() < 0.5:
            source, target = target, source
        self.cluster.network.cut(source, target, both=self.chance.random() < 0.5)

    def cut_group(self) -> None:
        """Many machines lose the coordinator at once."""
        for machine in self._machines():
            if self.chance.random() < 0.6:
                self.cluster.network.cut(machine.name, PLACE)
        self._later(self._while_s(), self.cluster.network.heal_all)

    def heal_link(self) -> None:
        """One cut is mended."""
        if cuts := self.cluster.network.cuts:
            self.cluster.network.heal(*self.chance.choice(cuts))

    def heal_all(self) -> None:
        """Every cut is mended."""
        self.cluster.network.heal_all()

    def change_weather(self) -> None:
        """Another network: calm, slow, lossy, or one that repeats."""
        draw = self.chance.random
        self.cluster.network.weather = self.chance.choice(
            [
                CALM,
                Weather(slow=draw() * 0.3, slow_s_max=draw() * 2.0),
                Weather(loss=draw() * 0.1, repeat=draw() * 0.1),
                Weather(slow=0.1, slow_s_max=0.5, loss=0.03, repeat=0.2),
            ]
        )

    def jump_clock(self) -> None:
        """Somebody sets a clock on the wall, of any machine."""
        machine, drawn = self.chance.choice(self._machines()), self.chance.random()
        clock = self._host().clock if drawn < 0.4 else machine.clock
        if drawn > 0.9:
            clock = self.chance.choice(self.cluster.programs).clock
        clock.jump(self.chance.choice([-3_600_000, -30_000, -500, 500, 30_000, 3_600_000]))

    def slow_disk(self) -> None:
        """Syncs take longer, up to more than a request may."""
        host = self._host()
        host.disk.sync_s = self.chance.choice([0.05, 0.5, 2.0, 8.0])
        self._later(self._while_s(), partial(self._mend_disk, host))

    def fail_disk(self) -> None:
        """Some appends fail, and leave open whether they happened."""
        host = self._host()
        host.disk.refuses.chance = self.chance.choice([0.2, 0.5, 1.0])
        self._later(self._while_s(), partial(self._mend_disk, host))

    def fail_memory(self) -> None:
        """A machine runs out of memory, swaps, or cannot fence for a while."""
        machine = self._running()
        if machine is None or machine.memory is None:
            return
        fault: Fault = self.chance.choice([machine.memory.full, machine.memory.fence_fails, machine.memory.stalls])
        fault.chance = self.chance.choice([0.3, 1.0])
        self._later(self._while_s(), fault.mend)

    def plan_region(self) -> None:
        """A program wants a region."""
        stripes = self.chance.choice([1, 2, 7, 40, 300])
        lenders = self.chance.choice([None, 1, 3, 10])
        size_bytes = stripes * STRIPE_BYTES - self.chance.choice([0, 1, 4096])
        if (borrower := self._borrower()) is not None:
            name = self._region()
            borrower.ask(f"plan {name}", questions.plan_region(name, size_bytes, lenders))

    def attach(self) -> None:
        """A program attaches: mostly to what is there in a mode that fits, sometimes to anything in any."""
        borrower, state = self._borrower(), self.cluster.host.state
        if borrower is None:
            return
        usable = [region for region in state.regions.values() if region.state in USABLE_STATES] if state else []
        if usable and self.chance.random() < 0.8:
            region = self.chance.choice(usable)
            mode = self.chance.choice(["read", "private"]) if region.sealed else "exclusive"
            borrower.attach(region.name, mode, takeover=self.chance.random() < 0.7)
        else:
            mode = self.chance.choice(["exclusive", "read", "private", "shared"])
            borrower.attach(self._region(), mode, takeover=self.chance.random() < 0.4)

    def touch(self) -> None:
        """A program uses what it was granted, however long ago."""
        holders = [borrower for borrower in self.borrowers if borrower.holds and not borrower.is_busy]
        if holders:
            borrower = self.chance.choice(holders)
            borrower.touch(self.chance.choice(borrower.holds))

    def renew(self) -> None:
        """A program stays."""
        holders = [borrower for borrower in self.borrowers if borrower.holds and not borrower.is_busy]
        if holders:
            borrower = self.chance.choice(holders)
            borrower.renew(self.chance.choice(borrower.holds))

    def detach(self) -> None:
        """A program lets go."""
        holders = [borrower for borrower in self.borrowers if borrower.holds and not borrower.is_busy]
        if holders:
            borrower = self.chance.choice(holders)
            borrower.detach(self.chance.choice(borrower.holds))

    def seal(self) -> None:
        """A program makes a region readable by all."""
        if (borrower := self._borrower()) is not None:
            name = self._region()
            borrower.ask(f"seal {name}", questions.seal(name))

    def delete_region(self) -> None:
        """A program wants no more of a region."""
        if (borrower := self._borrower()) is not None:
            name, force = self._region(), self.chance.random() < 0.5
            borrower.ask(f"delete {name}", questions.delete_region(name, force=force))

    def put_object(self) -> None:
        """A program stores an object."""
        if (borrower := self._borrower()) is not None:
            borrower.put(self.chance.choice([0, 4096, 1 << 20, 5 << 20]), self.chance.choice([1, 2, 3, 3]))

    def spoil_copy(self) -> None:
        """A copy on some disk goes bad, and nobody notices. Never the last good one: that would be nobody's fault."""
        machine = self.chance.choice(self._machines())
        names = [one for one in machine.shelf.sizes if self._good_copies(one) > 2]
        if names:
            machine.shelf.bad.add(self.chance.choice(names))

    def wipe_shelf(self) -> None:
        """A machine that is down comes back with an empty disk, if others hold everything it held."""
        down = [machine for machine in self._machines() if machine.process is None]
        machine = self.chance.choice(down) if down else None
        if machine is not None and all(self._good_copies(one) > 2 for one in machine.shelf.sizes):
            machine.shelf.sizes.clear()
            machine.shelf.bad.clear()

    def remove_node(self) -> None:
        """An operator takes a node out, which comes back if it lives."""
        if (borrower := self._borrower()) is not None:
            name = self.chance.choice(self._machines()).name
            borrower.ask(f"remove {name}", questions.leave(name))

    def drain_node(self) -> None:
        """An operator wants a node to be given nothing new."""
        if not self.operator.is_busy:
            name = self.chance.choice(self._machines()).name
            self.operator.ask(f"drain {name}", question("drain_node", node_id=name))

    def resume_node(self) -> None:
        """And wants it again."""
        state = self.cluster.host.state
        drained = [node.node_id for node in state.nodes.values() if node.drained] if state is not None else []
        if drained and not self.operator.is_busy:
            name = self.chance.choice(drained)
            self.operator.ask(f"resume {name}", question("resume_node", node_id=name))

    def destroy_cluster(self) -> None:
        """Somebody destroys the cluster, with everything that is going on in it, and founds it again after a while."""
        self.operator.ask("destroy", question("destroy_cluster"))
        self._later(self.chance.uniform(0.0, 20.0), lambda: self.operator.ask("found", questions.found("weft")))

    def start_engine(self) -> None:
        """An engine comes up on a machine, or is started again at another address."""
        rack = self.chance.choice(self._machines()).rack
        if rack is not None:
            models = tuple(model for model in MODELS if self.chance.random() < 0.6)
            rack.start(self.chance.choice(POOL_IDS), self.chance.randint(1, SLOTS_MAX), models)

    def end_engine(self) -> None:
        """An engine crashes and leaves its file behind, or is stopped and takes it along."""
        rack = self.chance.choice(self._machines()).rack
        if rack is not None and rack.engines:
            end = rack.crash if self.chance.random() < 0.5 else rack.retire
            end(self.chance.choice(sorted(rack.engines)))

    def run_jobs(self) -> None:
        """Programs want engines, several at once so that they meet over the same slots."""
        tenant, draw = self.chance.choice(self.tenants), self.chance.random
        if tenant.under_way >= _JOBS_MAX:
            return
        for _ in range(self.chance.choice([1, 1, 3, 8])):
            needs: dict[str, object] = {"strategy": self.chance.choice(["round-robin", "least-loaded", "random"])}
            if draw() < 0.3:
                needs["model"] = self.chance.choice(MODELS)
            if draw() < 0.4:
                needs["session"] = f"s{self.chance.randrange(8)}"
            if draw() < 0.1:
                needs["placement"] = {"node_id": self.chance.choice(self._machines()).name}
            tenant.run(self.chance.expovariate(1 / _HOLD_S_MEAN), **needs)

    def schedule(self) -> None:
        """A node says how busy it is, and somebody asks where a workload or a key goes."""
        if (borrower := self._borrower()) is None:
            return
        chance = self.chance
        name = chance.choice(self._machines()).name
        borrower.ask(
            f"stats of {name}",
            question("take_node_stats", node_id=name, cpu_free=chance.random(), ram_free_mb=chance.randrange(65_536)),
        )
        borrower.ask("schedule", question("schedule", cpu_req=0.2, explain=chance.random() < 0.5))
        borrower.ask("place", question("place_key", hash=f"key{chance.randrange(1_000)}", rf=chance.randint(1, 4)))
        if chance.random() < 0.2:
            borrower.ask("configure", question("configure_scheduler", w_cpu=chance.choice([0.5, 1.0, 2.0])))

    def end_watcher(self) -> None:
        """A program that watches is killed, and started again where it was."""
        watcher = self.chance.choice(self.watchers)
        watcher.kill()
        watcher.start()

    def read(self) -> None:
        """Somebody looks."""
        if (borrower := self._borrower()) is not None:
            flow = self.chance.choice([questions.cluster, questions.regions, questions.endpoints, questions.health])()
            borrower.ask("look", flow)

    def _good_copies(self, object_hash: ObjectHash) -> int:
        return sum(machine.shelf.is_good(object_hash) for machine in self._machines())

    def _machines(self) -> list[Machine]:
        return list(self.cluster.machines.values())

    def _running(self) -> Machine | None:
        running = [machine for machine in self._machines() if machine.is_running]
        return self.chance.choice(running) if running else None

    def _borrower(self) -> Borrower | None:
        free = [borrower for borrower in self.borrowers if not borrower.is_busy]
        return self.chance.choice(free) if free else None

    def _region(self) -> str:
        return f"r{self.chance.randrange(_REGIONS_MAX)}"

    def _while_s(self) -> float:
        """How long something lasts: mostly short, sometimes long enough to be noticed by everybody."""
        return self.chance.uniform(5.0, _LONG_S) if self.chance.random() < 0.15 else self.chance.uniform(0.0, 2.0)

    def _outage_s(self) -> float:
        """How long a machine that keeps the log is away: mostly long enough for checks to notice."""
        return self.chance.uniform(4.0, _LONG_S) if self.chance.random() < 0.4 else self.chance.uniform(0.0, 5.0)

    def _host(self) -> Host:
        """The coordinator something happens to: the writer, mostly, where there are two."""
        hosts = self.cluster.hosts
        return self.cluster.host if len(hosts) == 1 or self.chance.random() < 0.7 else self.chance.choice(hosts)

    def _harm(self, machine: "Harmable", how: str) -> None:
        if how == "harm":
            machine.harm(self.chance)
            self._later(self._outage_s(), machine.mend)
        elif machine.process is None:
            return
        elif how == "pause":
            machine.process.pause()
            self._later(self._outage_s(), machine.process.resume)
        else:
            machine.kill(silently=how == "power")
            self._later(self._outage_s(), lambda: None if machine.process is not None else machine.start())

    def _mend_disk(self, host: Host) -> None:
        host.disk.sync_s = 0.001
        host.disk.refuses.mend()

    def _ensure_coordinator(self, host: Host) -> None:
        if not host.wanted:
            host.kill()
            host.start()

    def _ensure_started(self, machine: Machine) -> None:
        if machine.process is None:
            machine.start()

    def _later(self, after_s: float, do: Callable[[], None]) -> None:
        self._returns_s.append((self.cluster.loop.time() + after_s, do))

    def _do_what_is_due(self) -> None:
        now_s = self.cluster.loop.time()
        due = [do for at_s, do in self._returns_s if at_s <= now_s]
        self._returns_s = [(at_s, do) for at_s, do in self._returns_s if at_s > now_s]
        for do in due:
            do()


WEIGHTS: Final[dict[str, float]] = {
    "rest": 8,
    "start_agent": 8,
    "kill_agent": 3,
    "power_off_agent": 2,
    "power_off_some": 0.5,
    "stop_agent": 2,
    "pause_agent": 2,
    "pause_coordinator": 0.5,
    "kill_coordinator": 0.7,
    "power_off_coordinator": 0.7,
    "stop_coordinator": 0.4,
    "cut_link": 4,
    "cut_group": 0.5,
    "heal_link": 4,
    "heal_all": 0.5,
    "change_weather": 2,
    "harm_place": 4,
    "harm_journal": 1.5,
    "cut_coordinator": 2,
    "jump_clock": 2,
    "slow_disk": 0.7,
    "fail_disk": 0.5,
    "fail_memory": 3,
    "plan_region": 14,
    "attach": 20,
    "touch": 8,
    "renew": 2,
    "detach": 5,
    "seal": 0.8,
    "delete_region": 3,
    "put_object": 4,
    "spoil_copy": 2,
    "wipe_shelf": 0.5,
    "remove_node": 1,
    "drain_node": 1,
    "resume_node": 1,
    "destroy_cluster": 0.1,
    "start_engine": 5,
    "end_engine": 2,
    "run_jobs": 8,
    "schedule": 2,
    "end_watcher": 0.7,
    "read": 3,
}
"""How often each is drawn, against each other."""
