"""edgekit live: a camera, a file or a stream, restyled or enlarged as it comes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli.show import STOPPED, command, out_console, parse_size, task_options
from edgekit.errors import InputError


@command("edgekit live --source 0 --effect style-wave --view web")
@click.option("--source", default="0", show_default=True, help="A camera's number, a file, an address (http://…, rtsp://…), picamera, synthetic, or browser.")  # fmt: skip
@click.option("--effect", default="style-wave", show_default=True, help="style, upscale, both, compare, none, or a bundle that stylises or upscales.")  # fmt: skip
@click.option("--style", help="The bundle of style, both and compare.")
@click.option("--upscaler", help="The bundle of upscale and both.")
@click.option("--view", type=click.Choice(["window", "web", "file", "null"]), default="window", show_default=True)
@click.option("--fps", type=click.FloatRange(0, 240), help="The frame rate to hold by a smaller working size; 0: as fast as it goes.")  # fmt: skip
@click.option("--size", help="WIDTHxHEIGHT of the source's frames, such as 640x480.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="End after so long.")
@click.option("--record", type=click.Path(path_type=Path), help="Write what is shown to a video file.")
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="Write the figures to a JSON file.")
@click.option("--loop", is_flag=True, help="Begin a file anew at its end.")
@click.option("--mirror", is_flag=True, help="Mirror the picture, as one expects of oneself.")
@click.option("--smooth/--no-smooth", default=True, show_default=True, help="Keep a style's strokes still where the picture is.")  # fmt: skip
@click.option("--hud/--no-hud", default=True, show_default=True, help="Figures over the picture of the window.")
@click.option("--host", help="Serve the page to other machines at this address (0.0.0.0: all); a token is then asked for.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Of the page; 0 takes a free one.")  # fmt: skip
@click.option("--certificate", type=click.Path(path_type=Path), help="Serve over HTTPS with this certificate (PEM) …")
@click.option("--key", type=click.Path(path_type=Path), help="… and its key (PEM).")
@task_options
def live(
    source: str, effect: str, style: str | None, upscaler: str | None, view: str, fps: float | None, size: str | None,
    seconds: float | None, record: Path | None, report_path: Path | None, loop: bool, mirror: bool, smooth: bool,
    hud: bool, host: str | None, port: int, certificate: Path | None, key: Path | None, **request: Any,
) -> None:  # fmt: skip
    """Restyle or enlarge live video in a window or in the browser.

    \b
    In the window and on the page:
      e effect    s style      g engine     p precision   m mirror
      c compare   ← → the seam    space snapshot   r record   q quit
    """
    from edgekit.demos.live import opening, report
    from edgekit.demos.live.effects import Wish

    if (certificate is None) != (key is None):
        raise InputError("got one of --certificate and --key: HTTPS needs both")
    named = {name: value for name, value in (("style", style), ("upscaler", upscaler)) if value}
    wish = Wish.named(effect, mirror=mirror, smooth=smooth, **request)
    asked = opening.Asked(
        source, opening.replaced(wish, **named), view, fps, parse_size(size) if size else None, seconds, record, loop, hud,
        opening.Address(host, port, certificate, key),
    )  # fmt: skip
    report.require_writable(report_path)
    stopped = False
    with opening.opened(asked, out_console.print) as (pipeline, shows):
        previous = signal.signal(signal.SIGTERM, lambda number, frame: pipeline.stop())  # what systemd sends
        try:
            pipeline.start()
            shows.run(pipeline)
        except KeyboardInterrupt:
            stopped = True
        finally:
            signal.signal(signal.SIGTERM, previous)
            values = report.report(pipeline)
            if report_path is not None:
                report.save(report_path, values)
        out_console.print(report.line(values), soft_wrap=True)
        for action in values["controller"]["actions"][-5:]:
            out_console.print(f"  at {action['at_s']:.1f} s: {action['what']}", soft_wrap=True)
    if opening.left_behind():
        out_console.print(
            str(pipeline.error or f"{pipeline.capture.title} does not answer: left behind"), soft_wrap=True
        )
        sys.stdout.flush()
        os._exit(2)
    if pipeline.error is not None:
        raise pipeline.error
    sys.exit(STOPPED if stopped else 0)
