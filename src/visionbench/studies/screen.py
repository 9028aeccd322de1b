"""How a study comes on: one live table on a terminal, or a line for each run."""

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from visionbench.studies.expand import PlannedRun, place_in_words
from visionbench.studies.results import Row
from visionbench.studies.spec import is_share
from visionbench.studies.tables import CellRuns, cells_of, measures_of
from visionbench.text import counted, duration

if TYPE_CHECKING:
    from visionbench.studies.runner import Runner

# Rows of the live table on a high terminal; those of cells that are being trained come first.
MAX_ROWS = 24
# Lines of a terminal that the rows leave to the title, the heading, the frame, the state and the prompt.
OTHER_LINES = 10
# Largest share of the time in which the table is made again: with a thousand runs, that takes a fifth of a second.
DRAWING_SHARE = 0.1


class Lines:
    """Prints a line for each run that has ended.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, runner: "Runner") -> None:
        """Says how much there is to do."""
        self._say(opening(runner))

    def changed(self, runner: "Runner", run: PlannedRun, row: Row | None, text: str) -> None:
        """Says how a run has ended."""
        if text == "started":
            return
        value = result_in_words(run, row)
        self._say(f"{progress(runner)} {run.id} {place_in_words(run)}: {text}{f', {value}' if value else ''}")

    def _say(self, line: str) -> None:
        self.console.print(line)
        self.console.file.flush()  # into a file or a pipe, hours of lines would otherwise wait for their block

    def stop(self, runner: "Runner") -> None:
        """Says what is waited for."""
        if runner.started:
            self._say(stopping(len(runner.started), runner.resumes))

    def end(self, runner: "Runner") -> None:
        """Prints what is to be known of the runs."""
        print_end(self.console, runner)


class Screen:
    """A table of the cells that is filled while runs end, with the time that is left.

    Args:
        console: Terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.last = ""
        self.begun = self.drawn = self.cost = 0.0
        self.table: RenderableType = Text("")
        self.state = ""

    def begin(self, runner: "Runner") -> None:
        """Starts the table."""
        self.begun = runner.begun
        self.console.print(opening(runner))
        if runner.missing():
            self._draw(runner)
            self.live = Live(get_renderable=self._shown, console=self.console, refresh_per_second=2)
            self.live.start()

    def changed(self, runner: "Runner", run: PlannedRun, row: Row | None, text: str) -> None:
        """Notes how a run has ended; failures are printed above the table."""
        self.last = f"{place_in_words(run)}: {text}"
        if text not in ("started", "finished"):
            self.console.print(f"{run.id} {self.last}")
        if time.monotonic() - self.drawn > self.cost / DRAWING_SHARE:
            self._draw(runner)

    def stop(self, runner: "Runner") -> None:
        """Ends the table, and says what is waited for."""
        if self.live is not None:
            self._draw(runner)
            self.live.stop()
            self.live = None
        if runner.started:
            self.console.print(stopping(len(runner.started), runner.resumes))

    def end(self, runner: "Runner") -> None:
        """Prints what is to be known of the runs."""
        print_end(self.console, runner)

    def _shown(self) -> RenderableType:
        """What the terminal shows; called by a thread of its own, while runs end."""
        state = self.state.format(ago=duration(time.monotonic() - self.begun))
        return Group(Text(f"{state} · {self.last}"), self.table)  # in this order: a low terminal cuts the end off

    def _draw(self, runner: "Runner") -> None:
        began = time.monotonic()
        table = Table(title=runner.study.title, title_justify="left", expand=False)
        for name in ("stage", "protocol", "cell", "runs"):
            table.add_column(name)
        table.add_column("mean of finished seeds", justify="right")
        entries = []
        training = set(runner.started)
        for stage in runner.study.stages.values():
            for protocol in stage.protocols:
                used = {
                    tuple(u.cell.items()) for u, run in runner.plan.using(protocol, stage.name) if run.id in training
                }
                for cell in cells_of(runner.plan, runner.store.rows, protocol, stage):
                    entries.append((tuple(cell.cell.items()) not in used, cell, measures_of(runner.study, stage)[0]))
        room = max(1, min(MAX_ROWS, self.console.height - OTHER_LINES))
        hidden = max(0, len(entries) - room)
        shown = sorted(entries, key=lambda entry: entry[0])[:room] if hidden else entries
        for idle, cell, measure in shown:
            table.add_row(*_cell_line(cell, measure), style="" if idle else "bold")
        lines: list[RenderableType] = [table]
        if hidden:
            lines.append(Text(f"and {counted(hidden, 'more cell')}"))
        left = runner.time_left()
        rest = f"about {duration(left)} left" if left is not None else "time left not known yet"
        self.table = Group(*lines)
        self.state = f"{progress(runner)} {{ago}} so far, {rest} · {len(training)} at once"
        self.drawn = time.monotonic()
        self.cost = self.drawn - began


