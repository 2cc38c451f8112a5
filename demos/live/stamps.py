"""Stamps: a frame's number drawn into its pixels with a checksum, so that a test can tell which frame it sees."""

from __future__ import annotations

import numpy as np

from edgekit.images import UInt8

BITS = 24  # of the number; 8 of the checksum follow
CELL = 16  # pixels a side of a bit, at the width below; smaller frames have smaller cells
WIDTH = 640
DARK, LIGHT = 32, 224


def stamp(image: UInt8, number: int) -> None:
    """Draw `number` (modulo 2²⁴) over the top left corner: two rows of 16 black or white cells."""
    number %= 1 << BITS
    word = number << 8 | _checksum(number)
    side = _side(image.shape[1])
    bits = np.array([word >> i & 1 for i in range(31, -1, -1)], np.uint8).reshape(2, 16)
    cells = np.where(bits, LIGHT, DARK).astype(np.uint8).repeat(side, 0).repeat(side, 1)
    image[: cells.shape[0], : cells.shape[1]] = cells[:, :, None]


def read_stamp(image: UInt8) -> int | None:
    """The number in the corner of an RGB image; None where none is, or it was damaged."""
    side = _side(image.shape[1])
    if image.shape[0] < 2 * side or image.shape[1] < 16 * side:
        return None
    corner = image[: 2 * side, : 16 * side, :3].astype(np.float32).mean(-1)
    cells = corner.reshape(2, side, 16, side)[:, side // 4 : side - side // 4, :, side // 4 : side - side // 4]
    means = cells.mean((1, 3)).ravel()
    if np.abs(means - 128).min() < 24:  # neither black nor white: no stamp
        return None
    word = int("".join("1" if mean > 128 else "0" for mean in means), 2)
    number, check = word >> 8, word & 255
    return number if check == _checksum(number) else None


def _side(width: int) -> int:
    return max(2, CELL * width // WIDTH)


def _checksum(number: int) -> int:
    """CRC-8 of the number's three bytes, with the polynomial x⁸ + x² + x + 1, from 255 on."""
    crc = 0xFF
    for byte in number.to_bytes(3, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
