"""Variational autoencoder of digits: a convolutional encoder and decoder, a Gaussian a class, and their recipe.

The loss is that of Kingma and Welling (2014) with the noise of the decoder at its optimum, the batch's own
squared error (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders"), so that no weight
between the two terms has to be guessed. Encodings of a class are far from N(0, I): new digits are
drawn from a Gaussian fitted to the encodings of each class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.bundle import Bundle
from edgekit.images import UInt8, sheet
from edgekit.manifest import Task
from edgekit.tasks import load
from edgekit.tasks.autoencode import LUMA
from edgekit.tensors import Array, TensorSpec
from edgekit.zoo.digits import DATA, LABELS, SIDE, batches, load_digits, to_grey
from edgekit.zoo.judging import fidelity
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish, round_weights
from edgekit.zoo.training import Checkpoint, update_average

if TYPE_CHECKING:  # the converters are imported by `build` alone: a session of this network needs none
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized

PIXELS = SIDE * SIDE
Floats = npt.NDArray[np.float32]


class Encoder(nn.Module):
    """Grey batch × 1 × 32 × 32 in 0…1 → mean and log variance of its code, batch × latent each."""

    def __init__(self, latent: int = 32, channels: int = 28) -> None:
        super().__init__()
        wide = 2 * channels
        layers = ((1, channels, 2), (channels, wide, 2), (wide, wide, 1), (wide, wide, 2))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, stride, padding=1) for i, o, stride in layers)
        self.mean = nn.Linear(wide * 4 * 4, latent)
        self.log_variance = nn.Linear(wide * 4 * 4, latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image
        for layer in self.layers:
            x = F.relu(layer(x))
        x = x.flatten(1)
        return self.mean(x), self.log_variance(x)


class Decoder(nn.Module):
    """Code, batch × latent → grey batch × 1 × 32 × 32 in 0…1."""

    def __init__(self, latent: int = 32, channels: int = 28) -> None:
        super().__init__()
        self.channels = channels
        wide, middle, narrow = 3 * channels, 2 * channels, channels // 2
        self.start = nn.Linear(latent, wide * 4 * 4)
        pairs = ((wide, middle), (middle, middle), (middle, middle), (narrow, narrow))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
        self.tail = nn.Conv2d(narrow, 1, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = F.relu(self.start(latent)).view(-1, 3 * self.channels, 4, 4)
        for index, layer in enumerate(self.layers):
            if index < 2:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            elif index == 3:
                x = F.pixel_shuffle(x, 2)
            x = F.relu(layer(x))
        return torch.sigmoid(self.tail(x))


class Autoencoder(nn.Module):
    """Encoder and decoder as they train together."""

    def __init__(self, latent: int = 32, channels: int = 28) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(latent, channels), Decoder(latent, channels)
        # PyTorch's own start makes signals smaller with every layer: the code drowns in its noise, and is given up
        for layer in (*self.encoder.layers, self.encoder.mean, self.decoder.start, *self.decoder.layers):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log variance; `noise` ~ N(0, 1), batch × latent."""
        mean, log_variance = self.encoder(image)
        return self.decoder(mean + noise * torch.exp(0.5 * log_variance)), mean, log_variance


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    name: str = "digits-vae"
    latent: int = 32
    channels: int = 28
    steps: int = 8_000
    batch: int = 128
    learning_rate: float = 1e-3
    beta: float = 1.0  # weight of the divergence from N(0, I)
    ease: float = 0.1  # first part of the steps, over which that weight grows from nothing: no code is given up
    clip: float = 200.0  # largest norm of the gradient; the loss is a sum over the pixels
    ema: float = 0.998
    seed: int = 0


def train(data: Path, runs: Path, recipe: Recipe) -> Autoencoder:
    """Train on mnist.zip; returns the averaged network. Resumes from its checkpoint in `runs`."""
    torch.manual_seed(recipe.seed)
    net, average = Autoencoder(recipe.latent, recipe.channels), Autoencoder(recipe.latent, recipe.channels)
    average.load_state_dict(net.state_dict())
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    parts = {"net": net, "average": average, "optimizer": optimizer}
    checkpoint = Checkpoint(runs / f"{recipe.name}.pt", asdict(recipe), parts)
    done = checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=done)
        for step, (batch, _) in batches(data, recipe.batch, range(done, recipe.steps), recipe.seed):
            said = _step(net, optimizer, batch, recipe, step)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"{recipe.name} {said}")
            if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                progress.console.print(f"{recipe.name} step {step + 1} of {recipe.steps}, {said}")
    return average.eval()


def _step(net: Autoencoder, optimizer: torch.optim.Optimizer, batch: Tensor, recipe: Recipe, step: int) -> str:
    optimizer.param_groups[0]["lr"] = recipe.learning_rate * _rate(step / recipe.steps)
    random = torch.Generator().manual_seed(recipe.seed * 2**32 + step)
    noise = torch.randn(len(batch), recipe.latent, generator=random)
    with torch.autocast("cpu", torch.bfloat16):
        again, mean, log_variance = net(batch, noise)
    error = F.mse_loss(again.float(), batch)
    mean, log_variance = mean.float(), log_variance.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    beta = recipe.beta * min(1.0, step / (recipe.ease * recipe.steps))
    loss = 0.5 * PIXELS * torch.log(error) + beta * divergence
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()
    return f"{-10 * float(torch.log10(error.detach())):.2f} dB, divergence {float(divergence.detach()):.1f}"


