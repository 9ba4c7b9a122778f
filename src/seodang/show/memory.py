"""What training takes of memory, as a table or in a line."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from seodang.show import tables

if TYPE_CHECKING:
    from seodang.train.resources import Fit


def show_memory(found: "Fit | None", *, whole: bool = True, out: Console | None = None) -> None:
    """Bytes by what they are for: as a table, or in one line. Nothing where there is no estimate."""
    out = out or tables.console()
    if found is None:
        return
    if not whole:
        out.print(Text(found.line, style="dim"))
        return
    taken = found.taken
    parts = {
        "weights": taken.weights,
        "gradients": taken.gradients,
        "optimizer": taken.states,
        "activations": taken.activations,
        "logits": taken.logits,
        "process": found.process,
        "peak": found.peak,
        "available": found.available,
    }
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in parts:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(
        *(Text(f"{size / 1e9:.2f} GB", style="bold" if name == "peak" else "") for name, size in parts.items())
    )
    out.print()
    out.print(Rule(Text("memory of training, estimated", style="bold"), align="left", style="dim", characters="─"))
    out.print(table)
    told = (
        f"{found.pack_tokens:,} tokens a pack, the largest holds {found.positions:,}; "
        f"gradient checkpointing: {found.checkpointing}. Not all of it is taken at the same time."
    )
    out.print(Text(told, style="dim"))
