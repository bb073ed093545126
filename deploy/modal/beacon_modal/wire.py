"""The bodies of requests and answers. Pure; `workers/src/adapters/modal/app.rs` is the other side."""

import dataclasses
import json

# The version of the contract. Beacon's `modal::CONTRACT` must say the same; a test compares them.
CONTRACT = 1

# Beacon's own limit on a stored input is far below this.
BODY_MAX = 64 << 20

# How much of an error's text is handed on.
MESSAGE_MAX = 500

# Longer than any job may take, and the longest that Modal runs an input.
TIMEOUT_MAX_S = 86_400


class Refused(Exception):
    """A request that is not taken: the status and the body of the answer."""

    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


def unprocessable(where, why, kind="value_error"):
    """FastAPI's answer to a body that cannot be used. It names the field and never repeats a value: that may be a prompt."""
    return Refused(422, {"detail": [{"loc": ["body", *where], "msg": why, "type": kind}]})


def unknown_model(name, openai=False):
    """The answer about a model that this app does not serve."""
    message = f"model {name} does not exist"
    if openai:
        return Refused(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
    # With the model, so that a caller can tell this from an app without the route.
    return Refused(404, {"detail": message, "model": name})


def read(raw, fields, where=()):
    """The JSON object in `raw`. A field that is not among `fields` is refused by its name: dropping it would change the answer."""
    if isinstance(raw, (bytes, bytearray)):
        if len(raw) > BODY_MAX:
            raise Refused(413, {"detail": f"the body is longer than {BODY_MAX} bytes"})
        try:
            raw = json.loads(raw)
        except ValueError:
            raise unprocessable(where, "the body is no JSON") from None
    if not isinstance(raw, dict):
        raise unprocessable(where, f"`{'.'.join(where) or 'body'}` must be an object")
    for name in raw:
        if fields is not None and name not in fields:
            path = ".".join([*where, name])
            raise unprocessable([*where, name], f"unknown field `{path}`: this app does not serve it", "extra_forbidden")
    return raw


def expect(body, name, kinds, rule, where=(), check=lambda value: True, required=False):
    """A field of one of `kinds` for which `check` holds; None where it is missing. A bool is no number."""
    value = body.get(name)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, kinds) or not check(value):
        raise unprocessable([*where, name], f"`{'.'.join([*where, name])}` must be {rule}")
    return value


def text(value):
    return isinstance(value, str)


def job(raw, settings):
    """The job in the body of `POST /v1/jobs` and `/v1/run`: its id, its model, and the request that vLLM gets."""
    body = read(raw, ("id", "model", "messages", "prompt", "params", "timeout_s"))
    name = expect(body, "id", str, "a text of 1 to 256 letters", check=lambda id: 1 <= len(id) <= 256, required=True)
    model = expect(body, "model", str, "a text", required=True)
    messages = expect(body, "messages", list, "a list of at least one message", check=bool)
    prompt = expect(body, "prompt", str, "a text that is not empty", check=bool)
    limit = expect(body, "timeout_s", (int, float), f"seconds, above 0 and at most {TIMEOUT_MAX_S}",
                   check=lambda limit: 0 < limit <= TIMEOUT_MAX_S)
    if (messages is None) == (prompt is None):
        raise unprocessable(["messages"], "exactly one of `messages` and `prompt` is needed")
    for place, message in enumerate(messages or ()):
        where = ["messages", str(place)]
        read(message, ("role", "content"), where)
        for field in ("role", "content"):
            expect(message, field, str, "a text", where, required=True)
    sampling = params(body.get("params"))
    if settings.model(model) is None:
        raise unknown_model(model)
    given = {"messages": messages} if messages is not None else {"prompt": prompt}
    return {
        "id": name,
        "model": model,
        "route": "/v1/chat/completions" if messages is not None else "/v1/completions",
        "body": {"model": model, **given, **sampling, "stream": False},
        "timeout_s": limit or TIMEOUT_MAX_S,
    }


