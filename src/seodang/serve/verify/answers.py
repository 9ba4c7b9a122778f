"""Greedy answers of the server against the run's, and what the run's model makes of each served token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seodang.model.generate.batch import answer_logits
from seodang.model.save import end_ids
from seodang.serve.verify.endpoint import Endpoint, ServedReply, ServedToken
from seodang.serve.verify.prompts import Render
from seodang.serve.verify.reference import Expected, Reference
from seodang.serve.verify.result import AnswerCheck

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_CANDIDATES = 8  # likelier tokens that are looked at, to see whether a text was written in them
PENALTIES = tuple(step / 100 for step in range(50, 201) if step % 5 == 0 or 100 <= step <= 130)  # that are tried


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question, the run's answer and the server's."""

    expected: Expected
    reply: ServedReply
    ids: tuple[int, ...]  # of the served text
    first_difference: int | None  # token position; None: the same text
    served_gap: float | None = None  # nats between the two tokens there, by the engine; None: it does not report it

    @property
    def is_same(self) -> bool:
        return self.first_difference is None and self.expected.stopped == self.reply.stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class Forced:
    """A served answer as the run's model sees it, token by token."""

    gaps: tuple[float, ...]  # nats by which its own choice is likelier than the served token; 0: the same token
    missed_stop: float | None  # where the server continued: nats by which the model would rather have ended the answer
    early_stop: float | None  # gap where the server ended the answer but the model would have continued
    noise: float | None  # root mean square of served minus own log-probabilities; None: the engine gives none
    misfits: tuple[int, ...]  # for each of PENALTIES: tokens that are not the likeliest under it

    @property
    def first_gap(self) -> float:
        """Nats at the first token that is not the model's choice: later ones follow another text."""
        beyond = self.missed_stop if self.missed_stop is not None else self.early_stop
        return next((gap for gap in self.gaps if gap > 0), beyond or 0.0)

    @property
    def misfit_share(self) -> float:
        return sum(gap > 0 for gap in self.gaps) / max(1, len(self.gaps))


def ask_all(reference: Reference, endpoint: Endpoint, number: int) -> list[Asked]:
    """Ask the server what the run's model was asked, greedily.

    Raises:
        SeodangError: the server refuses, or the run's model is needed and cannot be loaded.
    """
    found = []
    for expected in reference.expected(number):
        turns = [{"role": "user", "content": expected.question}]
        reply = endpoint.reply(turns, max_tokens=expected.max_tokens, temperature=0)
        found.append(compare(reference, expected, reply))
    return found


def compare(reference: Reference, expected: Expected, reply: ServedReply) -> Asked:
    """A served answer against the expected one, token by token."""
    ids = _whole_ids(reference, reply.text, stopped=reply.stopped)
    own = _whole_ids(reference, expected.text, stopped=expected.stopped)
    if not expected.stopped:
        length = min(len(own), len(ids))
        own, ids = own[:length], ids[:length]
    parted = next((place for place, pair in enumerate(zip(own, ids, strict=False)) if pair[0] != pair[1]), None)
    if parted is None and len(own) != len(ids):
        parted = min(len(own), len(ids))
    gap = None if parted is None else served_gap(reference, own, ids, parted, reply.tokens)
    return Asked(expected=expected, reply=reply, ids=tuple(ids), first_difference=parted, served_gap=gap)


def force(reference: Reference, asked: Asked, render: Render) -> Forced:
    """Give a served answer to the run's own model.

    Args:
        render: makes the prompt that the server was given.
    """
    import torch

    chat_model = reference.load()
    prompt = render([{"role": "user", "content": asked.expected.question}], None)
    ids, plain = _tokens_of(reference, chat_model.model, prompt, asked.ids)  # plain: [answer + 1, vocabulary]
    ends = end_ids(chat_model.model, chat_model.turn_end_id)
    seen = _seen(prompt, ids, plain.shape[1])
    scores = torch.log_softmax(_penalized(plain, seen, reference.penalty), dim=-1)
    best, top = scores.max(dim=-1)
    is_end = torch.isin(top, torch.tensor(ends))
    steps = len(ids)
    # behind a stop that the server did not make its text is no longer what it wrote: end tokens leave no text
    until = int(is_end[:steps].nonzero()[0]) if bool(is_end[:steps].any()) else steps
    targets = torch.tensor(ids[:until], dtype=torch.long)
    gaps = best[:until] - scores[:until].gather(1, targets[:, None])[:, 0]
    missed = early = None
    if until < steps:
        others = scores[until].index_fill(0, torch.tensor(ends), float("-inf"))
        missed = float(best[until] - others.max())  # not the served token: an end may stand there as text
    elif asked.reply.stopped and not bool(is_end[steps]):
        early = float(best[steps] - scores[steps, ends].max())
    return Forced(
        gaps=tuple(gaps.tolist()),
        missed_stop=missed,
        early_stop=early,
        noise=_noise([token.logprob for token in asked.reply.tokens], torch.log_softmax(plain, dim=-1), targets),
        misfits=tuple(_misfits(plain[:until], seen[:until], targets, penalty) for penalty in PENALTIES),
    )


