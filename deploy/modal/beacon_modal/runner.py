"""One container: a job in, a report and its bill out. Knows vLLM and the meter, and nothing of Modal.

Invariant: an input that entered the meter leaves it once, however it ends.
"""

import asyncio
import json
import time

import aiohttp

from . import wire
from .meter import Meter

# How often a container that idles says so.
HEARTBEAT_S = 30
# The least time between two records.
RECORD_S = 1.0

DONE = b"data: [DONE]"


def micros():
    """The steady clock."""
    return time.monotonic_ns() // 1_000


def wall_micros():
    """Unix time. Only compared with the same of other containers, whose clocks agree within milliseconds."""
    return time.time_ns() // 1_000


class Runner:
    """A container that serves one model."""

    def __init__(self, settings, model, books, container, region, age_us=0):
        """`age_us` is how long the container is up already."""
        self.settings, self.model, self.books = settings, model, books
        self.container, self.region = container, region
        # The meter's clock is steady; submissions are told by the wall. This joins them.
        self._skew = wall_micros() - micros()
        self.meter = Meter(micros() - age_us)
        self._inputs = 0
        self._tasks = set()

    async def up(self, launch):
        """Starts the server. Raises what `launch` raises."""
        self.server = await launch(self.settings, self.model)
        self.meter.ready(micros())
        self._session = aiohttp.ClientSession(
            self.server.url, timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)
        )
        self._changed = asyncio.Event()
        self._changed.set()
        self._recorder = asyncio.create_task(self._keep_records())

    async def down(self):
        """Ends the server; the last record is complete."""
        self._recorder.cancel()
        await asyncio.gather(self._recorder, *self._tasks, return_exceptions=True)
        self.meter.close(micros())
        await self._record(ended=True)
        await self._session.close()
        await self.server.stop()

    async def run(self, job, call):
        """Runs a job to its end. Gives its report; raises nothing but CancelledError, after which the books have its bill."""
        key = self._enter(job)
        self._aside(self.books.began(call))
        try:
            async with asyncio.timeout(job["timeout_s"]):
                async with self._session.post(job["route"], json=job["body"]) as answer:
                    status, raw = answer.status, await answer.read()
        except asyncio.CancelledError:
            await asyncio.shield(self.books.bill(call, self._leave(key)))
            raise
        except TimeoutError:
            return wire.failed("timeout", "the run passed its timeout_s", self._leave(key))
        except aiohttp.ClientError as error:
            return wire.failed("provider_down", f"vLLM broke off: {type(error).__name__}", self._leave(key))
        return wire.report_of(status, raw, self._leave(key))

    async def stream(self, job, call):
        """Yields the call id, then the head of vLLM's answer, then its bytes, with the bill as a comment before `[DONE]`."""
        key = self._enter(job)
        told = streams = True
        try:
            # First of all, so that whoever reads can stop us.
            yield {"call": call}
            async with self._session.post(job["route"], json=job["body"]) as answer:
                kind = answer.headers.get("content-type", "application/json")
                yield {"status": answer.status, "content_type": kind}
                # A refusal tells no bill, so what it used is standing cost. Whoever leaves early reckons for himself.
                told, streams = answer.status == 200, "event-stream" in kind
                if streams:
                    async for piece in events(answer.content):
                        if piece.startswith(DONE):
                            yield self._comment(key)
                            key = None
                        yield piece
                else:
                    yield await answer.read()
            if key is not None and streams:
                # It broke off without an end, and is billed all the same.
                yield self._comment(key)
                key = None
        except aiohttp.ClientError as error:
            yield {"broken": f"vLLM broke off: {type(error).__name__}"}
        finally:
            if key is not None:
                self.meter.leave(key, micros(), told)
                self._changed.set()

    def alive(self):
        """False once the server has ended: this container is of no more use."""
        return self.server.alive()

    def _enter(self, job):
        self._inputs += 1
        self.meter.enter(self._inputs, job["submitted_us"] - self._skew, micros())
        self._changed.set()
        return self._inputs

    def _leave(self, key):
        execution, cold = self.meter.leave(key, micros())
        self._changed.set()
        return wire.Bill(self.model.gpu, execution, cold, self.container, self.region).wire()

    def _comment(self, key):
        return b": beacon-billing " + json.dumps(self._leave(key)).encode() + b"\n\n"

    def _aside(self, work):
        """Does something that nobody waits for before the container ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_records(self):
        while True:
            self._changed.clear()
            await self._record(ended=False)
            await asyncio.sleep(RECORD_S)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _record(self, ended):
        use = self.meter.glance(micros())
        await self.books.record(self.container, self.model.gpu, use, time.time(), ended)


async def events(content):
    """The events of a stream, each with the empty line that ends it; what is left at the end as it is."""
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            yield event + b"\n\n"
    if rest:
        yield rest
