"""Tunes in ABC notation: whether their bars add up, how they are played, and MIDI and WAV files of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from edgekit import sound
from edgekit.errors import InputError
from edgekit.notation import MAX_BARS, SEMITONES, Bar, Note, Reader
from edgekit.sound import Sound

MAX_CHARACTERS = 100_000
MOST_TOKENS = 3_000  # that a model writes of one tune
THIRDS = {"m": 3, "min": 3, "dim": 3}


@dataclass(frozen=True)
class Tune:
    """One tune, parsed. Lengths are in whole notes, `tempo` is in quarter notes a minute."""

    abc: str
    title: str
    metre: Fraction | None
    key: str
    tempo: float
    bars: tuple[Bar, ...]

    def played(self) -> list[Bar]:
        """The bars in the order of playing, with repeats and endings.

        Raises:
            InputError: more than MAX_BARS of them.
        """
        order: list[Bar] = []
        at, start, turn = 0, 0, 1
        while at < len(self.bars):
            bar = self.bars[at]
            if bar.opening.endswith(":") and at != start:
                start, turn = at, 1
            if bar.endings and turn not in bar.endings and (other := self._other_ending(at, turn)):
                at = other
                continue
            order.append(bar)
            if len(order) > MAX_BARS:
                raise InputError(f"the tune has more than {MAX_BARS} bars with its repeats: shorten it")
            again = bar.closing.startswith(":") and turn < max(2, *self._turns(start, at))
            if again:
                at, turn = start, turn + 1
            else:
                ended = "||" in bar.closing and any(b.endings for b in self.bars[start : at + 1])
                over = bar.closing.startswith(":") or ended
                at += 1
                start, turn = (at, 1) if over else (start, turn)
        return order

    def _turns(self, start: int, at: int) -> tuple[int, ...]:
        """The numbers of the endings from one bar to the one after another, and 1."""
        return (1, *(n for bar in self.bars[start : at + 2] for n in bar.endings))

    def _other_ending(self, at: int, turn: int) -> int | None:
        """The bar that opens the ending of this turn, if there is one."""
        for other in range(at + 1, len(self.bars)):
            if turn in self.bars[other].endings:
                return other
            if self.bars[other].opening.endswith(":"):
                break
        return None

    def faults(self) -> list[str]:
        """Where bars do not add up to the metre, in the order of playing; empty for a sound tune.

        A bar that a repeat, a double line or an ending cuts counts with its other half. The first bar may
        be shorter (a pick-up), and so may the last.
        """
        if self.metre is None:
            return ["no metre: M: is missing or 'none'"]
        bars, faults = self.played(), []
        if not any(n.pitches for b in bars for n in b.notes):
            return ["no notes"]
        at = 0
        while at < len(bars):
            bar = bars[at]
            after = bars[at + 1] if at + 1 < len(bars) else None
            assert bar.metre is not None or self.metre is not None
            whole = bar.metre or bar.length
            edge = at == 0 or after is None
            joined = after is not None and bar.cut and bar.length < whole and bar.length + after.length == whole
            if not (bar.length == whole or joined or (edge and bar.length < whole)):
                faults.append(f"line {bar.line}: a bar of {bar.length}, expected {whole}")
            at += 2 if joined else 1
        return list(dict.fromkeys(faults))

    def sounds(self) -> list[Sound]:
        """What is heard, in seconds: melody, and chord symbols as soft triads until the next one or the bar's end."""
        melody: list[Sound] = []
        chords: list[Sound] = []
        second = 60.0 / self.tempo * 4  # a whole note
        now, tied = Fraction(0), False
        for bar in self.played():
            ends = [*(at for at, _ in bar.symbols), bar.length][1:]
            for (at, symbol), end in zip(bar.symbols, ends, strict=True):
                for pitch in triad(symbol):
                    chords.append(Sound(float(now + at) * second, float(end - at) * second, pitch, "chord"))
            for note in bar.notes:
                _add(melody, note, float(now) * second, float(note.length) * second, tied)
                now, tied = now + note.length, note.tied
        return melody + chords

    def midi(self) -> bytes:
        """A Standard MIDI File 1.0, format 0: melody on channel 1, chords on channel 2.

        Pitches outside 0 … 127 become the nearest of those.

        Raises:
            InputError: a tune longer than 30 minutes.
        """
        return sound.midi(self.sounds(), self.tempo, self.title)

    def wav(self, rate: int = 22_050) -> bytes:
        """A WAV file: mono, 16 bits, `rate` samples a second, plucked tones.

        Raises:
            InputError: a rate outside 4,000 … 192,000, a tune longer than 30 minutes, or too many samples in all notes.
        """
        return sound.wav(self.sounds(), rate)


def parse(abc: str) -> Tune:
    """The first tune of a text in ABC notation.

    Raises:
        InputError: no tune, or what is not ABC in it, with its line and column.
    """
    if len(abc) > MAX_CHARACTERS:
        raise InputError(f"got {len(abc):,} characters of ABC: expected at most {MAX_CHARACTERS:,}")
    tunes = split(abc)
    if not tunes:
        raise InputError("got no tune: expected ABC notation, which begins with X:1 and ends its header with K:")
    reader = Reader(tunes[0])
    reader.read()
    fields = reader.fields
    tempo = reader.tempo or reader.usual()
    return Tune(tunes[0], fields.get("T", ""), reader.first_metre, fields["K"], tempo, tuple(reader.bars))


def split(abc: str) -> list[str]:
    """The tunes of a collection: each from its X: to the next blank line."""
    found = re.findall(r"^X:.*(?:\n(?!\s*\n)(?!X:).+)*", abc.replace("\r", ""), re.MULTILINE)
    return [tune.rstrip() + "\n" for tune in found]


def triad(symbol: str) -> tuple[int, ...]:
    """ "F#m7" → MIDI pitches of root, third and fifth around middle C's octave below; () where it is no chord."""
    match = re.match(r"([A-G])([#b]?)(maj|min|dim|m(?!a))?", symbol)
    if match is None:
        return ()
    root = 48 + (SEMITONES[match[1]] + {"#": 1, "b": -1, "": 0}[match[2]]) % 12
    return root, root + THIRDS.get(match[3] or "", 4), root + (6 if match[3] == "dim" else 7)


def _add(melody: list[Sound], note: Note, start: float, length: float, tied: bool) -> None:
    """Add a note's pitches, or lengthen those that a tie holds."""
    for pitch in note.pitches:
        held = next((i for i in range(len(melody) - 1, -1, -1) if melody[i].pitch == pitch), None) if tied else None
        if held is not None and abs(melody[held].start + melody[held].length - start) < 1e-6:
            melody[held] = melody[held]._replace(length=melody[held].length + length)
        else:
            melody.append(Sound(start, length, pitch, "melody"))


def adds_up(abc: str) -> bool:
    """Whether a text is a tune, with its number, metre and key (X, M, K), whose bars add up."""
    try:
        return not parse(abc).faults()
    except InputError:
        return False