def params(value):
    """Sampling parameters, as vLLM takes them."""
    where = ("params",)
    body = read(value if value is not None else {}, ("max_tokens", "temperature", "top_p", "stop", "seed"), where)
    stop = lambda words: len(words) <= 4 and all(map(text, words))
    found = {
        "max_tokens": expect(body, "max_tokens", int, "a whole number of at least 1", where, lambda n: n >= 1),
        "temperature": expect(body, "temperature", (int, float), "a number of at least 0", where, lambda t: t >= 0),
        "top_p": expect(body, "top_p", (int, float), "above 0 and at most 1", where, lambda p: 0 < p <= 1),
        "stop": expect(body, "stop", list, "at most 4 texts", where, stop),
        "seed": expect(body, "seed", int, "a whole number", where),
    }
    return {name: value for name, value in found.items() if value is not None}


def openai(raw, settings):
    """A request of the OpenAI API, which vLLM gets as it is."""
    body = read(raw, None)
    model = expect(body, "model", str, "a text", required=True)
    if settings.model(model) is None:
        raise unknown_model(model, openai=True)
    return body


def order(raw, settings):
    """The body of `PUT /v1/warm`: a model, and how many of its containers are to be up."""
    body = read(raw, ("model", "containers"))
    model = expect(body, "model", str, "a text", required=True)
    most = settings.max_containers
    known = settings.model(model)
    if known is None:
        raise unknown_model(model)
    count = expect(body, "containers", int, f"a whole number of at most {most}", check=lambda n: 0 <= n <= most, required=True)
    return known, count


@dataclasses.dataclass(frozen=True)
class Bill:
    """What a run used, in microseconds of its container."""

    gpu: str
    execution_us: int
    cold_start_us: int | None
    container_id: str
    region: str

    def wire(self):
        """Seconds with six decimals: each microsecond survives."""
        cold = {} if self.cold_start_us is None else {"cold_start_s": self.cold_start_us / 1e6}
        return {"gpu": self.gpu, "execution_s": self.execution_us / 1e6, **cold,
                "container_id": self.container_id, "region": self.region}


def failed(kind, message, bill=None):
    """The report of a run that failed, in Beacon's classes."""
    billing = {} if bill is None else {"billing": bill}
    return {"status": "failed", "error": {"class": kind, "message": message[:MESSAGE_MAX]}, **billing}


def cancelled(bill=None):
    """The report of a run that was stopped on order."""
    return {"status": "cancelled", **({} if bill is None else {"billing": bill})}


def succeeded(answer, bill):
    """The report of vLLM's answer with status 200, which may still say that the run failed."""
    try:
        choice = answer["choices"][0]
        message = choice.get("message") or {}
        output = message["content"] if "message" in choice else choice["text"]
        finish = choice.get("finish_reason")
        usage = answer.get("usage") or {}
        counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")} if usage else None
    except (KeyError, IndexError, TypeError, AttributeError):
        return failed("provider_down", "vLLM's answer has no choice", bill)
    if finish == "content_filter":
        return failed("refused", "the answer was filtered", bill)
    if finish not in ("stop", "length") or not isinstance(output, str):
        return failed("provider_down", f"the answer is not whole: it ended with {finish!r}", bill)
    if counts is not None and isinstance(usage.get("prompt_tokens_details"), dict):
        # What the prefix cache saved; vLLM tells it with --enable-prompt-tokens-details.
        counts["prompt_tokens_details"] = usage["prompt_tokens_details"]
    told = {} if counts is None else {"usage": counts}
    return {"status": "succeeded", "output": output, "finish_reason": finish, **told, "billing": bill}


def error_text(raw):
    """The text of an error in a body, whatever its shape."""
    try:
        value = json.loads(raw)
        value = value.get("error", value) if isinstance(value, dict) else value
        value = value.get("message") or value.get("detail") or "" if isinstance(value, dict) else value
        return str(value)[:MESSAGE_MAX]
    except ValueError:
        return bytes(raw[:MESSAGE_MAX]).decode("utf-8", "replace")


def class_of(status, message):
    """The class of vLLM's refusal."""
    if "out of memory" in message.lower():
        return "out_of_memory"
    if status in (400, 413, 422):
        # A prompt too long for the context is one of these.
        return "invalid_request"
    if status == 404:
        return "misconfigured"
    if status in (429, 503):
        return "capacity"
    return "provider_down"


def report_of(status, raw, bill):
    """The report of vLLM's whole answer."""
    if status == 200:
        try:
            return succeeded(json.loads(raw), bill)
        except ValueError:
            return failed("provider_down", "vLLM's answer is no JSON", bill)
    message = error_text(raw)
    return failed(class_of(status, message), f"vLLM answered {status}: {message}", bill)
