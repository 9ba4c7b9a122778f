"""docs/judge.md: its Python runs, against a real server and in transformers' own Trainer."""

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

import run_folder
from judge_server import by_reference, judge_server
from judged_pairs import ROWS, write_answers
from paths import ROOT

PAGE = ROOT / "docs" / "judge.md"


def test_the_pages_python_runs_also_in_a_trainer(
    tiny_folder: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run is judged; a callback judges at each evaluation, and its planted pairs are asked about once."""
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    write_answers(run_folder.write_run(tmp_path / "runs" / "demo"), tuned=0.1, base=0.5)
    known: dict[str, Any] = {}
    with judge_server(by_reference) as served:
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            exec(compile(block.replace("http://127.0.0.1:8000", served.url), str(PAGE), "exec"), known)
        assert capsys.readouterr().out.startswith("better ")
        tiny_tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_folder)
        texts = [tiny_tokenizer(row["answer"])["input_ids"][:16] for row in ROWS[:8]]
        rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in texts])
        before = len(served.requests)
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path / "out"), per_device_train_batch_size=1, max_steps=4, eval_strategy="steps",
                eval_steps=1, per_device_eval_batch_size=1, use_cpu=True, report_to=[], save_strategy="no",
                learning_rate=0.1, disable_tqdm=True,
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tiny_tokenizer,
            callbacks=[known["JudgeAnswers"](ROWS[:12])],
        ).train()  # fmt: skip
    shown = re.findall(r"^(\d) (better|worse|not shown|none)", capsys.readouterr().out, re.MULTILINE)
    assert [step for step, _ in shown] == ["2", "3", "4"]
    planted = [body["messages"][0]["content"] for body in served.requests[before:]]
    assert len(planted) == len(set(planted))
