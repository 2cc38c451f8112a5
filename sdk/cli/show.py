"""What the commands share: consoles, tables, progress on stderr, and the forms of their arguments."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgekit.errors import InputError

# no markup: names of files and errors hold brackets of their own
out_console = Console(highlight=False, markup=False)
err_console = Console(stderr=True, highlight=False, markup=False)
EVERY_S = 10.0
STOPPED = 130  # the exit code of what Ctrl-C ends
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")


def command(example: str, cls: type[click.Command] = click.Command) -> Callable[[Callable[..., Any]], click.Command]:
    """A sub-command whose help ends with an example, and which knows --debug as well as `edgekit` does."""
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show an error's traceback."
    )
    return lambda function: click.command(cls=cls, epilog=f"\b\nExample:\n  {example}")(debug(function))


def _debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().params["debug"] = True


def task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose where and how a bundle runs."""
    options = (
        click.option("--runtime", default="auto", show_default=True, help="An engine's name; see `edgekit devices`."),
        click.option("--device", default="cpu", show_default=True, help="cpu, gpu, npu, gpu:1 …"),
        click.option("--precision", default="auto", show_default=True, help="fp32, int8 …"),
        click.option(
            "--threads", type=click.IntRange(1, 1024), help="Engine threads; the engine's choice if left out."
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def _split(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """ "openvino,litert" and "--runtimes openvino --runtimes litert" alike."""
    return tuple(dict.fromkeys(part for text in given for part in text.split(",") if part))


def _counts(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[int, ...]:
    parts = _split(ctx, parameter, given)
    if wrong := [part for part in parts if not (part.isdecimal() and 1 <= int(part) <= 1024)]:
        raise click.BadParameter(f"got '{wrong[0]}': expected numbers from 1 to 1024, such as 1,2,4")
    return tuple(int(part) for part in parts)


def several(name: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that takes names by commas or again and again; its singular is understood."""
    single = f"--{name.removesuffix('s')}"
    return click.option(f"--{name}", single, name, multiple=True, callback=_split, help=f"{help}, by commas.")


def several_threads(left_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--threads 1,2`; none where it is left out."""
    return click.option(
        "--threads", multiple=True, callback=_counts, help=f"Engine threads, by commas; {left_out} if left out."
    )


def parse_numbers(text: str) -> dict[str, int]:
    """ "height=256,width=256" → {"height": 256, "width": 256}."""
    try:
        return {name: int(number) for name, number in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise InputError(f"got '{text}': expected NAME=NUMBER pairs, such as height=256,width=256") from None


def parse_size(text: str) -> tuple[int, int]:
    """ "640x360" → (360, 640), as height and width."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"got --size '{text}': expected WIDTHxHEIGHT, such as 640x360")
    return int(height), int(width)


class Lines(Progress):
    """Progress where there is no terminal, as in a log: what is under way, one line in `EVERY_S` seconds at most."""

    def __init__(self) -> None:
        super().__init__(console=err_console, disable=True)
        self._said_s = time.monotonic()

    def update(self, task_id: TaskID, *arguments: Any, **options: Any) -> None:
        super().update(task_id, *arguments, **options)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < EVERY_S:
            return
        self._said_s = now_s
        task = next(task for task in self.tasks if task.id == task_id)
        of = f" ({task.completed:.0f} of {task.total:.0f})" if task.total else ""
        self.console.print(f"{task.description}{of}", soft_wrap=True)


def progress_bar() -> Progress:
    """A bar on stderr; lines now and then where that is no terminal."""
    if not err_console.is_terminal:
        return Lines()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err_console, transient=True)


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that names the step under way; more steps than expected lengthen it.

    What ends in "…" tells of the step under way, and is no step of its own.
    """
    with progress_bar() as progress:
        bar = progress.add_task("starting", total=total)

        def begin(step: str) -> None:
            task = progress.tasks[bar]
            if step.endswith("…"):  # what goes on within the step under way
                progress.update(bar, description=step)
                return
            began = task.description != "starting"
            done = task.completed + began
            progress.update(bar, description=step, completed=done, total=max(task.total or 0, done + 1))

        yield begin


def new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 2, 0, 0), show_header=any(columns))
    for column in columns:
        table.add_column(column, no_wrap=column in ("engine", "file", "name"))
    return table


def speeds(variant: Any) -> str:
    """ "openvino 2.1×, onnxruntime 0.8× slower": how fast beside fp32, engine by engine, where it was measured last."""
    last = variant.speed[-1].processor if variant.speed else ""
    told = [f"{s.runtime} {s.gain:.2g}×{' slower' if s.slower else ''}" for s in variant.speed if s.processor == last]
    return ", ".join(told)


def conditions(speed: Any) -> str:
    """The processor and the threads of a figure, in words."""
    from edgekit.stated import on_one

    count = f"{speed.threads} thread{'s' * (speed.threads > 1)}"
    return f"{speed.processor}, {'each on as many threads as were faster' if on_one(speed) else count}"


def print_json(value: Any) -> None:
    """JSON as its specification has it: what is not finite becomes null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())
