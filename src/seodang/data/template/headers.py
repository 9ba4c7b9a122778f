"""Writes the chat template of a plain-text format (`### User:` … `### Assistant:`) from its headers."""

from seodang import recipe
from seodang.data.template.jinja import literal

ORIGIN = "headers of the recipe"


def from_headers(headers: recipe.Headers) -> str:
    """A chat template in which a header stands in front of every turn, and the end of text behind every answer.

    What stands between two turns is written in front of the later one, so that nothing follows the last turn's end. As
    a blank joins the next word in most vocabularies, one at the end of the assistant's header belongs to the answer.
    """
    texts = {"system": headers.system, "user": headers.user, "assistant": headers.assistant}
    names = ", ".join(f"'{role}': {literal(text)}" for role, text in texts.items() if text is not None)
    return (
        "{{- bos_token -}}\n"
        f"{{%- set headers = {{{names}}} -%}}\n"
        f"{{%- set between = {literal(headers.between)} -%}}\n"
        "{%- for turn in messages -%}\n"
        "    {%- if turn.role not in headers -%}\n"
        "        {{- raise_exception('template.headers has no header for the role ' + turn.role) -}}\n"
        "    {%- endif -%}\n"
        "    {%- if turn.tool_calls or turn.content is not string -%}\n"
        "        {{- raise_exception('this template has no tool calls') -}}\n"
        "    {%- endif -%}\n"
        "    {{- ('' if loop.first else between) + headers[turn.role] + (turn.content | trim) -}}\n"
        "    {{- eos_token if turn.role == 'assistant' else '' -}}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "    {{- (between if messages else '') + headers.assistant.rstrip(' ') -}}\n"
        "{%- endif -%}\n"
    )
