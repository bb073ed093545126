"""Modal's workers: containers of the engine, as many as the backlog or the floor asks for."""

import asyncio
import itertools
import os
import pickle
import time

from modal._runtime.execution_context import _set_current_context_ids
from modal_proto import api_pb2

RESULT = api_pb2.GenericResult
SUCCESS = RESULT.GENERIC_STATUS_SUCCESS
NUMBERS = itertools.count(1)


class Container:
    """One container: an instance of the user's class."""

    def __init__(self, pool):
        self.pool = pool
        self.busy = {}
        self.idle_since = None
        self.up = False
        self.retired = False
        self.task = asyncio.create_task(self._start())

    async def _start(self):
        pool = self.pool
        self.instance = object.__new__(pool.pools.user_class)
        self.instance.model = pool.model
        # Read before the first pause.
        os.environ["MODAL_TASK_ID"] = f"ta-{next(NUMBERS):08}"
        try:
            await pool.method("up")(self.instance)
        except Exception as error:
            # Modal tries again and again, and fails what waits in the end.
            pool.containers.remove(self)
            while pool.queue:
                pool.queue.pop().end(RESULT(status=RESULT.GENERIC_STATUS_FAILURE, exception=repr(error)))
            return
        self.up = True
        self.idle_since = time.monotonic()
        pool.look()

    def take(self, call):
        """Runs an input beside those that run."""
        self.busy[call] = call.task = asyncio.create_task(self._run(call))

    async def _run(self, call):
        """As Modal's own entry point does: a cancelled input has no value, and says so once its code has ended."""
        _set_current_context_ids([f"in-{call.name}"], [call.name], [""])
        arguments, keywords = call.arguments
        try:
            outcome = self.pool.method(call.method)(self.instance, *arguments, **keywords)
            if hasattr(outcome, "__aiter__"):
                count = 0
                async for piece in outcome:
                    count += 1
                    chunk = api_pb2.DataChunk(
                        data_format=api_pb2.DATA_FORMAT_PICKLE, data=pickle.dumps(piece), index=count
                    )
                    call.chunks.append(chunk)
                    call.tell()
                done = api_pb2.GeneratorDone(items_total=count).SerializeToString()
                call.chunks.append(api_pb2.DataChunk(
                    data_format=api_pb2.DATA_FORMAT_GENERATOR_DONE, data=done, index=count + 1
                ))
                call.end(RESULT(status=SUCCESS, data=done), api_pb2.DATA_FORMAT_GENERATOR_DONE)
            else:
                call.end(RESULT(status=SUCCESS, data=pickle.dumps(await outcome)))
        except asyncio.CancelledError:
            call.end(RESULT(status=RESULT.GENERIC_STATUS_TERMINATED))
        except Exception as error:
            call.end(RESULT(status=RESULT.GENERIC_STATUS_FAILURE, exception=repr(error)))
        finally:
            self.busy.pop(call, None)
            self.idle_since = time.monotonic()
            self.pool.look()

    def die(self):
        """The machine is gone: nobody's code gets to say anything."""
        self.pool.containers.remove(self)
        for call, task in list(self.busy.items()):
            call.end(RESULT(status=RESULT.GENERIC_STATUS_INTERNAL_FAILURE, exception="the container died"))
            task.cancel()

    async def end(self):
        self.pool.containers.remove(self)
        await self.pool.method("down")(self.instance)


class Pool:
    """The containers of one bound function."""

    def __init__(self, pools, model):
        self.pools, self.model = pools, model
        self.queue = []
        self.containers = []
        self.floor = 0
        self.ends = set()

    def method(self, name):
        return self.pools.user_class.__dict__[name]._get_raw_f()

    def look(self):
        """Hands out what waits, starts what is missing, ends what idles too long."""
        pools = self.pools
        for container in self.containers:
            while self.queue and container.up and not container.retired and len(container.busy) < pools.max_inputs:
                container.take(self.queue.pop(0))
        starting = [container for container in self.containers if not container.up]
        wanted = -(-len(self.queue) // pools.max_inputs)
        while len(self.containers) < pools.most and (
            len(starting) < wanted or len(self.containers) < self.floor
        ):
            container = Container(self)
            self.containers.append(container)
            starting.append(container)
        now = time.monotonic()
        for container in list(self.containers):
            idle = container.up and not container.busy
            over = idle and now - container.idle_since >= pools.window_s and len(self.containers) > self.floor
            if over or (idle and container.retired):
                task = asyncio.create_task(container.end())
                self.ends.add(task)
                task.add_done_callback(self.ends.discard)


class Pools:
    """All of them."""

    def __init__(self, user_class, max_inputs, most, window_s):
        self.user_class, self.max_inputs, self.most, self.window_s = user_class, max_inputs, most, window_s
        self.pools = {}

    def bind(self, name, model):
        self.pools.setdefault(name, Pool(self, model))

    def put(self, name, call):
        pool = self.pools[name]
        pool.queue.append(call)
        pool.look()

    def cancel(self, call):
        for pool in self.pools.values():
            if call in pool.queue:
                pool.queue.remove(call)
                call.end(RESULT(status=RESULT.GENERIC_STATUS_TERMINATED))
        if call.task is not None:
            call.task.cancel()

    def keep(self, name, floor):
        self.pools[name].floor = floor
        self.pools[name].look()

    def count(self, name):
        return len(self.pools[name].containers)

    def kill_one(self):
        """The machine of some container that works is gone."""
        for pool in self.pools.values():
            for container in pool.containers:
                if container.busy:
                    container.die()
                    return

    def queued(self):
        return sum(len(pool.queue) for pool in self.pools.values())

    async def run(self):
        """Modal's own clock."""
        while True:
            await asyncio.sleep(0.02)
            for pool in self.pools.values():
                pool.look()
