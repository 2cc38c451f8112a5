"""edgekit run: each task's obvious thing from the shell."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import edgekit
from edgekit.bundle import shipped
from edgekit.cli import batch
from edgekit.cli.show import (
    STOPPED,
    command,
    err_console,
    json_option,
    out_console,
    print_json,
    progress_bar,
    steps,
    task_options,
)
from edgekit.errors import InputError

SOURCES = "a photo, a folder of them, or a video"
TEXT_SUFFIXES = (".txt", ".md", ".abc")


@dataclass
class Work:
    """What `edgekit run` was asked: a bundle, what it gets, where the result goes, and the options that were named.

    A task's function opens the task with `open`, does its work inside `timed`, and leaves what is to be said
    in `text` and `answer`; `stopped` says that Ctrl-C ended it with a part of the result.
    """

    bundle: Any
    given: str | None
    out: Path | None
    options: dict[str, Any]
    request: dict[str, Any]
    as_json: bool
    seconds: float = 0.0
    text: str = ""
    stopped: bool = False
    answer: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The task; what it says of itself goes into the answer at the end."""
        with edgekit.load(self.bundle, **self.request) as task:
            yield task
            self.answer |= task.info()

    @contextmanager
    def timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - start

    def needed(self, what: str) -> Path:
        """The file that the task takes.

        Raises:
            InputError: none was named, or one that is not there.
        """
        if self.given is None:
            raise InputError(f"{self.bundle.name} takes {what}: name its file after the bundle")
        path = Path(self.given)
        if not path.exists():
            raise InputError(f"there is no file '{path}': {self.bundle.name} takes {what}")
        return path

    def target(self, what: str) -> Path:
        """The file that the task writes.

        Raises:
            InputError: none was named.
        """
        if self.out is None:
            raise InputError(f"{self.bundle.name} makes {what}: name its file with -o")
        return self.out

    def refuse_input(self) -> None:
        if self.given is not None:
            raise InputError(f"got '{self.given}': {self.bundle.name} takes no file; see its options with --help")


