"""Style transfer of a frame of 640 × 360: fast-neural-style's network and the zoo's, in PyTorch, in the engines, by edgekit.

Run it with `python -m edgekit.benchmarks.peers.style`. The weights of a network are the same in every way; those of
fast-neural-style's are random, so that what it paints means nothing: SSIM says how near each way comes to PyTorch's float32.
It writes DATE-style.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import numpy as np

from edgekit import bundle as bundles
from edgekit import images, machine
from edgekit.benchmarks.measurement import sample_photo
from edgekit.benchmarks.peers import pictures, turns
from edgekit.benchmarks.peers.turns import Asked, Taken
from edgekit.bundle import Bundle
from edgekit.tensors import Array

HEIGHT, WIDTH = 360, 640
SIZE = {"height": HEIGHT, "width": WIDTH}
ZOO = "style-wave"


def published(folder: Path) -> str:
    """fast-neural-style's network with random weights as a bundle, in fp32 and int8."""
    import torch

    import edgekit
    from edgekit.exporters import ExportOptions
    from edgekit.exporters.readers.layouts import transformer_net
    from edgekit.exporters.sources import Source
    from edgekit.quantization import QuantizeOptions

    torch.manual_seed(0)
    net = transformer_net.TransformerNet().eval()
    use = transformer_net.use(net)
    source = Source(net, use.inputs, use.outputs, use.probes, "transformer_net", {})
    options = ExportOptions(formats=("onnx", "tflite"), buckets=(SIZE,), task=use.task)
    bundle = edgekit.export(source, folder / "fast-neural-style", options=options)
    rounded = QuantizeOptions(formats=("onnx", "tflite"), correct=(), keep_slower=True, time_it=False)
    return str(edgekit.quantize(bundle, "zoo", options=rounded).bundle.folder)


def network_alone(name: str, folder: Path) -> str:
    """A bundle of the zoo without its tone curve and its border, which the other ways do not have either."""
    bundle = Bundle.open(name)
    assert bundle.manifest.task is not None
    task = msgspec.structs.replace(
        bundle.manifest.task, settings={**bundle.manifest.task.settings, "contrast": 1.0, "border": 0}
    )
    out = folder / name
    out.mkdir()
    bundle.copy_files(out)
    bundles.write(out, msgspec.structs.replace(bundle.manifest, task=task))
    return str(out)


class Likeness:
    """SSIM of a way's picture to that of the first that is asked, which is PyTorch's in float32."""

    def __init__(self, photo: Array) -> None:
        self.photo = photo
        self.truth: Array | None = None

    def ssim(self, asked: Asked) -> dict[str, float]:
        from edgekit.quantization.metrics.pictures import ssim

        made = asked({"photo": self.photo})["photo"]
        self.truth = made if self.truth is None else self.truth
        return {"ssim": ssim(made, self.truth)}


def raced(bundle: str, threads: int, rounds: int, seconds: float) -> list[Taken]:
    photo = images.middle(images.read_image(sample_photo())[:, :, :3], HEIGHT, WIDTH)
    ways = list(pictures.ways(bundle, threads))
    judge = Likeness(np.ascontiguousarray(photo)).ssim
    return turns.in_turns(
        ways, photo, rounds=rounds, seconds=seconds, judge=judge, say=lambda s: click.echo(s, err=True)
    )


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="For each way and round.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(rounds: int, seconds: float, out: Path) -> None:
    threads, tables, found = machine.cores(), [], {}
    with tempfile.TemporaryDirectory(prefix="edgekit-peers-") as scratch:
        networks: Sequence[tuple[str, str]] = (
            ("fast-neural-style", published(Path(scratch))),
            (ZOO, network_alone(ZOO, Path(scratch))),
        )
        for name, bundle in networks:
            rows = raced(bundle, threads, rounds, seconds)
            found[name] = [msgspec.to_builtins(row) for row in rows]
            told = pictures.table(rows, "SSIM to PyTorch", lambda row: f"{row.figures['ssim']:.4f}")
            tables.append(f"{name}\n\n{told}")
    path = turns.save("style", out, {"threads": threads, "networks": found}, "\n".join(tables))
    click.echo("\n".join(tables))
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
