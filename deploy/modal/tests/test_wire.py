"""What bodies mean. Nothing is dropped, and no answer repeats what a caller sent."""

import json
import unittest

from beacon_modal import wire
from beacon_modal.settings import Settings, SettingsError

SETTINGS = Settings.read({"BEACON_MODELS": "m=acme/m:T4"})
HELLO = [{"role": "user", "content": "a secret that is nobody's business"}]


def job(**changes):
    body = {"id": "j:1", "model": "m", "messages": HELLO, "params": {"max_tokens": 4}, "timeout_s": 5, **changes}
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


class Jobs(unittest.TestCase):
    def refused(self, raw):
        with self.assertRaises(wire.Refused) as caught:
            wire.job(raw, SETTINGS)
        self.assertNotIn("secret", str(caught.exception.body))
        return caught.exception

    def test_a_job_becomes_the_request_that_vllm_gets(self):
        params = {"max_tokens": 4, "temperature": 0, "top_p": 0.5, "stop": ["\n"], "seed": -3}
        read = wire.job(job(params=params), SETTINGS)
        self.assertEqual(read["route"], "/v1/chat/completions")
        self.assertEqual(read["body"], {"model": "m", "messages": HELLO, **params, "stream": False})
        read = wire.job(job(messages=..., prompt="Once", params=...), SETTINGS)
        self.assertEqual((read["route"], read["body"]), ("/v1/completions", {"model": "m", "prompt": "Once", "stream": False}))

    def test_an_unknown_field_is_refused_by_its_name(self):
        for raw, name in (
            (job(request={}), "request"),
            (job(params={"max_tokens": 4, "top_k": 3}), "params.top_k"),
            (job(messages=[{**HELLO[0], "name": "x"}]), "messages.0.name"),
        ):
            refusal = self.refused(raw)
            self.assertEqual(refusal.status, 422)
            detail = refusal.body["detail"][0]
            self.assertEqual((detail["loc"], detail["type"]), (["body", *name.split(".")], "extra_forbidden"))
            self.assertIn(f"`{name}`", detail["msg"])

    def test_a_value_that_breaks_its_rule_is_refused_by_its_name(self):
        for raw, name in (
            (b"[]", "body"), (b"{", "body"), (job(id=""), "id"), (job(id=7), "id"), (job(model=...), "model"),
            (job(messages=[]), "messages"), (job(prompt="x"), "messages"), (job(messages=...), "messages"),
            (job(messages=[{"role": "user"}]), "messages.0.content"), (job(timeout_s=0), "timeout_s"),
            (job(timeout_s=True), "timeout_s"), (job(params={"max_tokens": 0}), "params.max_tokens"),
            (job(params={"max_tokens": 1.5}), "params.max_tokens"), (job(params={"temperature": -1}), "params.temperature"),
            (job(params={"top_p": 0}), "params.top_p"), (job(params={"stop": ["a"] * 5}), "params.stop"),
            (job(params=[]), "params"),
        ):
            refusal = self.refused(raw)
            self.assertEqual(refusal.status, 422)
            self.assertIn(name, str(refusal.body["detail"][0]), raw)

    def test_a_model_that_is_not_served_is_named(self):
        refusal = self.refused(job(model="other"))
        self.assertEqual((refusal.status, refusal.body["model"]), (404, "other"))

    def test_a_body_that_is_too_long_is_refused_before_it_is_read(self):
        self.assertEqual(self.refused(b"x" * (wire.BODY_MAX + 1)).status, 413)


class Reports(unittest.TestCase):
    def test_a_success_is_one_only_if_the_answer_is_whole(self):
        def answer(finish, **message):
            return wire.report_of(200, json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode(), {})

        self.assertEqual(answer("stop", content="Air")["status"], "succeeded")
        self.assertEqual(answer("length", content="")["status"], "succeeded")
        for finish, text, kind in (
            ("abort", "Air", "provider_down"), (None, "Air", "provider_down"), ("stop", None, "provider_down"),
            ("content_filter", "", "refused"),
        ):
            self.assertEqual(answer(finish, content=text)["error"]["class"], kind, finish)
        for raw in (b"", b"{", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', b'{"choices":"x"}', b"null"):
            self.assertEqual(wire.report_of(200, raw, {})["error"]["class"], "provider_down", raw)

    def test_usage_that_is_missing_is_unknown_and_not_nothing(self):
        answer = {"choices": [{"text": "Air", "finish_reason": "stop"}]}
        self.assertNotIn("usage", wire.succeeded(answer, {}))
        counts = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        self.assertEqual(wire.succeeded({**answer, "usage": counts}, {})["usage"], {"prompt_tokens": 3, "completion_tokens": 1})
        cached = {**counts, "prompt_tokens_details": {"cached_tokens": 2}}
        told = wire.succeeded({**answer, "usage": cached}, {})["usage"]
        self.assertEqual(told["prompt_tokens_details"], {"cached_tokens": 2})

    def test_each_refusal_of_vllm_has_its_class(self):
        for status, body, kind in (
            (400, '{"error":{"message":"maximum context length is 4096"}}', "invalid_request"),
            (404, '{"error":{"message":"no such model"}}', "misconfigured"),
            (429, "", "capacity"), (503, '{"detail":"busy"}', "capacity"), (500, "EngineCore", "provider_down"),
            (500, '{"error":"CUDA out of memory. Tried"}', "out_of_memory"), (502, "[1]", "provider_down"),
        ):
            report = wire.report_of(status, body.encode(), None)
            self.assertEqual(report["error"]["class"], kind, body)
            self.assertNotIn("billing", report)

    def test_every_microsecond_of_a_bill_survives_json(self):
        for micros in (0, 1, 830_000, 99_999_999_999_999):
            bill = json.loads(json.dumps(wire.Bill("T4", micros, micros, "ta-1", "us-east").wire()))
            self.assertEqual((round(bill["execution_s"] * 1e6), round(bill["cold_start_s"] * 1e6)), (micros, micros))
        self.assertNotIn("cold_start_s", wire.Bill("T4", 1, None, "ta-1", "us-east").wire())


class Operators(unittest.TestCase):
    def test_settings_survive_the_way_into_a_container(self):
        told = {"BEACON_REGION": "asia-pacific", "BEACON_MODELS": "a=x/a@v1:L4, b=x/b:H100", "BEACON_MAX_INPUTS": "3",
                "BEACON_VLLM_ARGS": "--max-model-len 4096", "BEACON_HF_SECRET": "hub"}
        settings = Settings.read(told)
        self.assertEqual(settings.modal_region, "ap-southeast")
        self.assertEqual(Settings.read(settings.environ()), settings)

    def test_a_setting_that_makes_no_sense_is_refused_by_its_name(self):
        for name, value in (
            ("BEACON_REGION", "mars"), ("BEACON_MODELS", "m"), ("BEACON_MODELS", "m=a/m"), ("BEACON_MODELS", "m=a/m:A100"),
            ("BEACON_MODELS", "m=a/m:T4,m=a/n:T4"), ("BEACON_MODELS", ","), ("BEACON_MAX_INPUTS", "0"),
            ("BEACON_MAX_CONTAINERS", "many"), ("BEACON_SCALEDOWN_S", "1"),
        ):
            with self.assertRaisesRegex(SettingsError, name):
                Settings.read({name: value})
