"""vLLM's HTTP, with an answer that needs no GPU. Faults are set from outside, as for Beacon's own simulators."""

import asyncio
import json

from aiohttp import web

WORDS = "Air scatters blue light far more than red, which is why the sky looks blue to us by day".split()
CONTEXT = 4_096


def tokens(text):
    """Words. Near enough."""
    return len(text.split())


class Vllm:
    """One world of servers: their counts are kept together."""

    def __init__(self, service_s):
        self.service_s = service_s
        self.faults = Faults()
        self.stats = dict.fromkeys(
            ("running", "peak_running", "started", "finished", "aborted", "refused", "prompt_tokens", "generated_tokens"), 0
        )
        self.seen = []

    async def serve(self, model):
        """Starts a server on a free port. Gives its address and how to end it."""
        app = web.Application(client_max_size=1 << 30)
        answer = lambda request: self.answer(request, model)
        app.add_routes([
            web.post("/v1/chat/completions", answer),
            web.post("/v1/completions", answer),
            web.get("/health", lambda _: asyncio.sleep(0, web.Response())),
        ])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}", runner.cleanup

    async def answer(self, request, model):
        body = await request.json()
        self.seen.append(body)
        chat = request.path.endswith("/chat/completions")
        prompt = " ".join(message["content"] for message in body["messages"]) if chat else body["prompt"]
        asked, read = body.get("max_tokens") or 16, tokens(prompt)
        if body["model"] != model:
            return self.refusal(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        if read + asked > CONTEXT:
            text = f"This model's maximum context length is {CONTEXT} tokens. However, you requested {read + asked} tokens."
            return self.refusal(400, "BadRequestError", text)
        fault = self.faults.take("slow", "oom", "error_frame", "stall_mid_stream", "silent_end", "garbage_json")
        if fault.get("kind") == "oom":
            return self.refusal(500, "InternalServerError", "CUDA out of memory. Tried to allocate 2.00 GiB.")
        words = ["[simulated]", *(WORDS[place % len(WORDS)] for place in range(min(asked, 24) - 1))]
        self.stats["started"] += 1
        self.stats["prompt_tokens"] += read
        self.stats["running"] += 1
        self.stats["peak_running"] = max(self.stats["peak_running"], self.stats["running"])
        whole = False
        try:
            play = self.stream if body.get("stream") else self.once
            answer, whole = await play(request, body, chat, words, read, asked, fault)
            return answer
        finally:
            self.stats["running"] -= 1
            self.stats["finished" if whole else "aborted"] += 1
            self.stats["generated_tokens"] += len(words) if whole else 0

    def refusal(self, status, kind, message):
        self.stats["refused"] += 1
        return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status)

    async def once(self, request, body, chat, words, read, asked, fault):
        await asyncio.sleep(self.service_s * fault.get("factor", 1))
        kind = fault.get("kind")
        if kind == "stall_mid_stream":
            await asyncio.Event().wait()
        if kind == "error_frame":
            error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            return web.json_response({"error": error}, status=500), False
        if kind == "garbage_json":
            return web.Response(text='{"choices": [', content_type="application/json"), True
        if kind == "silent_end":
            request.transport.close()
            return web.Response(), False
        return web.json_response(self.chunk(body, chat, " ".join(words), finish(words, asked), usage(read, words), True)), True

    async def stream(self, request, body, chat, words, read, asked, fault):
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        say = lambda value: response.write(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")
        kind, after = fault.get("kind"), fault.get("after_tokens")
        pause = self.service_s * fault.get("factor", 1) / len(words)
        for place, word in enumerate(words):
            await asyncio.sleep(pause)
            if after is not None and place >= after:
                if kind == "stall_mid_stream":
                    await asyncio.Event().wait()
                if kind == "error_frame":
                    await say({"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}})
                    await say(b"[DONE]")
                else:
                    request.transport.close()
                return response, False
            await say(self.chunk(body, chat, (" " if place else "") + word, None))
        if kind == "garbage_json":
            await say(b'{"choices": [')
        await say(self.chunk(body, chat, "", finish(words, asked)))
        if (body.get("stream_options") or {}).get("include_usage"):
            await say({**self.chunk(body, chat, "", None), "choices": [], "usage": usage(read, words)})
        await say(b"[DONE]")
        return response, True

    def chunk(self, body, chat, text, reason, counts=None, whole=False):
        said = {"message" if whole else "delta": {"role": "assistant", "content": text}} if chat else {"text": text}
        kind = ("chat.completion" if chat else "text_completion") + ("" if whole or not chat else ".chunk")
        counted = {} if counts is None else {"usage": counts}
        return {"id": "cmpl-1", "object": kind, "created": 1, "model": body["model"],
                "choices": [{"index": 0, **said, "finish_reason": reason}], **counted}


def finish(words, asked):
    return "length" if len(words) >= asked else "stop"


def usage(read, words):
    return {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words),
            "prompt_tokens_details": {"cached_tokens": 0}}


class Faults:
    """What goes wrong next, and how often."""

    def __init__(self):
        self.fault = None

    def set(self, fault):
        self.fault = fault

    def take(self, *kinds):
        """The fault, if it is of one of these kinds; empty otherwise."""
        fault = self.fault
        if fault is None or fault["kind"] not in kinds:
            return {}
        if fault.get("count") is not None:
            fault["count"] -= 1
            if fault["count"] <= 0:
                self.fault = None
        return fault
