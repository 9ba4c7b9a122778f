"""Is what is served what was proven? An endpoint, or a folder, against a run."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from seodang.errors import SeodangError
from seodang.judge.client import checked_key
from seodang.model.packaged import PREFIX
from seodang.serve.engines import API_KEY
from seodang.serve.verify.answers import Asked, Forced, answer_check, ask_all, compare, force
from seodang.serve.verify.cause import NEAR_TIE, QUANTIZED, Comparison, causes, is_near_tie, stored_as
from seodang.serve.verify.endpoint import Endpoint, open_endpoint
from seodang.serve.verify.prompts import PromptFindings, check_prompts
from seodang.serve.verify.reference import Reference, load_reference
from seodang.serve.verify.result import Cause, Verdict, Verification
from seodang.serve.verify.sampling_defaults import check_sampling
from seodang.serve.verify.weights import verify_folder
from seodang.show.formatting import visible
from seodang.show.terminal.console import get_console
from seodang.user_paths import expanded

NUM_QUESTIONS = 8
_NUM_MEASURED = 2  # answers that are the same, whose log-probabilities are compared where the weights are loaded anyway


def verify(
    target: str | Path,
    run: str | Path,
    *,
    questions: int = NUM_QUESTIONS,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Verification:
    """Compare an endpoint or a model's folder with a run.

    The run's weights are loaded only where answers have to be generated, or differ.

    Args:
        target: the URL of an OpenAI-compatible server (its key is taken from SEODANG_API_KEY), or a folder.
        run: a run's folder; or an instruct model: folder, hub id or package.
        questions: how many are answered greedily.
        model: the name under which the server serves it; none: the run's, or the only one there is.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        SeodangError: the server cannot be asked, the folder or the run cannot be read.
    """
    reference = load_reference(run, trust_remote_code=trust_remote_code)
    text = str(target)
    if "://" not in text:
        return verify_folder(expanded(text), reference)
    key = checked_key(os.environ.get(API_KEY), where=API_KEY)
    endpoint = open_endpoint(text, wanted=model, name=reference.served.name, api_key=key)
    return verify_endpoint(endpoint, reference, questions=questions)


def verify_endpoint(endpoint: Endpoint, reference: Reference, *, questions: int) -> Verification:
    """Prompts first, then answers behind the prompts that are served, then sampling settings."""
    prompts = check_prompts(reference, endpoint)
    asked = ask_all(reference, endpoint, questions)
    weights = endpoint.weights()
    is_quantized = reference.name.startswith(PREFIX) and stored_as(weights).startswith("Q")
    dtype = QUANTIZED if is_quantized else reference.dtype
    forced, notes = _forced(reference, asked, prompts, dtype)
    if is_quantized:
        what = f"the engine multiplies {stored_as(weights)} weights by values of 8 bits"
        notes = [*notes, f"{what}: answers may diverge at tokens up to {NEAR_TIE[QUANTIZED]:g} nats apart"]
    comparison = Comparison(
        asked=asked,
        forced=list(forced.values()),
        dtype=dtype,
        penalty=reference.penalty,
        weights=weights,
        is_drawn=_is_drawn(reference, endpoint, asked, dtype),
    )
    # behind other prompts answers differ too: they are judged where the served prompts are known
    of_answers = causes(comparison) if prompts.render and not (prompts.causes and not forced) else []
    sampling, sampling_notes = check_sampling(endpoint, reference, asked)
    found = (*prompts.causes, *of_answers, *sampling)
    return Verification(
        target=endpoint.url,
        run=reference.name,
        verdict=_verdict(found, asked),
        causes=found,
        prompts=prompts.checks,
        answers=tuple(answer_check(each, forced.get(place)) for place, each in enumerate(asked)),
        notes=(*prompts.notes, *notes, *sampling_notes),
    )


def show_verification(found: Verification) -> None:
    """The verdict, what differs, why, and how to fix it."""
    out = get_console()
    colour = {"same": "green", "same up to rounding": "green", "different": "red"}[found.verdict]
    out.print(Text(f"{found.target} against {found.run}: ").append(found.verdict, style=f"bold {colour}"))
    for cause in found.causes:
        out.print(Text(f"  {cause.name}: ", style="bold").append(visible(cause.what), style="not bold"))
        out.print(Text(f"  → {visible(cause.hint)}", style="yellow"))
    if found.prompts:
        out.print(_prompt_table(found))
    if found.answers:
        out.print(_answer_table(found))
    for note in found.notes:
        out.print(Text(f"· {visible(note)}", style="dim"))


def _forced(
    reference: Reference, asked: Sequence[Asked], prompts: PromptFindings, dtype: str
) -> tuple[dict[int, Forced], list[str]]:
    """What the run's model makes of the answers that differ, and of some others where the engine gives logprobs.

    Its weights are not loaded where the engine's log-probabilities already show near-ties.
    """
    if prompts.render is None:
        return {}, ["the served prompts are unknown: answers were compared as texts"]
    if reference.stored and is_near_tie(asked, dtype):
        return {}, []
    places = [place for place, each in enumerate(asked) if not each.is_same]
    if not reference.stored:
        with_logprobs = [place for place, each in enumerate(asked) if each.is_same and each.reply.tokens]
        places += with_logprobs[:_NUM_MEASURED]
    try:
        return {place: force(reference, asked[place], prompts.render) for place in places}, []
    except SeodangError as error:
        return {}, [f"the run's weights cannot be loaded ({error.what}): answers were compared as texts"]


def _is_drawn(reference: Reference, endpoint: Endpoint, asked: Sequence[Asked], dtype: str) -> bool:
    """Whether an answer that differs is another one when it is asked again, for more than rounding.

    llama.cpp computes a prompt that it remembers otherwise than a new one.
    """
    for each in asked:
        if not each.is_same:
            turns = [{"role": "user", "content": each.expected.question}]
            again = endpoint.reply(turns, max_tokens=each.expected.max_tokens, temperature=0)
            as_again = replace(each.expected, text=again.text, stopped=again.stopped)
            return not is_near_tie([compare(reference, as_again, each.reply)], dtype)
    return False


def _verdict(found: Sequence[Cause], asked: Sequence[Asked]) -> Verdict:
    if found:
        return "different"
    return "same" if all(each.is_same for each in asked) else "same up to rounding"


def _prompt_table(found: Verification) -> Table:
    table = Table("prompt", "tokens", "served", "same", box=None, pad_edge=False, header_style="dim")
    for check in found.prompts:
        served = "–" if check.served_tokens is None else str(check.served_tokens)
        table.add_row(check.name, str(check.expected_tokens), served, "yes" if check.is_same else "no")
    return table


def _answer_table(found: Verification) -> Table:
    table = Table("question", "tokens", "differs at", "gap", "stops", box=None, pad_edge=False, header_style="dim")
    for check in found.answers:
        place = "–" if check.first_difference is None else str(check.first_difference)
        gap = "–" if check.gap is None else f"{check.gap:.2g}"
        stops = "same" if check.expected_stop == check.served_stop else "different"
        table.add_row(visible(check.question)[:40], str(check.tokens), place, gap, stops)
    return table