def answer_check(asked: Asked, forced: Forced | None) -> AnswerCheck:
    """One answer of the result."""
    place = asked.first_difference
    return AnswerCheck(
        question=asked.expected.question,
        expected=asked.expected.text,
        served=asked.reply.text,
        tokens=len(asked.ids),
        first_difference=place,
        gap=forced.first_gap if forced and place is not None else asked.served_gap,
        expected_stop=asked.expected.stopped,
        served_stop=asked.reply.stopped,
    )


def _tokens_of(
    reference: Reference, model: "PreTrainedModel", prompt: Sequence[int], ids: Sequence[int]
) -> "tuple[list[int], Tensor]":
    """The tokens that a text was most likely written in, and the logits in front of each and behind the last.

    A model may write a text in other tokens than the tokenizer reads it in. Where a likelier token begins the rest of
    the text, that one is taken, and the rest is read anew.
    """
    tokenizer, found, start = reference.tokenizer, list(ids), 0
    text = tokenizer.decode(found, clean_up_tokenization_spaces=False)
    for _ in range(len(ids) + 1):
        logits = answer_logits(model, prompt, found)
        other = None
        for place in range(start, len(found)):
            likelier = logits[place].topk(_CANDIDATES)
            served = logits[place, found[place]]
            for score, token in zip(likelier.values.tolist(), likelier.indices.tolist(), strict=True):
                if score <= served:
                    break
                written = tokenizer.decode([*found[:place], token], clean_up_tokenization_spaces=False)
                if text.startswith(written) and len(written) > len(tokenizer.decode(found[:place])):
                    other = [*found[:place], token, *reference.text_ids(text[len(written) :])]
                    start = place + 1
                    break
            if other:
                break
        if other is None:
            break
        found = other
    return found, logits


def served_gap(
    reference: Reference, own: Sequence[int], ids: Sequence[int], place: int, tokens: Sequence[ServedToken]
) -> float | None:
    """Nats between the served token and the run's at the first difference, by the engine's log-probabilities.

    None where it does not report the run's token, one of the answers has ended there, or the text before was written
    in other tokens.
    """
    if place >= min(len(own), len(ids), len(tokens)):
        return None
    before, wanted = (reference.tokenizer.decode(each) for each in (ids[:place], own[place : place + 1]))
    other = tokens[place].likeliest.get(wanted)
    if other is None or "".join(token.text for token in tokens[:place]) != before:
        return None
    return abs(tokens[place].logprob - other)


def _whole_ids(reference: Reference, text: str, *, stopped: bool) -> list[int]:
    """Ids of a text; of one that was cut off, perhaps within a word or a character, without what may be half of one."""
    ids = reference.text_ids(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return ids if stopped else ids[:-1]


def _seen(prompt: Sequence[int], answer: Sequence[int], vocabulary: int) -> "Tensor":
    """[answer + 1, vocabulary] bool: the tokens that stand in front of each position, which a penalty counts."""
    import torch

    seen = torch.zeros(len(answer) + 1, vocabulary, dtype=torch.bool)
    seen[:, torch.tensor(prompt, dtype=torch.long)] = True
    for place, token in enumerate(answer):
        seen[place + 1 :, token] = True
    return seen


def _penalized(logits: "Tensor", seen: "Tensor", penalty: float) -> "Tensor":
    """As transformers' repetition penalty: positive logits are divided, negative ones multiplied."""
    import torch

    if penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _misfits(logits: "Tensor", seen: "Tensor", targets: "Tensor", penalty: float) -> int:
    return int((_penalized(logits, seen, penalty).argmax(dim=-1) != targets).sum())


def _noise(served: Sequence[float], scores: "Tensor", targets: "Tensor") -> float | None:
    """How far served log-probabilities are from the model's own, over the tokens of both."""
    import torch

    if len(served) < len(targets) or not len(targets):
        return None
    own = scores[: len(targets)].gather(1, targets[:, None])[:, 0]
    return float((torch.tensor(served[: len(targets)]) - own).square().mean().sqrt())
