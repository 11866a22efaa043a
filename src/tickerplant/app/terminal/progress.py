"""Progress bars on stderr. They are drawn only on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tickerplant.app.terminal.output import console


class ProgressBars:
    """Progress bars for the block, one per label.

    Nothing is drawn if `quiet` is true or if stderr is not a terminal.
    """

    def __init__(self, labels: Sequence[str], *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        terminal = console(stderr=True)
        width = max(map(len, labels))
        self._progress = Progress(
            TextColumn(f"{{task.description:<{width}}}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=terminal,
            disable=quiet or not terminal.is_terminal,
            transient=True,
        )
        self._tasks = {label: self._progress.add_task(label, total=None, text="") for label in labels}

    def update(self, label: str, done: int, total: int | None, text: str = "") -> None:
        """Set a bar to `done` of `total`, and set the text beside the bar. `total` is None if it is unknown."""
        self._progress.update(self._tasks[label], completed=done, total=total, text=text)

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