def _rate(at: float) -> float:
    """A short warm-up, then a cosine to nothing."""
    return min(1.0, at / 0.02) * 0.5 * (1 + float(np.cos(np.pi * at))) + 1e-3


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """Train, fit the Gaussians, and publish with the PSNR of reconstructions of test images."""
    from edgekit.quantization.metrics.generated import AutoencoderPsnr

    net = train(data, place.runs, recipe)
    round_weights(net)
    images, labels = load_digits(data, "train")
    codes, noise = encoded(net, images)
    sources, calibration = net_sources(net, images[:: len(images) // 200], codes[:: len(codes) // 200])
    gaussians = [gaussian(codes[labels == c]) for c in range(len(LABELS))]
    settings = {"labels": list(LABELS), "latent": recipe.latent, "height": SIDE, "width": SIDE}
    test = load_digits(data, "test")[0]
    trained = Trained(
        sources,
        Task("autoencode", {**settings, "noise": rounded(noise), "gaussians": gaussians}),
        f"VAE of digits, {sum(p.numel() for p in net.parameters()):,} parameters",
        DATA,
        calibration,
        AutoencoderPsnr(test[::5], f"MNIST test, every fifth image, {len(test[::5]):,}"),
        max_drop=0.5,
        sheet=lambda bundle: overview(bundle, data),
        figures=lambda bundle: {**fidelity(bundle, data), **strangeness(bundle, data)},
    )
    return publish(recipe.name, trained, recipe, place)


def net_sources(
    net: Autoencoder, images: UInt8, codes: Floats
) -> tuple[dict[str, Source], dict[str, list[tuple[Array, ...]]]]:
    """Both components as `export` takes them, and inputs for calibration: images, and the codes of some."""
    from edgekit.exporters import Source

    image = TensorSpec("image", "float32", (1, 1, SIDE, SIDE), "NCHW", (0.0, 1.0))
    latent, mean, log_variance = (
        TensorSpec(name, "float32", (1, codes.shape[1])) for name in ("latent", "mean", "log_variance")
    )
    pictures: list[tuple[Array, ...]] = [(picture[None],) for picture in to_grey(images).numpy()]
    latents: list[tuple[Array, ...]] = [(code[None],) for code in codes]
    settings = {"latent": codes.shape[1], "channels": net.decoder.channels}
    sources = {
        "encoder": Source(net.encoder, (image,), (mean, log_variance), tuple(pictures[:4]), "vae_encoder", settings),
        "decoder": Source(net.decoder, (latent,), (image,), tuple(latents[:4]), "vae_decoder", settings),
    }
    return sources, {"encoder": pictures, "decoder": latents}


@torch.no_grad()
def encoded(net: Autoencoder, images: UInt8) -> tuple[Floats, float]:
    """The codes of grey images, count × latent, and the mean squared error of what is decoded from them."""
    codes, errors = [], []
    for part in np.array_split(images, max(1, len(images) // 500)):
        batch = to_grey(part)
        mean, _ = net.encoder(batch)
        codes.append(mean)
        errors.append(float(F.mse_loss(net.decoder(mean), batch)))
    return torch.cat(codes).numpy(), float(np.mean(errors))


def gaussian(codes: Floats) -> dict[str, list[float]]:
    """Mean and lower Cholesky factor, row by row, of the Gaussian that fits codes: count × latent."""
    covariance = np.cov(codes.astype(np.float64), rowvar=False) + 1e-6 * np.eye(codes.shape[1])
    factor = np.linalg.cholesky(covariance)[np.tril_indices(codes.shape[1])]
    return {"mean": [rounded(v) for v in codes.mean(axis=0)], "cholesky": [rounded(v) for v in factor]}


def rounded(value: float) -> float:
    """Four significant digits: what a manifest needs."""
    return float(f"{value:.4g}")


def strangeness(bundle: Bundle, data: Path, every: int = 5) -> dict[str, Any]:
    """Area under the ROC curve of the anomaly score, digits against grey CIFAR-10 images, both of the test sets."""
    from edgekit.quantization.metrics.generated import AutoencoderPsnr, auroc
    from edgekit.zoo.classification import load_split

    images, _ = load_digits(data, "test")
    greys = np.rint(load_split(data, "test")[0][::every] @ LUMA).astype(np.uint8)
    areas = {}
    for precision in ("fp32", "int8"):
        with load(bundle, "onnxruntime", precision=precision) as autoencoder:
            familiar, strange = ([autoencoder.anomaly_score(i) for i in s] for s in (images[::every], greys))
        areas[precision] = round(auroc(familiar, strange), 5)
    return {
        "anomaly_auroc": areas,
        "anomaly_protocol": f"{len(greys):,} MNIST against {len(greys):,} grey CIFAR-10 test images",
        "psnr_db_of_all_test_images": round(AutoencoderPsnr(images, "").value(bundle, "onnxruntime", "fp32"), 3),
    }


def overview(bundle: Bundle, data: Path) -> UInt8:
    """Test images, their reconstructions in fp32 and int8, two interpolations, and ten samples of each class."""
    images, labels = load_digits(data, "test")
    chosen = [images[labels == c][0] for c in range(len(LABELS))]
    with load(bundle, "onnxruntime", precision="fp32") as exact, load(bundle, "onnxruntime", precision="int8") as small:
        rows = [*chosen, *map(exact, chosen), *map(small, chosen)]
        rows += exact.interpolate(chosen[3], chosen[8], 10) + exact.interpolate(chosen[4], chosen[7], 10)
        rows += exact.sample(100, labels=[label for label in LABELS for _ in range(10)], seed=0)
    return sheet(rows)


DIGITS = ZooRecipe(Recipe(), build)
