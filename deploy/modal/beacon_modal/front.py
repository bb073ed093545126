"""The routes, in a small container without a GPU: a question about health, a poll or an order starts no GPU.

    POST /v1/chat/completions, /v1/completions    streamed through; the bill is a comment before [DONE]
    POST /v1/run                                  held until done; Modal's edge answers with a redirect after 150 s
    POST /v1/jobs, GET and DELETE /v1/jobs/{id}   started, polled, stopped
    PUT  /v1/warm                                 so many containers up for a minute
    GET  /v1/models, /billing, /health
"""

import asyncio
import dataclasses
import time

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import wire
from .relay import Broken, Relayed
from .runner import wall_micros

# An order for warm containers holds so long when it is not repeated,
LEASE_S = 60
# and is only passed on so often when it stays the same: dispatchers repeat it each second.
RENEW_S = 10

# Containers are counted so often at most.
COUNT_S = 5

# A run that was stopped has this long to write its bill down.
BILL_WITHIN_S = 5
# One that never began has none; its container would have said so within this time.
BEGIN_WITHIN_S = 2

# Ids of calls that are known to be ours.
KNOWN_MAX = 10_000


class Running(Exception):
    """A call that is not over."""


class Expired(Exception):
    """A call whose result is no longer kept."""


class Front:
    """The routes over `cloud`, which is Modal as far as we use it, and the books."""

    def __init__(self, settings, cloud, books):
        self.settings, self.cloud, self.books = settings, cloud, books
        self._known = {}
        self._ordered = {}
        self._counted = (float("-inf"), 0)

    # ------------------------------------------------------------------ jobs

    async def jobs(self, request):
        call, created = await self._submit(wire.job(await request.body(), self.settings))
        return JSONResponse({"call_id": call, "created": created}, 202 if created else 200)

    async def run(self, request):
        alias = self.cloud.own_call()
        call, _ = await self._submit(wire.job(await request.body(), self.settings), alias)
        # Whoever leaves may come back by the call's id: the run goes on in any case.
        while True:
            try:
                return JSONResponse(await self._report(call, None))
            except Running:
                await asyncio.sleep(0.2)
            except Expired:
                return JSONResponse({"detail": "the result has expired"}, 410)

    async def poll(self, request):
        call = await self._call(request)
        try:
            return JSONResponse(await self._report(call, 0))
        except Running:
            return JSONResponse({"status": "pending"}, 202)
        except Expired:
            return JSONResponse({"detail": "the result has expired"}, 410)

    async def cancel(self, request):
        call = await self._call(request)
        # First our own word, so that its end is not taken for a failure.
        await self.books.stop(call, time.time())
        await self.cloud.cancel(call)
        return JSONResponse({"call_id": call}, 202)

    async def _submit(self, job, alias=None):
        """Starts a job, once for its id within a day. Gives the call and whether it is new."""
        now = time.time()
        claimed, call = await self.books.claim(job["id"], now)
        if not claimed:
            if call is None:
                # Its first submission is under way, or died just there. Then this attempt fails, and nothing runs twice.
                raise wire.Refused(503, {"detail": "this id is being submitted"})
            if alias:
                await self.books.alias(alias, call)
            return call, False
        try:
            call = await self.cloud.spawn({**job, "submitted_us": wall_micros()})
        except asyncio.CancelledError:
            raise
        except Exception:
            # Modal did not take it; a call that it took in spite of its error would be one without an id.
            raise wire.Refused(503, {"detail": "Modal did not take the job"}) from None
        await self.books.submitted(job["id"], call, alias, now)
        return call, True

    async def _call(self, request):
        name = request.path_params["call"]
        if name not in self._known:
            call = await self.books.call(name)
            if call is None:
                raise wire.Refused(404, {"detail": "unknown call"})
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[name] = call
        return self._known[name]

    async def _report(self, call, wait_s):
        """The report of a call. Raises Running and Expired."""
        try:
            return await self.cloud.result(call, wait_s)
        except Broken as broken:
            since = await self.books.stopped(call)
            if since is None:
                return wire.failed(broken.kind, str(broken))
            bill = await self.books.billed(call)
            if bill is None:
                ago = time.time() - since
                if ago < BEGIN_WITHIN_S or (ago < BILL_WITHIN_S and await self.books.has_begun(call)):
                    raise Running from None
                if not await self.books.has_begun(call):
                    bill = self._nothing()
            return wire.cancelled(bill)

    def _nothing(self):
        """The bill of a run that never had a container."""
        return wire.Bill(self.settings.models[0].gpu, 0, None, "", self.settings.modal_region).wire()

    # ------------------------------------------------------------------ the OpenAI API

    async def openai(self, request):
        body = wire.openai(await request.body(), self.settings)
        job = {"model": body["model"], "route": request.url.path, "body": body, "submitted_us": wall_micros()}
        return Relayed(self.cloud, job)

    async def models(self, _):
        listed = [{"id": model.name, "object": "model", "created": 0, "owned_by": "beacon", "root": model.repository}
                  for model in self.settings.models]
        return JSONResponse({"object": "list", "data": listed})

    # ------------------------------------------------------------------ containers

    async def warm(self, request):
        model, containers = wire.order(await request.body(), self.settings)
        now = time.monotonic()
        count, at = self._ordered.get(model.name, (None, float("-inf")))
        if count != containers or now - at >= RENEW_S:
            # The lease first: a floor without one would stay.
            await self.books.lease(model.name, containers, time.time() + LEASE_S + RENEW_S if containers else 0)
            await self.cloud.keep(model, containers)
            self._ordered[model.name] = (containers, now)
        return JSONResponse({"model": model.name, "containers": containers})

    async def billing(self, _):
        uses = await self.books.uses()
        return JSONResponse({"items": [{"gpu": gpu, **dataclasses.asdict(use)} for gpu, use in sorted(uses.items())]})

    async def health(self, _):
        at, containers = self._counted
        if time.monotonic() - at >= COUNT_S:
            await let_go(self.settings, self.cloud, self.books)
            counts = [await self.cloud.containers(model) for model in self.settings.models]
            containers = sum(counts)
            self._counted = (time.monotonic(), containers)
        return JSONResponse({
            "status": "ok",
            "contract": wire.CONTRACT,
            "model": self.settings.models[0].name,
            "models": [model.name for model in self.settings.models],
            "region": self.settings.modal_region,
            "containers": containers,
        })


