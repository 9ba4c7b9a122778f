"""The commands that use a model: talk to it, serve, verify and publish it."""

from pathlib import Path
from typing import Annotated

import typer

from seodang.cli.app import app
from seodang.cli.options import TrustOption, show_without_dry_run


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run's folder, or a model.")],
    base: Annotated[bool, typer.Option("--base", help="Talk to the run's base model.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Ask base and tuned model in turn.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Talk to a model in the terminal."""
    from seodang.serve.chat import chat

    chat(model, base=base, both=both, trust_remote_code=trust_remote_code)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run's folder, a model, or a GGUF file.")],
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="auto, vllm, sglang, llama.cpp or transformers.")
    ] = "auto",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", metavar="FILE", help="The model's weights as a GGUF file, for llama.cpp.")
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a model over HTTP, OpenAI-compatible, by an existing engine.

    The API key that clients must send is taken from the environment variable SEODANG_API_KEY.
    """
    from seodang.serve.server import serve

    serve(model, engine=engine, host=host, port=port, gguf=gguf, trust_remote_code=trust_remote_code)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(metavar="URL|FOLDER", help="An OpenAI-compatible server, or a folder.")],
    run: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="What was proven: a run's folder, or a model.")],
    questions: Annotated[int, typer.Option("--questions", min=1, help="Questions that are answered greedily.")] = 8,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Name of the served model. [default: the run's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Check whether what is served is what was proven; exit code 1 if it is different.

    The server's API key is taken from the environment variable SEODANG_API_KEY.
    """
    from seodang.json_values import json_text, to_json
    from seodang.serve.verify.verify import show_verification, verify

    found = verify(target, run, questions=questions, model=model, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json_text(to_json(found), where="verify", indent=1))
    else:
        show_verification(found)
    if found.verdict == "different":
        raise typer.Exit(1)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="On the hub: NAME or OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="Push the adapter instead of the merged model.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go and show the card.")] = False,
) -> None:
    """Upload model, tokenizer, template and a model card to the hub."""
    from seodang.publish.hub import push, show_push

    show_push(push(run, repo, private=private, adapter=adapter, dry_run=dry_run))
    if dry_run:
        show_without_dry_run("upload it")
