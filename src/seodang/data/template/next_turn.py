"""Templates that end an answer with nothing of its own, but with the token that opens the turn after it.

GLM's, for example: the model stops when it writes who speaks next::

    <|user|>\nq<|assistant|>\na<|user|>\n…          after an answer
    <|assistant|>\n<tool_call>f</tool_call><|observation|>\n…   after a call

In such a template nothing follows the last answer of a conversation, so the model would not learn to stop there. The
template is made to write that token behind the last answer too. What it writes for a prompt stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seodang.data.template.jinja import Turn, compile_template, literal, run
from seodang.data.template.probe import ANSWER, CALL, QUESTION
from seodang.errors import TemplateError

if TYPE_CHECKING:
    from jinja2 import Template

REPORT, NEXT = "it is a colour", "and what is green"
_USER: Turn = {"role": "user", "content": QUESTION}
_ANSWERED: Sequence[Turn] = (_USER, {"role": "assistant", "content": ANSWER})
_CALLED: Sequence[Turn] = (_USER, {"role": "assistant", "content": "", "tool_calls": [CALL]})
_NEXT: Turn = {"role": "user", "content": NEXT}
_REPORT: Turn = {"role": "tool", "content": REPORT, "name": CALL["function"]["name"], "tool_call_id": CALL["id"]}

FindTokens = Callable[[str], Sequence[str]]  # text → its control tokens, in their order


def with_last_end(text: str, variables: Mapping[str, Any], find_tokens: FindTokens) -> str:
    """The template as it ends the last answer with what ends the earlier ones; as it is where it ends it already.

    A template that closes a question with a token of its own, but no answer, has a mistake, and stays as it is too.

    Args:
        text: the template.
        variables: what it is rendered with.
    """
    template = compile_template(text)
    end = _opening(template, _ANSWERED, _NEXT, NEXT, variables, find_tokens)
    if (
        not end
        or end.strip() == variables.get("bos_token")
        or _closes_questions_alone(template, end, variables, find_tokens)
    ):
        return text
    call_end = _opening(template, _CALLED, _REPORT, REPORT, variables, find_tokens)
    # one line break at the end of a template is not written; an expression keeps the white space in front of it
    return (
        text.removesuffix("\n")
        + "{{ '' if add_generation_prompt or not messages or messages[-1]['role'] != 'assistant' else "
        + f"{literal(call_end)} if messages[-1]['tool_calls'] else {literal(end)} }}}}"
    )


def _closes_questions_alone(
    template: "Template", end: str, variables: Mapping[str, Any], find_tokens: FindTokens
) -> bool:
    """Whether a question ends with a token that does not end answers."""
    asked = run(template, [_USER], variables=variables)
    closing = find_tokens(asked[asked.index(_USER["content"]) + len(_USER["content"]) :])
    return bool(closing) and closing[0] != end.strip()


def _opening(
    template: "Template",
    messages: Sequence[Turn],
    after: Turn,
    content: str,
    variables: Mapping[str, Any],
    find_tokens: FindTokens,
) -> str:
    """What is written behind the last turn where another comes after it: up to the control token that opens that one.

    Blank if no control token opens it, or if something ends the last turn already.

    Args:
        content: of the turn after it.
    """
    try:
        whole, longer = (run(template, turns, variables=variables) for turns in (messages, [*messages, after]))
    except TemplateError:
        return ""
    bare = whole.rstrip()
    said = str(messages[-1]["content"])
    if (said and not bare.endswith(said)) or not longer.startswith(bare) or content not in longer[len(bare) :]:
        return ""
    gap = longer[len(bare) : longer.index(content, len(bare))]
    tokens = [name for name in find_tokens(gap) if gap.lstrip().startswith(name)]
    written = whole[len(bare) :]
    if not tokens or not gap.startswith(written):
        return ""
    return gap[len(written) : gap.index(tokens[0]) + len(tokens[0])]
