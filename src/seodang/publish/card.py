"""The model card: what the model is, what was gained and lost, from what data, how to load it.

Every figure is read from the run folder's files; the page itself is `card.md.jinja`. Knows no hub.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, Template

from seodang.hub_access.contact import HUB_ID
from seodang.json_values import to_json
from seodang.judge.criteria import is_medical, names_of
from seodang.judge.judgement import Judgement
from seodang.proof.behaviour import hangul_share
from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Proof
from seodang.proof.stability import Stability
from seodang.publish.base_model import GEMMA_NOTICE, BaseTerms, file_name, is_local
from seodang.recipe import Recipe, Source
from seodang.run.evidence import Evidence
from seodang.show import alpha_view, formatting, judged, sentences
from seodang.show.language import Texts
from seodang.show.report import proof_of
from seodang.types import Answer, SourceLengths

TAG = "seodang"  # by which a later push knows a repository of its own
ENGLISH = re.compile(r"\b(?:the|is|are|of|and|what|how)\b", re.IGNORECASE)
LANGUAGE_SHARE = 0.1  # of the questions, from which a language is named
QUESTION = "What can you do?"  # for the example where the recipe asks nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRow:
    """One source as the card shows it."""

    name: str
    role: str
    origin: str  # Markdown: files without their folders, or a link
    read: int | None
    trained: int | None
    held_out: int | None
    effects: str  # rows dropped and changed, and why


def card(
    evidence: Evidence,
    recipe: Recipe,
    base: BaseTerms,
    texts: Texts,
    *,
    repo: str,
    adapter: bool,
    has_template: bool,
) -> str:
    """The model card of a hub repository, in one language.

    Args:
        has_template: whether the model was taught to answer; else it was trained on text alone.
        repo: its id, for the example that loads it.
        adapter: whether it holds an adapter rather than the whole model.
    """
    proof, judgement = proof_of(evidence), judged.judgement_of(evidence)
    data = [_data_row(evidence, proof, source, texts) for source in recipe.sources]
    shown = published_recipe(recipe)
    return _page().render(
        metadata=metadata(recipe, base, languages(evidence.answers), adapter=adapter, has_template=has_template),
        recipe=recipe,
        base=base,
        repo=repo,
        adapter=adapter,
        has_template=has_template,
        manifest=to_json(evidence.manifest) if evidence.manifest else {},
        proof=proof,
        t=texts,
        say=sentences,
        judged=judged,
        judgement=judgement,
        alpha=alpha_view,
        curve=alpha_view.curve_of(evidence),
        parts=PARTS,
        alike=proof.stability.tuned if proof else None,
        limits=_limits(proof, judgement, texts),
        data=data,
        findings=[finding for finding in evidence.findings if finding.severity == "warn"],
        example=_example(recipe, repo, adapter=adapter) if has_template else _continued(recipe, repo),
        recipe_text=shown,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0)),
        is_medical=is_medical(*names_of(recipe)),
        gemma_notice=GEMMA_NOTICE,
    )


def _page() -> Template:
    environment = Environment(
        loader=PackageLoader("seodang.publish", ""),
        autoescape=False,  # Markdown; what comes from data passes through `plain`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        formatting.number,
        formatting.whole,
        formatting.percent,
        formatting.level,
        formatting.signed,
        plain,
        code,
        address,
    )
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template("card.md.jinja")


def metadata(recipe: Recipe, base: BaseTerms, spoken: Sequence[str], *, adapter: bool, has_template: bool) -> str:
    """The card's YAML header, without its dashes; what is not known stays out."""
    hub_data = [source.hub for source in recipe.sources if source.hub and source.is_trained]
    header: dict[str, Any] = {
        "base_model": base.hub,
        "base_model_relation": ("adapter" if adapter else "finetune") if base.hub else None,
        "datasets": hub_data,
        "language": list(spoken),
        "library_name": "peft" if adapter else "transformers",
        **base.license,
        "pipeline_tag": "text-generation",
        "tags": [TAG, *(["instruction-tuning", "conversational"] if has_template else ["continued-pretraining"])],
    }
    known = {key: value for key, value in header.items() if value}
    return yaml.safe_dump(known, allow_unicode=True, sort_keys=False)


def languages(answers: Sequence[Answer]) -> list[str]:
    """Korean and English, where at least a tenth of the questions (with their references) are in it; no other guess."""
    counts: Counter[str] = Counter()
    texts = {f"{answer.question}\n{answer.reference or ''}" for answer in answers}
    for text in texts:
        korean = (hangul_share(text) or 0) > 0.3
        counts["ko"] += korean
        counts["en"] += not korean and ENGLISH.search(text) is not None
    return [language for language in ("ko", "en") if counts[language] > LANGUAGE_SHARE * len(texts)]


