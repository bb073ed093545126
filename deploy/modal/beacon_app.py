"""Beacon's app on Modal: vLLM behind the contract that Beacon's Modal adapter speaks. One app for each region.

    BEACON_REGION=us-east modal deploy deploy/modal/beacon_app.py

What it serves, and how much of it, is said by the variables in `beacon_modal/settings.py`; README.md has them in a table. What
it does is in `beacon_modal`; this file only puts that into Modal's functions, and Modal's objects behind it.
"""

import os
import time

import modal
import modal.experimental

from beacon_modal import front, server
from beacon_modal.books import Books
from beacon_modal.runner import Runner
from beacon_modal.settings import Settings

settings = Settings.read(os.environ)
app = modal.App(f"beacon-{settings.region}")

# The longest that Modal runs an input. A job's own limit is in the job.
DAY_S = 86_400
# The first start of a model fetches its weights.
START_WITHIN_S = 1_800

jobs = modal.Dict.from_name(f"beacon-{settings.region}-jobs", create_if_missing=True)
containers = modal.Dict.from_name(f"beacon-{settings.region}-containers", create_if_missing=True)
weights = modal.Volume.from_name("beacon-weights", create_if_missing=True)

small = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install("starlette==1.10.0", "aiohttp==3.14.5")
    .env(settings.environ())
    .add_local_python_source("beacon_modal")
)
large = (
    modal.Image.from_registry("nvidia/cuda:12.9.1-devel-ubuntu24.04", add_python="3.12")
    .entrypoint([])
    .uv_pip_install("vllm==0.33.0", "starlette==1.10.0")
    .env({**settings.environ(), "HF_HOME": "/models", "VLLM_CACHE_ROOT": "/models/vllm"})
    .add_local_python_source("beacon_modal")
)


def age_us():
    """How long this container is up: as long as its first process. What was before is not ours to see."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        began = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0, int((float(uptime.read().split()[0]) - began) * 1e6))


async def retire():
    """Takes no more inputs: Modal starts another container."""
    await modal.experimental.stop_fetching_inputs.aio()


@app.cls(
    image=large,
    gpu=settings.models[0].gpu,
    region=settings.modal_region,
    volumes={"/models": weights},
    secrets=[modal.Secret.from_name(settings.secret)] if settings.secret else [],
    max_containers=settings.max_containers,
    scaledown_window=settings.scaledown_s,
    timeout=DAY_S,
    startup_timeout=START_WITHIN_S,
    # Whether a job is tried again is Beacon's to decide.
    retries=0,
)
@modal.concurrent(max_inputs=settings.max_inputs)
class Engine:
    """A container with a GPU that serves one model. Each model has containers of its own."""

    model: str = modal.parameter()

    @modal.enter()
    async def up(self):
        container = os.environ.get("MODAL_TASK_ID", "")
        region = os.environ.get("MODAL_REGION", settings.modal_region)
        books = Books(jobs, containers)
        self.runner = Runner(settings, settings.model(self.model), books, container, region, age_us())
        await self.runner.up(server.launch)

    @modal.method()
    async def run(self, job: dict) -> dict:
        try:
            return await self.runner.run(job, modal.current_function_call_id())
        finally:
            if not self.runner.alive():
                await retire()

    @modal.method()
    async def stream(self, job: dict):
        try:
            async for piece in self.runner.stream(job, modal.current_function_call_id()):
                yield piece
        finally:
            if not self.runner.alive():
                await retire()

    @modal.exit()
    async def down(self):
        await self.runner.down()


class Cloud:
    """Modal, as far as the routes use it."""

    def __init__(self):
        self._engines = {}

    def engine(self, model):
        """The containers of one model."""
        if model.name not in self._engines:
            self._engines[model.name] = Engine.with_options(gpu=model.gpu)(model=model.name)
        return self._engines[model.name]

    def own_call(self):
        """The id by which Modal's edge knows the request that is being answered."""
        return modal.current_function_call_id()

    async def spawn(self, job):
        """Starts a run; gives its id."""
        call = await self.engine(settings.model(job["model"])).run.spawn.aio(job)
        return call.object_id

    async def result(self, call, wait_s):
        """The report of a run. Raises Running, Expired or Broken."""
        try:
            return await modal.FunctionCall.from_id(call).get.aio(timeout=wait_s)
        except (modal.exception.OutputExpiredError, modal.exception.NotFoundError):
            raise front.Expired from None
        except modal.exception.FunctionTimeoutError:
            raise front.Broken("timeout", "the run passed Modal's limit") from None
        except (TimeoutError, modal.exception.TimeoutError):
            # Python's own is what `get` raises; it has been Modal's.
            raise front.Running from None
        except modal.exception.ServiceError:
            # Modal's control plane, not the run.
            raise
        except (modal.exception.Error, modal.exception.InputCancellation) as error:
            raise front.Broken("provider_down", f"the container died ({type(error).__name__})") from None

    async def cancel(self, call):
        """Stops a run; other runs of its container go on."""
        await modal.FunctionCall.from_id(call).cancel.aio(terminate_containers=False)

    async def stream(self, job):
        """What `Runner.stream` yields. Raises Broken."""
        try:
            async for piece in self.engine(settings.model(job["model"])).stream.remote_gen.aio(job):
                yield piece
        except (modal.exception.Error, modal.exception.InputCancellation) as error:
            raise front.Broken("provider_down", f"the container died ({type(error).__name__})") from None

    async def keep(self, model, count):
        """Keeps so many containers of a model up, those that run included."""
        await self.engine(model).run.autoscaler.update.aio(min_containers=count)

    async def containers(self, model):
        """How many containers of a model are up."""
        return (await self.engine(model).run.get_current_stats.aio()).num_total_runners


@app.function(
    image=small,
    region=settings.modal_region,
    cpu=0.25,
    memory=512,
    timeout=DAY_S,
    scaledown_window=300,
)
@modal.concurrent(max_inputs=1000)
@modal.asgi_app(label=f"beacon-{settings.region}", requires_proxy_auth=True)
def web():
    return front.application(settings, Cloud(), Books(jobs, containers))


@app.function(image=small, region=settings.modal_region, max_containers=1, timeout=50, schedule=modal.Period(minutes=1))
async def sweep():
    """Each minute, whoever calls or not: lets go of containers nobody orders any more, and keeps the sums of use."""
    books = Books(jobs, containers)
    await books.serves({model.gpu for model in settings.models})
    await front.let_go(settings, Cloud(), books)
    await books.fold(time.time())
