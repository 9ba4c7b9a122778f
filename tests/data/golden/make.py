"""Writes renders.json: what the makers' own templates and tokenizers make of our rows (needs ../shared; run by hand).

python tests/data/golden/make.py ../shared/data/tokenizers
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
PLAIN = ("ko_question", "en_question", "rounds", "system", "white_space", "symbols")
WANTED = {  # built-in template → tokenizer folder and the rows that its maker's template takes
    "gemma": ("gemma3", PLAIN),
    "llama3": ("llama3_1", PLAIN),
    "qwen3": ("qwen3", (*PLAIN, "thought", "thought_in_text", "tools", "tools_twice")),
}


def main(folder: Path) -> None:
    """Render and tokenize every row with apply_chat_template."""
    rows = json.loads((HERE / "rows.json").read_text(encoding="utf-8"))
    renders: dict[str, dict[str, dict[str, object]]] = {}
    for name, (tokenizer_name, wanted) in WANTED.items():
        tokenizer = AutoTokenizer.from_pretrained(folder / tokenizer_name)
        renders[name] = {}
        for row in wanted:
            messages, tools = rows[row]["messages"], rows[row].get("tools")
            renders[name][row] = {
                "text": tokenizer.apply_chat_template(messages, tools, tokenize=False),
                "ids": tokenizer.apply_chat_template(messages, tools)["input_ids"],
            }
    lines = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(
            f"    {json.dumps(row)}: {json.dumps(made, ensure_ascii=False, separators=(',', ':'))}"
            for row, made in of.items()
        )
        + "\n  }"
        for name, of in renders.items()
    ]
    (HERE / "renders.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
