"""vLLM in its own process, beside the code that talks to it."""

import asyncio
import contextlib
import dataclasses
import socket
import subprocess

import aiohttp

# Between two questions whether the server is up.
LOOK_S = 0.1


@dataclasses.dataclass
class Server:
    """A server that answers at `url`. `process` is None where it is not ours."""

    url: str
    process: subprocess.Popen | None = None

    def alive(self):
        """False once the process has ended."""
        return self.process is None or self.process.poll() is None

    async def stop(self):
        """Ends the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, 10)
            self.process.kill()


def command(settings, model, port):
    """vLLM's command line. Cached tokens are told in `usage`, so that what a prefix cache saves can be seen."""
    revision = ["--revision", model.revision] if model.revision else []
    return [
        "vllm", "serve", model.repository, *revision,
        "--served-model-name", model.name,
        "--host", "127.0.0.1", "--port", str(port),
        "--max-num-seqs", str(settings.max_inputs),
        "--enable-prompt-tokens-details",
        *settings.vllm_args,
    ]


async def launch(settings, model):
    """Starts the server and waits until it answers. Raises RuntimeError when it ends instead."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", subprocess.Popen(command(settings, model, port)))
    async with aiohttp.ClientSession() as session:
        # Modal's own `startup_timeout` is the limit.
        while server.alive():
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{server.url}/health") as answer:
                    if answer.status == 200:
                        return server
            await asyncio.sleep(LOOK_S)
    raise RuntimeError(f"the server ended with {server.process.returncode} before it was up")
