"""Lists of anything as a terminal table, Markdown, CSV or JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonido_bench.benchmark.tables import TableFormat, csv_table, markdown_table

__all__ = ["print_listing"]

PIPE_WIDTH = 200
"""Characters of a list that is not printed to a terminal: long enough not to wrap."""


def print_listing(rows: Sequence[Mapping[str, Any]], style: TableFormat = "table") -> None:
    """Print rows, all with the same columns, to standard output.

    Args:
        rows: Column to value.
        style: ``json`` gives ``{"schema": 1, "rows": [...]}``.
    """
    columns = list(rows[0]) if rows else []
    cells = [[str(value) for value in row.values()] for row in rows]
    if style == "json":
        print(json.dumps({"schema": 1, "rows": list(rows)}, indent=2))
    elif style == "csv":
        print(csv_table(columns, cells), end="")
    elif style == "markdown":
        print(markdown_table(columns, cells), end="")
    else:
        table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))
        for line in cells:
            table.add_row(*map(Text, line))
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
