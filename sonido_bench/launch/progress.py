"""How far a benchmark is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["PhaseProgress"]

LINE_SECONDS = 15.0
"""Between two lines where there is no terminal (a log file, CI)."""


class PhaseProgress:
    """Progress of one phase (rendering, extracting, training): done / total and the time left.

    Args:
        phase: Its name.
        total: Jobs of this phase that are to be done now.
        already: Jobs that an earlier call has done; they count as done, but not for the time left.
    """

    def __init__(self, phase: str, total: int, already: int = 0) -> None:
        self._phase, self._total, self._done, self._already = phase, total, 0, already
        self._start = self._last_line = time.monotonic()
        columns = [
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[latest]}"),
        ]  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None
        self._task = (
            self._bar.add_task(phase, total=total + already, completed=already, latest="") if self._bar else None
        )

    def __enter__(self) -> "PhaseProgress":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar, or a last line, as it stands."""
        if self._bar:
            self._bar.stop()
        elif self._done:
            self._print_line()

    def advance(self, latest: str = "") -> None:
        """Count one more as done; ``latest`` names it."""
        self._done += 1
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=1, latest=latest)
        elif time.monotonic() - self._last_line > LINE_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        left = elapsed / self._done * (self._total - self._done)
        counts = f"{self._already + self._done}/{self._already + self._total}"
        print(f"{self._phase}: {counts}, {elapsed:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)
