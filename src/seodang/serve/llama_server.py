"""llama.cpp's server as the package xllamacpp brings it, under the arguments of its own program `llama-server`.

``python -m seodang.serve.llama_server --model FILE …``; needs the extra `serve-gguf`.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def arguments(values: Sequence[str]) -> argparse.Namespace:
    """Those of llama-server's arguments that seodang gives."""
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=os.environ.get("LLAMA_ARG_THREADS"))  # llama.cpp's own name
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--jinja", action="store_true")
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--temp", type=float)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--min-p", type=float)
    parser.add_argument("--repeat-penalty", type=float)
    parser.add_argument("--repeat-last-n", type=int)
    return parser.parse_args(values)


def serve(given: argparse.Namespace, api_key: str | None) -> None:
    """Serve until the process is ended."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = given.model, {given.alias}
    params.hostnames, params.port = [given.host], given.port
    params.api_keys = [api_key] if api_key else []
    params.n_parallel, params.use_jinja = given.parallel, given.jinja
    if given.chat_template_file:
        params.chat_template = given.chat_template_file.read_text(encoding="utf-8")
    if given.threads:  # beside other work, more threads than free cores wait for each other: many times slower
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    names = {
        "temp": given.temp,
        "top_p": given.top_p,
        "top_k": given.top_k,
        "min_p": given.min_p,
        "penalty_repeat": given.repeat_penalty,
        "penalty_last_n": given.repeat_last_n,
    }
    for name, value in names.items():
        if value is not None:
            setattr(params.sampling, name, value)
    server = xllamacpp.Server(params)  # loads the model and listens, in threads of its own
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    serve(arguments(sys.argv[1:]), os.environ.get("LLAMA_API_KEY"))
