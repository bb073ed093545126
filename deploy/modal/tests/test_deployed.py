"""The app as Modal gets it: deployed by the real package to the stand-in, and what arrived there held against the contract."""

import asyncio
import os
import re
import threading
import time
import unittest

from beacon_modal import wire
from tests.stand_in.control import Control, served

os.environ.update(BEACON_MODELS="a=acme/a@v1:T4,b=acme/b:A10", BEACON_REGION="eu-west", BEACON_HF_SECRET="")
KIT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def text(path):
    """A file beside the app."""
    with open(os.path.join(KIT, path)) as file:
        return file.read()


LOOP = asyncio.new_event_loop()
CONTROL = Control()


def setUpModule():
    """One app for each process: the package keeps what it has deployed. Its other side has a thread of its own."""
    threading.Thread(target=LOOP.run_forever, daemon=True).start()
    CONTROL.server = asyncio.run_coroutine_threadsafe(served(CONTROL), LOOP).result(30)
    import beacon_app

    beacon_app.app.deploy()
    Deployed.app = TheBooks.app = beacon_app


class Deployed(unittest.IsolatedAsyncioTestCase):
    control = CONTROL

    def definition(self, name):
        found = [f["definition"] for key, f in self.control.functions.items() if key.startswith(f"fu-{name}")]
        self.assertEqual(len(found), 1, list(self.control.functions))
        return found[0]

    async def test_what_is_deployed_is_what_the_contract_says(self):
        self.assertEqual(self.control.published.name, "beacon-eu-west")
        web, engine, sweep = self.definition("web"), self.definition("Engine"), self.definition("sweep")
        self.assertTrue(web.webhook_config.requires_proxy_auth)
        self.assertEqual(web.webhook_config.requested_suffix, "beacon-eu-west")
        # A question about health starts nothing that has a GPU.
        self.assertEqual((web.resources.gpu_config.gpu_type, sweep.resources.gpu_config.gpu_type), ("", ""))
        self.assertEqual(engine.resources.gpu_config.gpu_type, "T4")
        for function in (web, engine, sweep):
            self.assertEqual(list(function.scheduler_placement.regions), ["eu-west"])
            self.assertEqual(function.retry_policy.retries, 0, "whether a job is tried again is Beacon's to decide")
        self.assertEqual(engine.autoscaler_settings.scaledown_window, 60)
        self.assertEqual(engine.autoscaler_settings.max_containers, 5)
        self.assertEqual(engine.autoscaler_settings.min_containers, 0)
        self.assertEqual(engine.max_concurrent_inputs, 8)
        # Longer than any job, and than Modal holds a request.
        self.assertEqual((engine.timeout_secs, web.timeout_secs), (86_400, 86_400))
        self.assertGreaterEqual(engine.startup_timeout_secs, 1_200)
        self.assertEqual(sweep.schedule.period.minutes or sweep.schedule.period.seconds / 60, 1)
        self.assertEqual(sweep.autoscaler_settings.max_containers, 1, "only one may add up what containers used")

    async def test_containers_get_the_settings_and_versions_that_are_tested_here(self):
        commands = "\n".join(line for image in self.control.images for line in image.dockerfile_commands)
        for name, value in self.app.settings.environ().items():
            self.assertIn(f"ENV {name}=", commands)
        pinned = dict(re.findall(r"^([a-z-]+)==(\S+)", text("requirements.txt"), re.M))
        for package, version in re.findall(r"(starlette|aiohttp)==([0-9.]+)", commands):
            self.assertEqual(pinned[package], version)
        self.assertRegex(commands, r"vllm==[0-9.]+")

    async def test_vllm_is_told_to_tell_cached_tokens(self):
        from beacon_modal.server import command

        words = command(self.app.settings, self.app.settings.model("a"), 8_000)
        self.assertIn("--enable-prompt-tokens-details", words)
        self.assertEqual(words[:5], ["vllm", "serve", "acme/a", "--revision", "v1"])
        self.assertEqual(words[words.index("--served-model-name") + 1], "a")
        # What Modal hands to a container, vLLM takes at once.
        self.assertEqual(words[words.index("--max-num-seqs") + 1], str(self.app.settings.max_inputs))

    async def test_each_model_has_containers_of_its_own_with_its_gpu(self):
        bound = []
        self.control.pools = type("Pools", (), {"bind": lambda _, *names: bound.append(names), "count": lambda *_: 0})()
        cloud = self.app.Cloud()
        for model in self.app.settings.models:
            await cloud.containers(model)
        self.assertEqual([model for _, model in bound], ["a", "b"])
        gpus = {b["parameters"]["model"]: b["options"].resources.gpu_config.gpu_type for b in self.control.bound.values()}
        self.assertEqual(gpus, {"a": "T4", "b": "A10"})