def stopping(running: int, resumes: bool) -> str:
    """What is waited for after a signal."""
    if not resumes:
        return (
            f"{counted(running, 'run')} {'is' if running == 1 else 'are'} stopped; the next command trains "
            f"{'it' if running == 1 else 'them'} from the beginning."
        )
    return f"Stopping: {counted(running, 'run')} {'writes its' if running == 1 else 'write their'} checkpoints."


def opening(runner: "Runner") -> str:
    """The first line: what is to be trained."""
    missing, planned = len(runner.missing()), len(runner.plan.runs)
    waiting = sum(entry.count for entry in runner.waiting())
    known = runner.time_left()
    time_left = f", about {duration(known)}" if missing and known is not None else ""
    later = f", and {counted(waiting, 'run')} whose cell is chosen by then" if waiting else ""
    return (
        f"{runner.study.id}: {counted(planned, 'run')} planned, {missing} to train{later}{time_left}; one thread each"
    )


def progress(runner: "Runner") -> str:
    """Number of finished runs among those planned."""
    planned = len(runner.plan.runs) + sum(entry.count for entry in runner.plan.waiting)
    finished = sum(row.is_finished for run in runner.plan.runs.values() if (row := runner.row(run)) is not None)
    return f"[{finished}/{planned}]"


def result_in_words(run: PlannedRun, row: Row | None) -> str:
    """The first judged measures of a finished run as text."""
    if row is None or not row.is_finished:
        return ""
    names = [name for name in ("test/acc", "val/acc", "train/acc") if name in row.metrics][:1]
    planned = run.config["trainer"].get("max_epochs")
    early = [f"ended after {row.epochs} of {planned} epochs"] if planned is not None and row.epochs < planned else []
    return ", ".join([*(f"{name} {100 * row.metrics[name]:.2f} %" for name in names), *early, duration(row.seconds)])


def print_end(console: Console, runner: "Runner") -> None:
    """Prints notes, failed runs and runs that are still waiting."""
    for note in runner.notes:
        console.print(f"note: {note}")
    for run in runner.every_run():
        row = runner.row(run)
        if row is not None and not row.is_finished:
            folder = runner.stores[run.study.id].run(run.id)
            console.print(f"{row.status}: {place_in_words(run)}: {row.error} ({folder}/log.txt)")
    for entry in runner.waiting():
        console.print(f"waiting: {counted(entry.count, 'run')} of {entry.stage}, {entry.protocol}: {entry.reason}")
    if runner.out_of_budget:
        console.print("The budget is used up; the same command resumes the study.")
    console.print(
        f"{progress(runner)} runs finished, {runner.trained} of them now, in "
        f"{duration(time.monotonic() - runner.begun)}; {runner.store.folder}"
    )


def _cell_line(cell: CellRuns, measure: str) -> list[str]:
    planned = sum(cell.planned.values())
    finished = sum(row.is_finished for row in cell.rows)
    failed = sum(not row.is_finished for row in cell.rows)
    values = list(cell.values(measure).values())
    text = ""
    if values:
        mean = sum(values) / len(values)
        text = f"{measure} {mean:.2f} %" if is_share(measure) else f"{measure} {mean:.4f}"
    runs = f"{finished}/{planned}" + (f", {failed} failed" if failed else "")
    return [cell.stage, cell.protocol, ", ".join(cell.cell.values()), runs, text]
