"""python -m edgekit.demos.desktop: the desktop program from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgekit.demos.desktop.display import require_display
from edgekit.errors import EdgekitError


@click.command()
@click.argument("picture", type=click.Path(path_type=Path), required=False)
@click.option("--bundle", help="A bundle that ships, or the path of a folder or .zip.")
@click.option("--scheme", type=click.Choice(["system", "light", "dark"]), default="system", show_default=True)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Run on PICTURE, save to this file, say the figures, and quit."
)
def main(picture: Path | None, bundle: str | None, scheme: str, save: Path | None) -> None:
    """Enlarge or paint PICTURE, and compare before and after in a window."""
    if save is not None and picture is None:
        raise click.UsageError("--save needs a PICTURE to run on")
    try:
        require_display()
    except (EdgekitError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    from edgekit.demos.desktop import program  # Qt aborts the process where it cannot show a window: not before now

    sys.exit(program.run(picture, bundle, scheme, save))


if __name__ == "__main__":
    main()
