"""edgekit web: a folder that runs a bundle in the visitor's browser."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.show import command, json_option, new_table, out_console, print_json, progress_bar


@command("edgekit web style-wave page/")
@click.argument("bundle")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--precision", default="auto", show_default=True, help="fp32, int8 …; auto sends both of a small model, and the page takes the faster.")  # fmt: skip
@click.option("--webgpu", is_flag=True, help="Send the engine's half for graphics processors as well (27 MB).")
@click.option("--ort", type=click.Path(path_type=Path), help="The npm package onnxruntime-web as a folder or .tgz: nothing is fetched then.")  # fmt: skip
@click.option("--registry", help="The npm registry to fetch it from, once; npm's own setting if left out.")
@json_option
def web(
    bundle: str, out: Path, precision: str, webgpu: bool, ort: Path | None, registry: str | None, as_json: bool
) -> None:
    """Write a folder that stylises or upscales in the visitor's browser, for any static host.

    OUT is a new folder, an empty one, or one that this command wrote before.
    """
    from edgekit.bundle import Bundle
    from edgekit.demos.web import engine, folder

    folder.check(Bundle.open(bundle), out, precision)  # before anything is fetched
    with progress_bar() as progress:
        bar = progress.add_task(f"fetching {engine.ARCHIVE}", total=engine.ARCHIVE.bytes, visible=False)
        files = engine.found(ort, registry, lambda done: progress.update(bar, completed=done, visible=True))
    entries = folder.write(bundle, out, files, folder.Wanted(precision, webgpu))
    if as_json:
        print_json({"out": str(out), "files": entries, "bytes": sum(e.bytes for e in entries)})
        return
    table = new_table("file", "KB")
    for entry in entries:
        table.add_row(entry.path, f"{entry.bytes / 1000:,.0f}")
    out_console.print(table)
    out_console.print(f"{out}: {sum(e.bytes for e in entries) / 1e6:.1f} MB", soft_wrap=True)
    out_console.print(
        f"try it: python -m http.server --directory '{out}' 8000, then http://localhost:8000/", soft_wrap=True
    )
