"""How the server samples answers when a request does not say: as the run's folder says?"""

from collections.abc import Sequence

from seodang.serve.engines import SamplingDefaults
from seodang.serve.verify.answers import Asked
from seodang.serve.verify.endpoint import Endpoint
from seodang.serve.verify.reference import Reference
from seodang.serve.verify.result import Cause

_NAMES = {  # llama.cpp's name → ours
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repeat_penalty": "repetition_penalty",
}
_CLOSE = 1e-3  # llama.cpp reports float32 values
_HINT = "start the server by `seodang serve`, or give it the settings of generation_config.json"


def check_sampling(
    endpoint: Endpoint, reference: Reference, asked: Sequence[Asked]
) -> tuple[tuple[Cause, ...], tuple[str, ...]]:
    """(causes, notes): by the settings that the server shows, else by a request that names none."""
    expected = reference.served.sampling
    if expected is None:
        return (), ("the model's folder is not here: sampling defaults were not compared",)
    shown = endpoint.properties().get("default_generation_settings")
    if isinstance(shown, dict):
        return _compare(expected, shown.get("params", shown)), ()
    if expected.temperature > 0:
        return (), ("the server shows no sampling defaults: they were not compared",)
    same = next((each for each in asked if each.is_same), None)
    if same is None:
        return (), ()
    turns = [{"role": "user", "content": same.expected.question}]
    if endpoint.reply(turns, max_tokens=same.expected.max_tokens).text == same.reply.text:
        return (), ()
    what = "without a temperature in the request, answers are sampled; the run's are greedy"
    return (Cause(name="sampling", what=what, hint=_HINT),), ()


def _compare(expected: SamplingDefaults, shown: dict[str, object]) -> tuple[Cause, ...]:
    different = []
    for theirs, ours in _NAMES.items():
        own, served = getattr(expected, ours), shown.get(theirs)
        if expected.temperature == 0 and ours in ("top_p", "top_k"):  # without effect on greedy answers
            continue
        if isinstance(served, int | float) and abs(served - own) > _CLOSE:
            different.append(f"{ours} {served:g} (not {own:g})")
    if not different:
        return ()
    return (Cause(name="sampling", what=f"the server's defaults: {', '.join(different)}", hint=_HINT),)