class TheBooks(unittest.IsolatedAsyncioTestCase):
    """Over the real `modal.Dict`."""

    control = CONTROL

    async def asyncSetUp(self):
        for entries in self.control.dicts.values():
            entries.clear()
        self.books = self.app.Books(self.app.jobs, self.app.containers)
        await self.books.serves({"T4"})

    async def used(self):
        return {gpu: use.idle_us for gpu, use in (await self.books.uses()).items()}

    async def test_sums_never_shrink_while_records_move_into_them(self):
        now = time.time()
        for number in range(30):
            ended = number % 3 > 0
            await self.books.record(f"ta-{number}", "T4", {"idle_us": 10}, now - 700, ended)

        async def look():
            for _ in range(40):
                self.assertEqual(await self.used(), {"T4": 300})

        await asyncio.gather(look(), self.books.fold(now), look())
        self.assertEqual(await self.used(), {"T4": 300})
        keys = [key async for key in self.app.containers.keys.aio()]
        self.assertEqual(sum(key.startswith("ta-") for key in keys), 10, "those that run stay")
        await self.books.fold(now + 4_000)
        self.assertEqual(await self.used(), {"T4": 300})

    async def test_a_sweep_that_died_half_way_is_gone_on_with(self):
        now = time.time()
        await self.books.record("ta-1", "T4", {"idle_us": 10}, now - 700, True)
        pop = self.books.containers.pop.aio

        async def dies(*_):
            raise ConnectionError

        self.books.containers = Failing(self.books.containers, dies)
        with self.assertRaises(ConnectionError):
            await self.books.fold(now)
        self.assertEqual(await self.used(), {"T4": 10}, "counted once")
        self.books.containers = self.app.containers
        await self.books.fold(now)
        self.assertEqual(await self.used(), {"T4": 10})
        self.assertIsNone(await pop("ta-1", None))

    async def test_an_id_is_taken_once_and_free_again_after_a_day(self):
        claims = await asyncio.gather(*(self.books.claim("j:1", 100.0) for _ in range(8)))
        self.assertEqual(sorted(claimed for claimed, _ in claims), [False] * 7 + [True])
        self.assertEqual(await self.books.claim("j:1", 200.0), (False, None), "whoever took it has not started it yet")
        await self.books.submitted("j:1", "fc-1", "fc-web", 100.0)
        self.assertEqual(await self.books.claim("j:1", 200.0), (False, "fc-1"))
        self.assertEqual(await self.books.call("fc-web"), "fc-1")
        self.assertEqual(await self.books.claim("j:1", 100.0 + 86_401), (True, None))

    async def test_an_order_that_lapsed_is_looked_at_for_a_while(self):
        await self.books.lease("a", 2, 100.0)
        found = [await self.books.lapsed("a", now) for now in (99.0, 101.0, 600.0, 800.0)]
        self.assertEqual(found, [False, True, True, False])


class Failing:
    """A Dict of which one call fails."""

    def __init__(self, real, pop):
        self._real = real
        self.pop = type("Pop", (), {"aio": staticmethod(pop)})

    def __getattr__(self, name):
        return getattr(self._real, name)


class TheContract(unittest.TestCase):
    def test_its_version_is_the_one_that_beacon_expects(self):
        source = text("../../workers/src/adapters/modal/app.rs")
        self.assertEqual(int(re.search(r'CONTRACT: u32 = (\d+)', source)[1]), wire.CONTRACT)