async def let_go(settings, cloud, books):
    """Ends orders for warm containers that were not repeated. May be done at any time, by anybody, any number of times."""
    for model in settings.models:
        if await books.lapsed(model.name, time.time()):
            await cloud.keep(model, 0)


async def refused(_, refusal):
    return JSONResponse(refusal.body, refusal.status)


async def not_served(_, error):
    # FastAPI's words, by which Beacon tells an app without a route from another 404.
    return JSONResponse({"detail": error.detail}, error.status_code)


def application(settings, cloud, books):
    """The ASGI application."""
    front = Front(settings, cloud, books)
    routes = [
        Route("/v1/chat/completions", front.openai, methods=["POST"]),
        Route("/v1/completions", front.openai, methods=["POST"]),
        Route("/v1/models", front.models, methods=["GET"]),
        Route("/v1/run", front.run, methods=["POST"]),
        Route("/v1/jobs", front.jobs, methods=["POST"]),
        Route("/v1/jobs/{call}", front.poll, methods=["GET"]),
        Route("/v1/jobs/{call}", front.cancel, methods=["DELETE"]),
        Route("/v1/warm", front.warm, methods=["PUT"]),
        Route("/billing", front.billing, methods=["GET"]),
        Route("/health", front.health, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={wire.Refused: refused, 404: not_served, 405: not_served})
