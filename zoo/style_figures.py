"""What is said of a stylizer: how near it comes to the painting, how steady its video is, and a sheet to look at."""

from __future__ import annotations

import itertools
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.bundle import Bundle
from edgekit.images import UInt8, opencv, photos
from edgekit.tasks import load
from edgekit.video import VideoReader
from edgekit.zoo import style_losses
from edgekit.zoo.style_losses import shortened, to_batch

SIDE = 360  # shorter side of the photos that are looked at
VIDEO_FRAMES = 41  # of fox.mp4, from the first on
OCCLUDED = 12.0  # levels: where the source itself does not follow its flow, nothing is compared


@dataclass(frozen=True)
class Content:
    """What is stylised to be judged: photos, and consecutive frames of a video, uint8 RGB."""

    photos: tuple[UInt8, ...]
    frames: tuple[UInt8, ...]

    @classmethod
    def load(cls, source: Path) -> Content:
        """The photos and the .mp4 of content.zip."""
        found = tuple(shortened(photo, SIDE) for _, photo in photos(source))
        with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory() as folder:
            name = next(n for n in archive.namelist() if n.endswith(".mp4"))
            with VideoReader(archive.extract(name, folder)) as reader:
                return cls(found, tuple(itertools.islice(reader, VIDEO_FRAMES)))

    def subjects(self) -> list[UInt8]:
        """What a sheet shows: the photos, no wider than one and a half times their height, and a frame."""
        middle = shortened(self.frames[len(self.frames) // 2], SIDE)
        return [np.ascontiguousarray(image[:, : SIDE * 3 // 2]) for image in (*self.photos, middle)]


def figures(bundle: Bundle, content: Content, painting: UInt8) -> dict[str, Any]:
    """Gram ratio and flicker of fp32 and int8 in ONNX Runtime, and what they are measured on."""
    result: dict[str, Any] = {"flicker_of_the_source": round(flicker(content.frames, content.frames), 2)}
    for precision in ("fp32", "int8"):
        with load(bundle, "onnxruntime", precision=precision) as stylize:
            painted = [stylize(photo) for photo in content.photos]
            moving = list(stylize.frames(content.frames))
        result[f"gram_ratio_{precision}"] = round(gram_ratio(painted, content.photos, painting), 4)
        result[f"flicker_{precision}"] = round(flicker(moving, content.frames), 2)
    result["gram_data"] = f"cifar-cnn features, {len(content.photos)} photos of content.zip at {SIDE} pixels"
    result["flicker_data"] = f"fox.mp4, frames 0 to {len(content.frames) - 1}, levels of 255 after motion compensation"
    return result


@torch.no_grad()
def gram_ratio(painted: Sequence[UInt8], originals: Sequence[UInt8], painting: UInt8) -> float:
    """Gram loss of the stylised photos against the painting over that of the photos themselves; 0 is the painting.

    The loss is `style_losses.gram_loss`, of the shipped cifar-cnn's features: a mean over photos.
    """
    net = style_losses.cifar_network()

    def grams(image: UInt8) -> list[torch.Tensor]:
        return style_losses.grams(style_losses.features(net, to_batch([image])))

    wanted = grams(painting)
    before, after = (
        sum(float(style_losses.gram_loss(grams(image), wanted)) for image in images) for images in (originals, painted)
    )
    return after / before


def flicker(painted: Sequence[UInt8], source: Sequence[UInt8]) -> float:
    """Mean absolute difference, in levels, of each frame from the one before it, moved along the source's motion.

    The motion is the source's dense optical flow (Kroeger et al. 2016, DIS). Pixels where the source differs
    from its own moved frame by more than OCCLUDED levels are left out, as they came into view.
    """
    cv2 = opencv()
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in source]
    rows, columns = np.indices(grey[0].shape, np.float32)
    differences = []
    for i in range(1, len(source)):
        flow = method.calc(grey[i], grey[i - 1], None)
        at = columns + flow[..., 0], rows + flow[..., 1]
        seen = _change(source[i], cv2.remap(source[i - 1], *at, cv2.INTER_LINEAR)) <= OCCLUDED
        differences.append(_change(painted[i], cv2.remap(painted[i - 1], *at, cv2.INTER_LINEAR))[seen].mean())
    return float(np.mean(differences))


def _change(one: UInt8, other: UInt8) -> np.ndarray:
    """Mean absolute difference of the three channels, height × width."""
    return np.asarray(np.abs(one.astype(np.float32) - other).mean(-1))


def sheet(bundle: Bundle, content: Content, painting: UInt8, height: int = 240) -> UInt8:
    """The painting in the first row; then, a row each, a photo beside what fp32 and int8 make of it, all shown smaller."""
    rows = [[subject] for subject in content.subjects()]
    for precision in ("fp32", "int8"):
        with load(bundle, "onnxruntime", precision=precision) as stylize:
            for row in rows:
                row.append(stylize(row[0]))
    return stacked([[of_height(image, height) for image in row] for row in [[painting], *rows]])


def stacked(rows: Sequence[Sequence[UInt8]], gap: int = 6) -> UInt8:
    """Rows of images of one height each on white, left-aligned."""
    width = max(sum(image.shape[1] + gap for image in row) for row in rows) - gap
    height = sum(row[0].shape[0] + gap for row in rows) - gap
    result, top = np.full((height, width, 3), 255, np.uint8), 0
    for row in rows:
        left = 0
        for image in row:
            result[top : top + image.shape[0], left : left + image.shape[1]] = image
            left += image.shape[1] + gap
        top += row[0].shape[0] + gap
    return result


def contact_sheet(bundles: Sequence[Bundle], paintings: Sequence[UInt8], content: Content, height: int = 220) -> UInt8:
    """The photos and a frame in the first row; then, a row a bundle, the painting, all of them in fp32, the frame in int8.

    They are stylised at SIDE pixels and shown at `height`.
    """
    subjects = content.subjects()
    rows = [[np.full((height, 0, 3), 255, np.uint8), *subjects]]
    for bundle, painting in zip(bundles, paintings, strict=True):
        row = [painting]
        for precision, of in (("fp32", subjects), ("int8", subjects[-1:])):
            with load(bundle, "onnxruntime", precision=precision) as stylize:
                row += [stylize(subject) for subject in of]
        rows.append(row)
    shown = [[of_height(image, height) for image in row] for row in rows]
    widest = max(row[0].shape[1] for row in shown)
    return stacked(
        [
            [np.pad(row[0], ((0, 0), (0, widest - row[0].shape[1]), (0, 0)), constant_values=255), *row[1:]]
            for row in shown
        ]
    )


def of_height(image: UInt8, height: int) -> UInt8:
    """The image shrunk to a height."""
    if image.shape[0] == height:
        return image
    size = round(image.shape[1] * height / image.shape[0]), height
    result: UInt8 = opencv().resize(image, size, interpolation=opencv().INTER_AREA)
    return result