def published_recipe(recipe: Recipe) -> str:
    """The recipe as YAML without its defaults, and without the folders of its files."""
    shown = recipe.model_dump(mode="json", exclude_defaults=True)
    shown["model"]["path"] = _shortened(recipe.model.path)
    shown.pop("judge", None)  # its address may be private
    if recipe.template.borrow:
        shown["template"]["borrow"] = _shortened(recipe.template.borrow)
    for source, part in zip(recipe.sources, shown["sources"], strict=True):
        if source.path:
            names = [_data_name(path) for path in source.path]
            part["path"] = names[0] if len(names) == 1 else names
    return yaml.safe_dump(shown, allow_unicode=True, sort_keys=False, width=100)


def plain(text: object) -> str:
    """Text of data as Markdown shows it: on one line, nothing in it read as markup or as a table's edge."""
    line = " ".join(formatting.visible(str(text)).split())
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(text: object) -> str:
    """Text of data as a Markdown code span, also in a table: one line, and fenced by more backticks than it holds."""
    line = " ".join(formatting.visible(str(text)).split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    edge = " " if not line or "`" in (line[0], line[-1]) else ""  # CommonMark strips one blank from both ends
    return f"{fence}{edge}{line}{edge}{fence}"


def address(text: object) -> str:
    """A web address as Markdown's autolink; anything else as plain text."""
    return f"<{text}>" if re.fullmatch(r"https?://[^\s<>\x00-\x1f]+", str(text)) else plain(text)


def _shortened(path: str) -> str:
    return file_name(path) if is_local(path) else path


def _data_name(path: str) -> str:
    return path if path.startswith("sample:") else file_name(path)


def _data_row(evidence: Evidence, proof: Proof | None, source: Source, texts: Texts) -> DataRow:
    counts = [row for row in evidence.counts if row.source == source.name]
    lengths = evidence.lengths

    def rows(measured: Mapping[str, SourceLengths]) -> int:
        return measured[source.name].tokens.count if source.name in measured else 0

    measured = proof.sources.get(source.name) if proof else None
    left_out, changed = _added(row.dropped for row in counts), _added(row.changed for row in counts)
    effects = [texts("card.left_out", rows=left_out)] if left_out else []
    effects += [texts("card.changed", rows=changed)] if changed else []
    return DataRow(
        name=source.name,
        role=source.role,
        origin=_origin(source),
        read=next((row.rows_in for row in counts if row.stage == "convert"), None),
        trained=rows(lengths.train) if lengths else None,
        held_out=measured.rows if measured else rows(lengths.holdout) if lengths else None,
        effects="; ".join(effects) or texts("card.nothing"),
    )


def _added(tables: Iterable[Mapping[str, int]]) -> str:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return ", ".join(f"{count:,} {plain(reason)}" for reason, count in total.items())


def _origin(source: Source) -> str:
    if source.hub:
        at = f" at {plain(source.revision)}" if source.revision else ""
        if not HUB_ID.fullmatch(source.hub):
            return code(source.hub) + at
        return f"[{source.hub}](https://huggingface.co/datasets/{source.hub}){at}"
    return ", ".join(code(_data_name(path)) for path in source.path or ())


def _limits(proof: Proof | None, judgement: Judgement | None, texts: Texts) -> list[str]:
    """What the figures do not show."""
    if not proof:
        return []
    unasked = ("repeat",) if proof.stability == Stability() else ()
    loss = "judged" if judgement and judgement.verdict != "none" else "loss"
    return [texts(f"card.limit_{limit}") for limit in (loss, "seed", "rows", "safety", *unasked)]


def _continued(recipe: Recipe, repo: str) -> str:
    """Python that loads the model, or its adapter, and has it continue a text."""
    code = ", trust_remote_code=True" if recipe.model.trust_remote_code else ""
    return (
        f'from transformers import pipeline\n\ncontinued = pipeline("text-generation", model="{repo}"{code})\n'
        'print(continued("…", max_new_tokens=256, do_sample=False)[0]["generated_text"])'
    )


def _example(recipe: Recipe, repo: str, *, adapter: bool) -> str:
    """Python that loads the model with its chat template and asks it one of the recipe's own questions."""
    question = next(iter((*recipe.ask.domain, *recipe.ask.general)), QUESTION)
    turns = [{"role": "system", "content": recipe.system}] if recipe.system else []
    turns.append({"role": "user", "content": question})
    messages = ",\n    ".join(json.dumps(turn, ensure_ascii=False) for turn in turns)
    code = ", trust_remote_code=True" if recipe.model.trust_remote_code else ""
    asked = f"messages = [\n    {messages},\n]"
    if not adapter:
        return (
            f'from transformers import pipeline\n\nchat = pipeline("text-generation", model="{repo}"{code})\n{asked}\n'
            'print(chat(messages, max_new_tokens=256, do_sample=False)[0]["generated_text"][-1]["content"])'
        )
    return (
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}"{code})\n'
        f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}"{code})\n{asked}\n'
        'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        "answer = model.generate(**prompt, max_new_tokens=256, do_sample=False, eos_token_id=tokenizer.eos_token_id)\n"
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