@command("edgekit run sr-x2 photo.jpg -o large.png --runtime openvino --precision int8")
@click.argument("bundle")
@click.argument("given", required=False, metavar="[INPUT]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The file to write, where the task makes one.")
@click.option("-n", "count", type=int, help="How many images to draw.")
@click.option("--labels", help="Classes to draw, by name or index: 7, or 3,1,4.")
@click.option("--seed", type=int, help="Draws the same again; fresh numbers if left out.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float, help="How strongly the class is followed while denoising.")
@click.option("--scheduler", help="The sampler of a diffusion model.")
@click.option("--negative-prompt", help="What a picture that is drawn from a prompt should not show.")
@click.option("--height", type=int, help="Pixels of a picture that is drawn from a prompt, where they are free.")
@click.option("--width", type=int, help="The same for the width.")
@click.option("--strength", type=float, help="How much of the style: 0 to 1.")
@click.option("--max-tokens", type=int, help="How much text to write.")
@click.option("--temperature", type=float, help="0 takes the likeliest; higher is more varied.")
@click.option("--top-k", type=int, help="Draw from the k likeliest tokens alone.")
@click.option("--top-p", type=float, help="Draw from the likeliest tokens that make up this probability.")
@click.option("--repetition-penalty", type=float, help="Above 1 what was written of late comes less often.")
@click.option("--stop", multiple=True, help="End the text before this; may be given several times (\\n is a new line).")
@task_options
@json_option
def run(
    bundle: str, given: str | None, out: Path | None, runtime: str, device: str, precision: str, threads: int | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Do what a bundle is for.

    \b
    INPUT is what its task takes:
      a photo to upscale, classify, stylise or reconstruct    edgekit run style-wave photo.jpg -o wave.jpg
      a folder of photos, or a video, to upscale or stylise   edgekit run style-wave clip.mp4 -o wave.mp4
      a prompt to go on from (\\n is a new line)               edgekit run shakespeare-gpt "ROMEO:\\n" --seed 1
      a prompt to draw                                        edgekit run my-painter "a red boat" -o boat.png
      nothing, to draw images or a tune                       edgekit run digits-gan -n 40 -o digits.png
                                                              edgekit run folk-gru -o tune.wav --seed 3
    """
    from edgekit.bundle import Bundle

    opened = Bundle.open(bundle)
    name = opened.manifest.task.name if opened.manifest.task else ""
    if not name:
        raise InputError(
            f"{opened.name} states no task: open it with edgekit.open_session('{opened.name}'), or export it again with --task"
        )
    if name not in RUNS:
        raise InputError(f"{opened.name} is of task '{name}': `edgekit run` knows {', '.join(RUNS)}")
    do, known = RUNS[name]
    asked = {option: value for option, value in options.items() if value not in (None, ())}
    unknown = [_flag(option) for option in asked if option not in known]
    if unknown:
        raise InputError(f"{opened.name} knows no {', '.join(unknown)}: expected {_listed(known)}")
    request = {"runtime": runtime, "device": device, "precision": precision, "threads": threads}
    work = Work(opened, given, out, asked, request, as_json)
    do(work)
    _said(work)
    if work.stopped:
        sys.exit(STOPPED)


@command("edgekit gallery gallery.html")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--bundle", "names", multiple=True, help="Only this bundle; may be given several times.")
@click.option("--runtime", default="auto", show_default=True, help="An engine's name; see `edgekit devices`.")
def gallery(out: Path, names: tuple[str, ...], runtime: str) -> None:
    """Show every bundle's live result on one page.

    In fp32 and int8 side by side, with quality and latency.
    """
    from edgekit.demos.gallery import write_gallery

    if out.suffix.lower() not in (".html", ".htm") or not out.absolute().parent.is_dir():
        raise InputError(f"cannot write '{out}': expected a path that ends in .html, in a folder that exists")
    with steps(2 * len(names or shipped())) as progress:
        failed = write_gallery(out, names, runtime, progress)
    out_console.print(f"wrote {out}" + (f"; {failed} results failed, see there" if failed else ""))
    sys.exit(1 if failed else 0)


def _said(work: Work) -> None:
    """The result in one line, or in JSON."""
    if work.as_json:
        print_json({**work.answer, "seconds": work.seconds, "stopped": work.stopped})
        return
    placed = work.answer["placement"]
    ran = f"{placed['runtime']} {placed['device']} {placed['precision']} ({work.answer['why']})"
    took = f"{work.seconds:.2f} s" if work.seconds >= 1 else f"{work.seconds * 1e3:.1f} ms"
    console = err_console if work.answer.get("text") is not None and work.out is None else out_console
    console.print(f"{work.text} in {took} on {ran}", soft_wrap=True)


def _flag(option: str) -> str:
    return "-n" if option == "count" else f"--{option.replace('_', '-')}"


def _listed(known: tuple[str, ...]) -> str:
    return ", ".join(_flag(option) for option in known) or "none of its own"


def _upscale(work: Work) -> None:
    """Enlarge an image file, a folder of them, or a video file."""
    from edgekit import images

    source, out = work.needed(SOURCES), work.target("an image, a folder or a video")
    if batch.takes(source, out):
        batch.run(work, lambda task, image: task(image))
        return
    images.writable(out)
    picture = images.read_image(source)
    images.writable(out, picture.shape[2])
    with work.open() as upscale, progress_bar() as progress:
        count = upscale.tile_count(picture)
        bar = progress.add_task("tiles", total=count, visible=count > 1)
        with work.timed():
            result = upscale(picture, progress=lambda: progress.advance(bar))
    images.write_image(out, result, consume=True)
    work.answer |= {"out": str(out), "shape": list(result.shape)}
    work.text = f"{source} ({picture.shape[1]} × {picture.shape[0]}) → {out} ({result.shape[1]} × {result.shape[0]})"


def _classify(work: Work) -> None:
    """Say what is on the image file."""
    from edgekit import images

    if work.out is not None:
        raise InputError(f"{work.bundle.name} makes no image: leave out -o")
    source = work.needed("a photo")
    picture = images.read_image(source)
    with work.open() as classify, work.timed():
        labels = classify(picture, top_k=3)
    work.answer["top"] = [label._asdict() for label in labels]
    work.text = f"{source}: {', '.join(f'{label.name} {label.probability:.0%}' for label in labels)}"


def _stylize(work: Work) -> None:
    """Stylise an image file, a folder of them, or a video file."""
    from edgekit import images

    source, out = work.needed(SOURCES), work.target("an image, a folder or a video")
    strength = work.options.get("strength", 1.0)
    if batch.takes(source, out):
        batch.run(work, lambda task, image: task(image, strength), strength=strength)
        return
    images.writable(out)
    picture = images.read_image(source)
    images.writable(out, picture.shape[2])
    with work.open() as stylize, work.timed():
        result = stylize(picture, strength)
    images.write_image(out, result, consume=True)
    work.answer |= {"out": str(out), "shape": list(result.shape)}
    work.text = f"{source} ({picture.shape[1]} × {picture.shape[0]}) → {out}"


def _reconstruct(work: Work) -> None:
    """Reconstruct the image file and say how strange it is; without one, draw images."""
    from edgekit import images

    if work.given is None:
        _draw(work)
        return
    if work.options:
        raise InputError(f"got {', '.join(map(_flag, work.options))} with an image: they are for drawing new ones")
    source, out = Path(work.given), images.writable(work.target("an image"))
    picture = images.read_image(source)
    with work.open() as autoencode, work.timed():
        result, score = autoencode.reconstruct(picture), autoencode.anomaly_score(picture)
    images.write_image(out, result)
    work.answer |= {"out": str(out), "shape": list(result.shape), "anomaly_score": score}
    work.text = f"{source} → {out}, anomaly score {score:.4g},"


def _draw(work: Work) -> None:
    """Draw images in one step each."""
    _sheet(work, lambda task, count, labels: task.stream(count, labels, **work.options))


def _denoise(work: Work) -> None:
    """Draw images in several steps each: of a class, or of the prompt that is given."""
    task = work.bundle.manifest.task
    if task.settings.get("prompt") is not None:
        if work.given is None:
            raise InputError(f"{work.bundle.name} draws from a prompt: name one after the bundle, in quotes")
        work.options |= {"prompt": work.given, "count": work.options.get("count", 1)}
        work.given = None
    _sheet(work, lambda task, count, labels: task.images(count, labels, **work.options))


def _sheet(work: Work, drawn: Callable[[Any, int, Any], Iterator[Any]]) -> None:
    """Draw images to one sheet; Ctrl-C keeps those that are done."""
    from edgekit import images

    work.refuse_input()
    out = images.writable(work.target("images"))
    labels = _labels(work.options.pop("labels", None))
    count = work.options.pop("count", len(labels) if isinstance(labels, list) else 20)
    pictures: list[Any] = []
    with work.open() as task, progress_bar() as progress, work.timed():
        bar = progress.add_task("images", total=count)
        try:
            for picture in drawn(task, count, labels):
                pictures.append(picture)
                progress.advance(bar)
        except KeyboardInterrupt:
            if not pictures:
                raise
            work.stopped = True
    images.write_image(out, _arranged(pictures))
    work.answer |= {"out": str(out), "images": len(pictures)}
    work.text = f"{len(pictures)} of {count} images → {out}" if work.stopped else f"{count} images → {out}"


def _arranged(pictures: list[Any]) -> Any:
    """One sheet: rows of ten, enlarged; many pictures in a square, as they are."""
    from edgekit import images

    if len(pictures) <= 200:
        return images.sheet(pictures, min(10, len(pictures)), enlarge=max(1, 64 // len(pictures[0])))
    return images.sheet(pictures, math.isqrt(len(pictures) - 1) + 1, enlarge=1)


def _write(work: Work) -> None:
    """Write on from a prompt, character by character as they come; Ctrl-C keeps what there is."""
    from edgekit.music import MOST_TOKENS

    tunes = work.bundle.manifest.task.settings.get("view") == "abc"
    if tunes and work.out is not None:
        _compose(work)
        return
    if work.out is not None:
        _require_folder(work.out)
        if work.out.suffix.lower() not in TEXT_SUFFIXES:
            raise InputError(
                f"cannot write '{work.out}': text is written to one of the endings {' '.join(TEXT_SUFFIXES)}"
            )
    pieces: list[str] = []
    most = MOST_TOKENS if tunes else 400
    prompt = _unescaped(work.given or "")
    if "stop" in work.options:
        work.options["stop"] = [_unescaped(string) for string in work.options["stop"]]
    with work.open() as write, work.timed():
        try:
            for piece in write.stream(prompt, **({"max_tokens": most} | work.options)):
                if not work.as_json and work.out is None:
                    click.echo(piece if pieces else prompt + piece, nl=False)
                pieces.append(piece)
        except KeyboardInterrupt:
            work.stopped = True
    text = "".join(pieces)
    if work.out is not None:
        work.out.write_text(prompt + text, encoding="utf-8")
    elif not work.as_json:
        click.echo("" if pieces else prompt)
    work.answer |= {"prompt": prompt, "text": text}
    speed = f"{len(text) / work.seconds:.0f} characters a second,"
    work.text = f"{len(text)} characters{' → ' + str(work.out) if work.out else ''}, {speed}"


def _unescaped(text: str) -> str:
    """Text with a new line where the shell was given a backslash and an n."""
    return text.replace("\\n", "\n")


def _compose(work: Work) -> None:
    """Write a tune whose bars add up: .abc, .mid or .wav."""
    out = work.target("a tune")
    forms = {".abc": lambda tune: tune.abc.encode(), ".mid": lambda tune: tune.midi(), ".wav": lambda tune: tune.wav()}
    if out.suffix.lower() not in forms:
        raise InputError(f"cannot write '{out}': expected one of the endings {', '.join(forms)}")
    _require_folder(out)
    wanted = {option: value for option, value in work.options.items() if option in ("seed", "temperature")}
    if len(wanted) < len(work.options):
        raise InputError("a tune takes --seed and --temperature alone: leave out -o to stream text with the others")
    with work.open() as write, work.timed():
        tune = write.tune(_unescaped(work.given or ""), **wanted)
    out.write_bytes(forms[out.suffix.lower()](tune))
    work.answer |= {"out": str(out), "abc": tune.abc}
    work.text = f"{len(tune.bars)} bars → {out}"


def _require_folder(out: Path) -> None:
    """Refuse a file that cannot be written, before the work.

    Raises:
        InputError.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        reason = "it is a folder" if out.is_dir() else f"there is no folder '{out.parent}'"
        raise InputError(f"cannot write '{out}': {reason}")


def _labels(text: str | None) -> str | list[str] | None:
    """ "7" → "7", "cat" → "cat", "3,1,4" → ["3", "1", "4"]; the task takes names, and indices written out."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


RUNS: dict[str, tuple[Callable[[Work], None], tuple[str, ...]]] = {
    "upscale": (_upscale, ()),
    "classify": (_classify, ()),
    "stylize": (_stylize, ("strength",)),
    "autoencode": (_reconstruct, ("count", "labels", "seed", "temperature")),
    "generate": (_draw, ("count", "labels", "seed")),
    "diffuse": (
        _denoise,
        ("count", "labels", "seed", "steps", "guidance", "scheduler", "negative_prompt", "height", "width"),
    ),
    "write": (_write, ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "seed")),
}
