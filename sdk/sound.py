"""Sounds to files: a Standard MIDI File, and a WAV file of plucked tones."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError

DIVISION = 480  # MIDI ticks a quarter note
LONGEST_S = 1800.0
MOST_SAMPLES = 200_000_000  # of all tones, or of the file
ATTACK_S, RELEASE_S = 0.006, 0.12
CHANNELS = {"melody": 0, "chord": 1}
LOUDNESS = {"melody": 1.0, "chord": 0.22}
VELOCITY = {"melody": 96, "chord": 52}


class Sound(NamedTuple):
    """One tone: start and length in seconds, MIDI pitch (69 is 440 Hz), and the part it belongs to."""

    start: float
    length: float
    pitch: int
    part: Literal["melody", "chord"]


def midi(sounds: Sequence[Sound], tempo: float, title: str = "") -> bytes:
    """A Standard MIDI File 1.0, format 0; `tempo` in quarter notes a minute.

    Pitches outside 0 … 127 become the nearest of those.

    Raises:
        InputError: a tempo outside 10 … 1,000, or longer than 30 minutes.
    """
    if not 10 <= tempo <= 1_000:
        raise InputError(f"got a tempo of {tempo}: expected 10 to 1000 quarter notes a minute")
    _end(sounds)
    ticks = tempo / 60.0 * DIVISION
    events: list[tuple[int, int, bytes]] = []
    for tone in sounds:
        channel, pitch = CHANNELS[tone.part], min(127, max(0, tone.pitch))
        first, last = round(tone.start * ticks), round((tone.start + tone.length) * ticks)
        events.append((first, 1, bytes((0x90 | channel, pitch, VELOCITY[tone.part]))))
        events.append((max(last, first + 1), 0, bytes((0x80 | channel, pitch, 0))))
    name = title.encode("latin-1", "replace")[:100]
    track = b"\x00\xff\x03" + _variable(len(name)) + name
    track += b"\x00\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big")
    track += b"\x00\xc0\x18\x00\xc1\x18"  # both parts on a nylon-string guitar
    now = 0
    for at, _, message in sorted(events):
        track += _variable(at - now) + message
        now = at
    track += b"\x00\xff\x2f\x00"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, DIVISION, b"MTrk", len(track)) + track


def wav(sounds: Sequence[Sound], rate: int = 22_050) -> bytes:
    """Mono, 16 bits.

    Raises:
        InputError: a rate outside 4,000 … 192,000, longer than 30 minutes, or more than MOST_SAMPLES of them.
    """
    if not 4_000 <= rate <= 192_000:
        raise InputError(f"got a rate of {rate}: expected 4000 to 192000 samples a second")
    end = _end(sounds)
    work = max(end, sum(s.length + RELEASE_S for s in sounds)) * rate
    if work > MOST_SAMPLES:
        raise InputError(f"got {work:,.0f} samples in all notes: expected at most {MOST_SAMPLES:,}; lower the rate")
    mixed = np.zeros(int((end + RELEASE_S) * rate) + 1)
    for tone in sounds:
        first = int(tone.start * rate)
        heard = _tone(tone, rate)[: len(mixed) - first]
        mixed[first : first + len(heard)] += heard
    peak = np.abs(mixed).max()
    samples = (mixed * (0.9 * 32767 / peak if peak > 0 else 0.0)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


def _end(sounds: Sequence[Sound]) -> float:
    """When the last sound ends, in seconds."""
    end = max((s.start + s.length for s in sounds), default=0.0)
    if end > LONGEST_S:
        raise InputError(f"got {end / 60:.0f} minutes of music: expected at most {LONGEST_S / 60:.0f}; shorten it")
    return end


def _tone(tone: Sound, rate: int) -> npt.NDArray[np.float64]:
    """A plucked string: harmonics that fade, the high ones faster, with a short attack and release."""
    frequency = 440.0 * 2.0 ** ((tone.pitch - 69) / 12)
    time = np.arange(int((tone.length + RELEASE_S) * rate)) / rate
    harmonics = [k for k in range(1, 9) if k * frequency < 0.45 * rate]
    result = np.zeros(len(time))
    for k in harmonics:
        result += np.sin(2 * np.pi * k * frequency * time) * np.exp(-time * (1.2 + 0.9 * k)) / k**1.6
    envelope = np.minimum(1.0, time / ATTACK_S) * np.clip((tone.length + RELEASE_S - time) / RELEASE_S, 0.0, 1.0)
    return np.asarray(LOUDNESS[tone.part] * envelope * result)


def _variable(value: int) -> bytes:
    """A number in MIDI's variable length: seven bits a byte, the highest bit set on all but the last."""
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))
