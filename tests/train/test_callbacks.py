"""Questions asked during training, and the whole pipeline with an adapter: what is recorded, shown, and resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from run_folder import run_answers, write_run
from seodang.errors import RecipeError, ResourceError
from seodang.json_values import to_json
from seodang.pipeline import tune
from seodang.recipe import Template, load_recipe
from seodang.run.events import AnswersEvent, GivenAnswer
from seodang.run.folder import Run
from seodang.show.report import report
from tiny_recipe import tiny_recipe

pytestmark = pytest.mark.usefixtures("no_report")


def _asked(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.read_lines("metrics.jsonl") if event["event"] == "answers"]


class _StopAfter(TrainerCallback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step == self.step:
            raise KeyboardInterrupt
        return control


@pytest.fixture(scope="module")
def asked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that trained an adapter and was asked every second step."""
    folder = tmp_path_factory.mktemp("asked")
    return tune(tiny_recipe(folder, tiny_folder, adapter={"rank": 4, "dropout": 0.1}), out=folder / "run")


def test_the_domain_and_general_questions_are_asked_every_so_many_steps(asked: Run) -> None:
    """Each event holds the answers to both kinds, and neither holdout nor repeated questions."""
    events = _asked(asked)
    assert [event["step"] for event in events] == [2, 4, 6]
    for event in events:
        assert [(answer["kind"], answer["question"]) for answer in event["answers"]] == [
            ("domain", "약은 무엇인가요?"), ("general", "사과는 왜 빨간가요?"),
        ]  # fmt: skip
        assert all(set(answer) == {"kind", "question", "text", "stopped"} for answer in event["answers"])
    board = EventAccumulator(str(asked.folder / "tensorboard")).Reload()
    losses = board.Scalars("eval/medical/loss")
    assert [loss.step for loss in losses] == [0, 2, 4, 6], "the base's evaluation is step 0"
    assert any("사과는 왜 빨간가요?" in tag for tag in board.Tags()["tensors"])


def test_asking_changes_neither_weights_nor_speed(asked: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """The same run without questions ends in the same adapter, bit for bit; the time asked is no training time."""
    silent = tune(
        tiny_recipe(tmp_path, tiny_folder, adapter={"rank": 4, "dropout": 0.1}, ask_every=None), out=tmp_path / "run"
    )
    assert not _asked(silent)
    name = "adapter_model.safetensors"
    assert (silent.adapter / name).read_bytes() == (asked.adapter / name).read_bytes()
    steps = [event for event in asked.read_lines("metrics.jsonl") if event["event"] == "train"]
    assert all(event["seconds"] > 1e-3 for event in steps)


def test_a_run_with_an_adapter_leaves_it_and_the_merged_model(asked: Run, tiny_folder: Path) -> None:
    """model/ loads plainly and is what was measured; adapter/ on the base gives the same logits."""
    peft = pytest.importorskip("peft")
    ids = torch.tensor([[2, 5, 30, 6, 40, 41]])
    merged = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    with torch.no_grad():
        before = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, str(asked.adapter)).eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - before).abs().max() > 0.01
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    rows = (merged.get_input_embeddings().weight != plain.get_input_embeddings().weight).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [5, 6], "the markers of a template that is new to the base, no others"
    proof = asked.read_json("proof.json")["sources"]["medical"]
    assert proof["change"]["value"] < 0
    checkpoint = asked.last_checkpoint()
    assert checkpoint
    assert not (checkpoint / "model.safetensors").exists()


def test_a_stopped_run_with_an_adapter_goes_on_and_asks_once(asked: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """Killed after step 5 and resumed, the run has the unbroken one's adapter, and every answer once."""
    recipe = tiny_recipe(tmp_path, tiny_folder, adapter={"rank": 4, "dropout": 0.1})
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, out=tmp_path / "run", callbacks=[_StopAfter(5)])
    again = tune(recipe, out=tmp_path / "run", resume=True)
    name = "adapter_model.safetensors"
    assert (again.adapter / name).read_bytes() == (asked.adapter / name).read_bytes()
    answered = [{**event, "seconds": 0} for event in _asked(again)]
    assert answered == [{**event, "seconds": 0} for event in _asked(asked)]
    proof = again.read_json("proof.json")["sources"]["medical"]["tuned"]["nats_per_token"]
    (again.folder / "proof.json").unlink()
    measured = tune(recipe, out=tmp_path / "run", resume=True).read_json("proof.json")["sources"]["medical"]
    assert measured["tuned"]["nats_per_token"] == pytest.approx(proof, rel=1e-6), (
        "what was trained is read, not trained again"
    )


