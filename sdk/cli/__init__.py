"""The command line: one sub-command a verb, each importing its floor only when called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

import edgekit
from edgekit.cli.show import STOPPED, err_console
from edgekit.errors import EdgekitError, ExportError, NotInstalled

COMMANDS = {
    "zoo": "device",
    "devices": "device",
    "run": "running",
    "gallery": "running",
    "live": "live",
    "web": "web",
    "verify": "device",
    "doctor": "device",
    "bench": "bench",
    "tune": "tuning",
    "estimate": "estimating",
    "export": "host",
    "quantize": "quantizing",
    "build": "host",
    "train": "host",
}


class Group(click.Group):
    """Loads commands by name, and turns errors into one clear line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"edgekit.cli.{COMMANDS[name]}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without × and → gets a ? for them
        try:
            return self._invoked(ctx)
        except BrokenPipeError:  # the reader, such as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0)
        except (EdgekitError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            err_console.print("error:", style="red", end=" ")
            err_console.print(str(error), soft_wrap=True)
            sys.exit(1 if isinstance(error, ExportError) else 2)  # 1: asked for rightly, but a converter failed
        except KeyboardInterrupt:
            err_console.print("stopped")
            sys.exit(STOPPED)

    def _invoked(self, ctx: click.Context) -> Any:
        """Run the command; a package that its floor imports and that is missing is named with its extra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("edgekit"):
                raise
            raise NotInstalled.named(f"edgekit {ctx.invoked_subcommand}", str(error.name), "export") from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgekit.__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Bring trained PyTorch models to small machines, and run them there.

    \b
    Start with:
      edgekit zoo
      edgekit run sr-x2 photo.jpg -o large.png
      edgekit doctor
    """
