"""Whose a container's time is. Pure.

Modal bills a container by the second from its start to its end, however many inputs it runs. Here every microsecond goes into
exactly one part, so that the bills of runs and the standing cost add up to the container:

| part | is |
|---|---|
| execution | the time of inputs; with several at once, each has its part of it |
| start-up | the start, if the container's first input was there before it: that input waited for it, and its bill says so |
| warm start | the start otherwise: it was ordered ahead, or whoever caused it ran elsewhere |
| idle | time without inputs, and the time of inputs whose bill nobody hears |
"""

import dataclasses


@dataclasses.dataclass
class Use:
    """The parts so far, in microseconds."""

    startup_us: int = 0
    warm_start_us: int = 0
    execution_us: int = 0
    idle_us: int = 0

    def add(self, other):
        for part, micros in other.items():
            setattr(self, part, getattr(self, part) + micros)


class Meter:
    """Divides one container's time. Times are microseconds of one steady clock."""

    def __init__(self, started):
        self.use = Use()
        self._started = started
        self._startup = None
        self._claimed_by = None
        self._claimable = True
        self._last = started
        self._running = {}

    def ready(self, now):
        """The start is over."""
        self._startup = now - self._started
        self._last = now

    def enter(self, key, submitted, now):
        """An input begins, which was submitted then."""
        self._pass(now)
        self._running[key] = 0
        if self._claimable:
            self._claimable = False
            if submitted <= self._started:
                self._claimed_by = key
            else:
                self.use.warm_start_us += self._startup

    def leave(self, key, now, told=True):
        """An input ends. Gives its execution, and the start it waited for or None. With `told` false neither is on any bill."""
        self._pass(now)
        execution = self._running.pop(key)
        cold = None
        if self._claimed_by == key:
            self._claimed_by, cold = None, self._startup
        if told:
            self.use.execution_us += execution
            self.use.startup_us += cold or 0
        else:
            self.use.idle_us += execution
            self.use.warm_start_us += cold or 0
        return execution, cold

    def close(self, now):
        """The container ends."""
        self._pass(now)
        if self._claimable and self._startup is not None:
            self._claimable = False
            self.use.warm_start_us += self._startup

    def glance(self, now):
        """The parts up to now, without what runs."""
        self._pass(now)
        return dataclasses.asdict(self.use)

    @property
    def running(self):
        """How many inputs run."""
        return len(self._running)

    def _pass(self, now):
        # The clock of a container never runs backwards, but callers may have read it in another order.
        span = max(0, now - self._last)
        self._last += span
        if not self._running:
            self.use.idle_us += span
            return
        share, rest = divmod(span, len(self._running))
        for place, key in enumerate(self._running):
            self._running[key] += share + (place < rest)
