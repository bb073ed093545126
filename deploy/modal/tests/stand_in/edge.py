"""Modal's edge, an ASGI application around the app's own."""

import asyncio
import itertools
from urllib.parse import parse_qs

from modal._runtime.execution_context import _set_current_context_ids

CALL_ID = "__modal_function_call_id"

WORDS = {
    429: "rate limit exceeded", 500: "internal error", 502: "container died", 503: "service unavailable",
    504: "container failed to start",
}


class Held:
    """A request that goes on whether or not somebody holds it; its answer can be fetched again and again."""

    def __init__(self, name):
        self.name = name
        self.messages = []
        self.changed = asyncio.Event()
        self.task = None

    async def send(self, message):
        self.messages.append(message)
        self.changed.set()
        self.changed = asyncio.Event()


class Edge:
    """Authentication, faults of the way, and the rule that a request without an answer is let go with a redirect."""

    def __init__(self, app, faults, key, hold_s):
        self.app, self.faults, self.key, self.hold_s = app, faults, key, hold_s
        self.numbers = itertools.count(1)
        self.held = {}
        self.refused = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.key is not None and f"{headers.get('modal-key')}:{headers.get('modal-secret')}" != self.key:
            self.refused += 1
            await plain(send, 401, "missing credentials for proxy authorization")
            return
        query = parse_qs(scope["query_string"].decode())
        fault = {} if scope["path"] in ("/health", "/billing") else self.faults.take("status", "hang")
        if fault.get("kind") == "status":
            self.refused += 1
            extra = [(b"retry-after", str(fault["retry_after_s"]).encode())] if fault.get("retry_after_s") else []
            await plain(send, fault["code"], WORDS.get(fault["code"], "error"), extra)
        elif fault.get("kind") == "hang":
            await asyncio.Event().wait()
        elif CALL_ID in query:
            held = self.held.get(query[CALL_ID][0])
            if held is None:
                await plain(send, 404, "function call not found")
            else:
                await self.wait(held, send, headers, scope)
        elif scope["path"] == "/v1/run":
            held = Held(f"fc-web-{next(self.numbers):08}")
            self.held[held.name] = held
            held.task = asyncio.create_task(self.work(held, scope, receive))
            await self.wait(held, send, headers, scope)
        else:
            await self.app(scope, receive, send)

    async def work(self, held, scope, receive):
        _set_current_context_ids([f"in-{held.name}"], [held.name], [""])
        await self.app(scope, once(receive), held.send)

    async def wait(self, held, send, headers, scope):
        try:
            async with asyncio.timeout(self.hold_s):
                while not held.task.done():
                    await asyncio.wait([held.task])
        except TimeoutError:
            where = f"http://{headers['host']}{scope['path']}?{CALL_ID}={held.name}"
            await answer(send, 303, b"", [(b"location", where.encode())])
            return
        for message in held.messages:
            await send(message)


def once(receive):
    """The request's body; its end is not told, since the run goes on without its caller."""
    whole = False

    async def next_message():
        nonlocal whole
        if whole:
            await asyncio.Event().wait()
        message = await receive()
        whole = not message.get("more_body", False)
        return message

    return next_message


async def plain(send, status, text, extra=()):
    await answer(send, status, f"modal-http: {text}".encode(), [(b"content-type", b"text/plain"), *extra])


async def answer(send, status, body, headers):
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
