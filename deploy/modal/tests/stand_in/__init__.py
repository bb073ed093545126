"""A stand-in for Modal's side, in one process: the real `modal` package talks to it as it talks to Modal.

| module | stands in for |
|---|---|
| `control` | Modal's control plane: the gRPC calls that deploying, calling and `modal.Dict` make |
| `pools` | Modal's workers: containers of the engine, which start, take inputs, idle and end |
| `edge` | Modal's edge: proxy authentication, the redirect of a held request, errors in plain text |
| `vllm` | vLLM and the GPU below it |

`python -m tests.stand_in` beside `beacon_app.py` serves the app and prints `READY http://…`. Everything ends with its standard input.
"""
