"""Serves the app on loopback, with everything of Modal stood in for."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time

import uvicorn

from .control import Control, served
from .edge import Edge
from .pools import Pools
from .vllm import Vllm


def arguments():
    parser = argparse.ArgumentParser(description="serve beacon_app.py without Modal")
    parser.add_argument("--cold-start-ms", type=int, default=0)
    parser.add_argument("--service-ms", type=int, default=20)
    parser.add_argument("--hold-ms", type=int, default=150_000)
    parser.add_argument("--window-ms", type=int, default=60_000)
    parser.add_argument("--lease-ms", type=int, default=60_000)
    parser.add_argument("--key", help="<Modal-Key>:<Modal-Secret>")
    parser.add_argument("--command", help="a real server to start in vLLM's place, as JSON; {port} and {model} are filled in")
    return parser.parse_args()


async def deployed(control, wanted):
    """Deploys the app, and puts the stand-ins where Modal and the GPU would be."""
    import beacon_app as app
    from beacon_modal import front, server, wire

    world = Vllm(wanted.service_ms / 1e3)
    bills, real = [], []

    async def launch(settings, model):
        await asyncio.sleep(wanted.cold_start_ms / 1e3)
        if wanted.command:
            real.append(await started(settings, model))
            return real[-1]
        url, stop = await world.serve(model.name)
        running = server.Server(url)
        running.stop = stop
        return running

    started = server.launch
    if wanted.command:
        words = json.loads(wanted.command)
        server.command = lambda settings, model, port: [word.format(port=port, model=model.name) for word in words]
    server.launch = launch
    app.age_us = lambda: 0

    async def retire():
        for pool in control.pools.pools.values():
            for container in pool.containers:
                if container.up and not container.instance.runner.alive():
                    container.retired = True

    app.retire = retire
    front.LEASE_S, front.RENEW_S, front.COUNT_S = wanted.lease_ms / 1e3, 0, 0
    wire_bill = wire.Bill.wire

    def logged(bill):
        bills.append(bill)
        return wire_bill(bill)

    wire.Bill.wire = logged
    control.pools = Pools(
        app.Engine._get_user_cls(), app.settings.max_inputs, app.settings.max_containers, wanted.window_ms / 1e3
    )
    await app.app.deploy.aio()
    return app, world, bills, real


class Desk:
    """`/_test/…`: what a test asks the stand-in, and tells it."""

    def __init__(self, edge, control, world, bills, app):
        self.edge, self.control, self.world, self.bills, self.app = edge, control, world, bills, app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith("/_test/"):
            await self.edge(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        what = scope["path"].removeprefix("/_test/")
        value = await getattr(self, what)(json.loads(body) if body else None)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})

    async def stats(self, _):
        stats = {**self.world.stats, "queued": self.control.pools.queued(), "left_queue": 0}
        return {**stats, "refused": stats["refused"] + self.edge.refused}

    async def bills_told(self, _):
        return [[bill.execution_us, bill.cold_start_us or 0] for bill in self.bills]

    async def fault(self, fault):
        if fault is not None and fault["kind"] == "container_dies":
            self.control.pools.kill_one()
        else:
            self.world.faults.set(fault)

    async def containers(self, _):
        return sum(len(pool.containers) for pool in self.control.pools.pools.values())

    async def forget(self, _):
        """Modal has thrown all results away."""
        for call in self.control.calls.values():
            call.forgotten = True

    async def seen(self, _):
        return self.world.seen

    async def sweep(self, _):
        await self.app.sweep.local()

    async def lapse(self, model):
        """The last order for warm containers was a minute ago."""
        await self.app.jobs.put.aio(f"warm:{model}", {"containers": 0, "until": time.time() - 1})

    async def unclaimed(self, job):
        """The front died between taking an id and starting its call."""
        await self.app.jobs.put.aio(f"job:{job}", {"at": time.time(), "call": None})


async def main():
    wanted = arguments()
    control = Control()
    # Kept, or it would be gone.
    plane = await served(control)
    app, world, bills, real = await deployed(control, wanted)
    edge = Edge(app.web.local(), world.faults, wanted.key, wanted.hold_ms / 1e3)
    desk = Desk(edge, control, world, bills, app)
    http = uvicorn.Server(uvicorn.Config(desk, host="127.0.0.1", port=0, log_level="error", lifespan="off", access_log=False))
    tasks = [asyncio.create_task(http.serve()), asyncio.create_task(control.pools.run())]
    while not http.started:
        await asyncio.sleep(0.005)
    print("READY http://127.0.0.1:%d" % http.servers[0].sockets[0].getsockname()[1], flush=True)
    assert plane is not None
    # Whoever started us holds the other end: nothing outlives it.
    with contextlib.suppress(OSError):
        await asyncio.to_thread(sys.stdin.read)
    for server in real:
        await server.stop()
    os._exit(0)


asyncio.run(main())
