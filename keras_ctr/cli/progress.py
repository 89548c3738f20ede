"""Progress bars with an estimate of the time left, on the error stream so that results can be piped."""

import sys
from contextlib import contextmanager

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)


@contextmanager
def progress_bars(quiet=False):
    """Yields a `rich.progress.Progress`; with `quiet` it draws nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=quiet, transient=not sys.stderr.isatty()) as progress:
        yield progress


def row_progress(progress):
    """Returns a function `report(done, total, what)` that keeps one bar for every `what`."""
    tasks = {}

    def report(done, total, what):
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total, note="rows")
        progress.update(tasks[what], completed=done, total=total)

    return report


class TrainingProgress(keras.callbacks.Callback):
    """One bar over all steps of a training, with the last epoch's validation result beside it.

    Args:
        progress: A `rich.progress.Progress`.
        description: Text before the bar.
        steps_per_epoch: Steps of an epoch.
        epochs: Most epochs; a training that stops early ends its bar early.
        monitor: Name in `logs` shown after each epoch.
    """

    def __init__(self, progress, description, *, steps_per_epoch, epochs, monitor="val_auc"):
        super().__init__()
        self.progress, self.monitor, self.epochs = progress, monitor, epochs
        self.steps_per_epoch = steps_per_epoch
        self.task = progress.add_task(description, total=steps_per_epoch * epochs, note="steps")
        self.done = 0

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.done += 1
        if self.done % 4 == 0:
            self.progress.update(self.task, completed=self.done)

    def on_epoch_end(self, epoch, logs=None):
        """Shows the epoch and its validation result."""
        value = (logs or {}).get(self.monitor)
        note = f"epoch {epoch + 1}" + (f" {self.monitor} {value:.4f}" if value is not None else "")
        self.progress.update(self.task, completed=self.done, note=note)

    def on_train_end(self, logs=None):
        """Ends the bar where training ended."""
        self.progress.update(self.task, completed=self.done, total=self.done)