def test_added_tokens_are_trained_with_the_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    """Markers that the vocabulary lacks are added, trained and merged; the same recipe gives the same rows again."""
    template = tmp_path / "own.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|done|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}",
        encoding="utf-8",
    )
    recipe = tiny_recipe(tmp_path, tiny_folder, adapter={"rank": 4})
    recipe = recipe.model_copy(update={"template": Template(borrow=str(template), add_tokens=True)})
    first, second = (tune(recipe, out=tmp_path / name) for name in ("a", "b"))
    name = "adapter_model.safetensors"
    assert (first.adapter / name).read_bytes() == (second.adapter / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(first.model)
    model = AutoModelForCausalLM.from_pretrained(first.model, dtype=torch.float32)
    assert tokenizer.convert_tokens_to_ids(["<|turn|>", "<|done|>"]) == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert len(model.get_input_embeddings().weight) == len(tokenizer)
    peft = pytest.importorskip("peft")
    shutil.copytree(first.model, tmp_path / "pushed", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    shutil.copytree(first.adapter, tmp_path / "pushed", dirs_exist_ok=True)
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "pushed", dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "약은요?"}], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_ask_every_without_questions_is_a_fault() -> None:
    """A recipe that asks during training needs a question to ask."""
    data = {
        "name": "a",
        "model": "m",
        "sources": [{"name": "medical", "role": "domain", "path": "a.jsonl"}],
        "train": {"ask_every": 5},
    }
    with pytest.raises(RecipeError, match=r"train\.ask_every: there is nothing to ask"):
        load_recipe(data)


def test_an_adapter_that_cannot_be_trained_here_leaves_no_folder(tiny_folder: Path, tmp_path: Path) -> None:
    """qlora where its package or a GPU is missing is refused before data is prepared."""
    recipe = tiny_recipe(tmp_path, tiny_folder, adapter={"kind": "qlora"})
    with pytest.raises(ResourceError, match=r"qlora needs (bitsandbytes|a CUDA device)"):
        tune(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_report_shows_how_an_answer_changed(tmp_path: Path) -> None:
    """From the base's answer on, in the order of steps; what stayed the same stands once, markup is escaped."""
    folder = write_run(tmp_path / "run")
    base = next(answer for answer in run_answers() if answer.kind == "general" and answer.model == "base")
    texts = {20: base.text, 40: "<b>빨간</b> 사과", 60: "안토시아닌 때문입니다.", 80: "안토시아닌 때문입니다."}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        for step, text in texts.items():
            stopped = base.stopped or step > 40
            answer = GivenAnswer(kind="general", question=base.question, text=text, stopped=stopped)
            event = AnswersEvent(step=step, answers=(answer,), seconds=1.0)
            lines.write(json.dumps(to_json(event), ensure_ascii=False) + "\n")
    page = report(folder, "en").read_text(encoding="utf-8")
    course = page[page.index('<section id="course">') : page.index('<section id="repeat">')]
    order = [course.index(f">{when}<") for when in ("base to step 20", "step 40", "step 60 to 80")]
    assert order == sorted(order)
    assert "&lt;b&gt;빨간&lt;/b&gt; 사과" in course
    assert course.count("안토시아닌") == 1


def test_a_report_without_such_answers_has_no_such_section(tmp_path: Path) -> None:
    """Nothing is shown, nor missed, where nothing was asked during training."""
    page = report(write_run(tmp_path / "run"), "en").read_text(encoding="utf-8")
    assert 'href="#course"' not in page
    assert "Answers during training" not in page
