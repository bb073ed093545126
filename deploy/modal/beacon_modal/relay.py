"""A streamed answer on its way through the front: from vLLM in another container to whoever asked."""

import asyncio
import contextlib

from starlette.responses import JSONResponse


class Broken(Exception):
    """A call that ended without a report of its own: stopped, timed out, or its container died. `kind` is a class of failures."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class Relayed:
    """An answer that comes through from vLLM. When its caller leaves, the run is stopped."""

    def __init__(self, cloud, job):
        self.cloud, self.job = cloud, job
        self.call = None
        self.left = False
        self.begun = False

    async def __call__(self, scope, receive, send):
        relay = asyncio.create_task(self._relay(send))
        gone = asyncio.create_task(self._gone(receive))
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not relay.done():
                # Without the id of the call there is no way to stop it; then the relay does, once it knows.
                self.left = True
                if self.call is not None:
                    relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay
            if self.left and self.call is not None:
                await self.cloud.cancel(self.call)
        finally:
            gone.cancel()
            relay.cancel()

    async def _gone(self, receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _relay(self, send):
        try:
            async for piece in self.cloud.stream(self.job):
                if isinstance(piece, bytes):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                elif "call" in piece:
                    self.call = piece["call"]
                    if self.left:
                        return
                elif "broken" in piece:
                    raise Broken("provider_down", piece["broken"])
                else:
                    await self._head(send, piece["status"], piece["content_type"])
        except Broken as broken:
            if self.begun:
                # There is no other way to say that the answer is not whole.
                raise
            await self._head(send, 502, "application/json")
            error = {"error": {"message": str(broken), "type": broken.kind, "code": 502}}
            await send({"type": "http.response.body", "body": JSONResponse(error).body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _head(self, send, status, kind):
        self.begun = True
        headers = [(b"content-type", kind.encode("latin-1")), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
