"""ABC notation read token by token into bars of notes.

ABC standard 2.1 (abcnotation.com/wiki/abc:standard:v2.1) for one voice: fields, keys and modes,
accidentals that last a bar, octaves, lengths, chords, tuplets, broken rhythm, ties, repeats with endings,
chord symbols. Decorations, grace notes, slurs and words are passed over. A tie inside a chord ties all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from edgekit.errors import InputError

FIFTHS = {"F": -1, "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5}
MODES = {"": 0, "maj": 0, "ion": 0, "m": -3, "min": -3, "aeo": -3, "mix": -1, "dor": -2, "phr": -4, "lyd": 1, "loc": -5}
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
TUPLETS = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # notes: in the time of; others depend on the metre

MAX_BARS = 5_000  # as written, and as played
MAX_CHORD = 32  # notes
LENGTH = r"\d{0,4}(?:/{1,4}\d{0,4})?"
NOTE = rf"(?:\^\^|\^|__|_|=)?[A-Ga-g][',]{{0,4}}{LENGTH}"
TOKEN = re.compile(
    rf"""(?P<skip>[\s`\\]+|[()](?!\d)|![^!\n]*!|\+\w+\+|[~.HLMOPSTuv]{{1,8}}(?=[\^_=A-Ga-g\[zx(\"!{{])|\{{[^}}]*\}}|y\d*|\)|"[\^_<>@][^"]*")
    |(?P<inline>\[[A-Za-z]:[^\]]*\])
    |(?P<ending>\[\d[\d,-]*|(?<=[|:])\d[\d,-]*)
    |(?P<line>\[\||[:|]+\]?)
    |(?P<symbol>"[^"]*")
    |(?P<note>\[\s*(?:{NOTE}-?\s*)+\]{LENGTH}|{NOTE}|[zx]{LENGTH})
    |(?P<rests>Z\d{{0,3}})
    |(?P<tie>-)
    |(?P<broken><{{1,3}}|>{{1,3}})
    |(?P<tuplet>\(\d(?::\d?){{0,2}})""",
    re.VERBOSE,
)
PART = re.compile(r"(\^\^|\^|__|_|=)?([A-Ga-g])([',]*)(\d*)(/*)(\d*)")


@dataclass(frozen=True)
class Note:
    """MIDI pitches (none for a rest), length in whole notes, and whether a tie leads to the next note."""

    pitches: tuple[int, ...]
    length: Fraction
    tied: bool = False


@dataclass
class Bar:
    """The notes between two bar lines; `opening` and `closing` are those lines, `endings` its numbers if it opens one.

    `symbols` are chord symbols with their time in the bar. `metre` is None where it is free. `length` is that of
    all notes: `add` and `change_last` keep it.
    """

    line: int
    metre: Fraction | None
    opening: str
    endings: tuple[int, ...] = ()
    notes: list[Note] = field(default_factory=list)
    symbols: list[tuple[Fraction, str]] = field(default_factory=list)
    closing: str = ""
    length: Fraction = Fraction(0)

    def add(self, note: Note) -> None:
        self.notes.append(note)
        self.length += note.length

    def change_last(self, note: Note) -> None:
        self.length += note.length - self.notes[-1].length
        self.notes[-1] = note

    @property
    def cut(self) -> bool:
        """Whether a repeat, a double line or an ending follows: where a bar may be in two halves."""
        return self.closing != "|"


class Reader:
    """Reads one tune, line by line; `fields`, `bars`, `tempo` and `first_metre` are what it says."""

    def __init__(self, abc: str) -> None:
        self.abc = abc
        self.fields: dict[str, str] = {}
        self.metre: Fraction | None = None
        self.beat = Fraction(1, 4)
        self.unit: Fraction | None = None
        self.signature: dict[str, int] = {}
        self.accidentals: dict[str, int] = {}
        self.sounding: dict[int, int] = {}  # the last note's natural pitches, and how far each is raised
        self.held: dict[int, int] = {}  # those that a tie holds over a bar line
        self.tempo: float | None = None
        self.bars: list[Bar] = []
        self.bar = Bar(1, None, "")
        self.factor = Fraction(1)  # broken rhythm, for the next note
        self.tuplet: tuple[Fraction, int] = (Fraction(1), 0)
        self.place = (1, 1)

    def read(self) -> None:
        """Read all of it.

        Raises:
            InputError: what is not ABC, with its line and column.
        """
        body = False
        for number, text in enumerate(self.abc.splitlines(), start=1):
            text = text.split("%")[0]
            self.place = (number, 1)
            named = re.match(r"([A-Za-z]):(?![|:])(.*)", text)
            if named:
                self.read_field(named[1], named[2].strip())
                body = body or named[1] == "K"
            elif body:
                self.read_music(text)
            elif text.strip():
                raise self.error(text.strip()[:20], "a header field such as M:4/4; K: ends the header")
        self.close("|")
        if "K" not in self.fields:
            raise self.error("no K: field", "a key, such as K:G, at the end of the header")
        if not self.bars:
            raise self.error("no notes", "music after K:")

    @property
    def first_metre(self) -> Fraction | None:
        return _metre(self.fields["M"]) if "M" in self.fields else None

    def usual(self) -> float:
        """Quarter notes a minute where Q: does not say: dotted quarters at 110 in jigs, quarters at 140 else."""
        return 165.0 if self.fields.get("M", "").strip() in ("6/8", "9/8", "12/8") else 140.0

    def error(self, got: str, expected: str) -> InputError:
        return InputError(f"ABC line {self.place[0]}, column {self.place[1]}: got {got!r}, expected {expected}")

    def read_field(self, name: str, value: str) -> None:
        self.fields.setdefault(name, value)
        try:
            if name == "M":
                self.metre = _metre(value)
                if not self.bar.notes:
                    self.bar.metre = self.metre
            elif name == "L":
                self.unit = _fraction(value)
            elif name == "K":
                self.signature = signature(value)
            elif name == "Q":
                self.tempo = self.read_tempo(value)
        except (ValueError, ZeroDivisionError, KeyError):
            example = {"M": "M:6/8", "L": "L:1/8", "K": "K:Em", "Q": "Q:1/4=120"}[name]
            raise self.error(f"{name}:{value}", f"a value such as {example}") from None

    def read_tempo(self, value: str) -> float | None:
        """ "1/4=120", "120" or '"Allegro" 3/8=90' → quarter notes a minute; words alone leave the tempo as it is."""
        number = re.sub(r'"[^"]*"', "", value).strip()
        if value and not number:
            return self.tempo
        beat, _, count = number.rpartition("=")
        tempo = float(count) * float(_fraction(beat) if beat.strip() else Fraction(1, 4)) * 4
        if not 10 <= tempo <= 1000:
            raise ValueError(value)
        return tempo

    def read_music(self, text: str) -> None:
        at = 0
        while at < len(text):
            self.place = (self.place[0], at + 1)
            match = TOKEN.match(text, at)
            if match is None or match.end() == at:
                raise self.error(text[at : at + 8], "a note, rest, bar line or chord symbol")
            kind = str(match.lastgroup)
            if kind != "skip":
                getattr(self, f"read_{kind}")(match[0])
            at = match.end()

    def read_line(self, line: str) -> None:
        self.close(line)

    def read_ending(self, text: str) -> None:
        """ "[1", "2" or "1,3" or "1-3": an ending opens here."""
        numbers: list[int] = []
        for part in re.findall(r"\d(?:-\d)?", text):
            numbers += range(int(part[0]), int(part[-1]) + 1)
        if self.bar.notes:
            self.close("[")
        self.bar.endings = tuple(numbers)
        if self.bars and self.bars[-1].closing == "|":
            self.bars[-1].closing = "|["

    def close(self, line: str) -> None:
        """End the bar at a bar line, unless it is empty; then lines that follow each other are one."""
        plain = "|" if line == "|" else line.replace("[|", "||").replace("|]", "||")
        if self.bar.notes:
            self.keep_bar(plain)
        elif self.bars:
            self.bars[-1].closing = _joined(self.bars[-1].closing, plain)
        opening = _joined(self.bar.opening, plain) if not self.bar.notes else plain
        endings = () if self.bar.notes else self.bar.endings
        self.bar = Bar(self.place[0], self.metre, opening, endings)
        self.accidentals = {}

    def keep_bar(self, closing: str) -> None:
        if len(self.bars) == MAX_BARS:
            raise self.error(f"more than {MAX_BARS} bars", "a shorter tune")
        if self.bar.length.denominator > 10**9:
            raise self.error("a bar of many odd lengths", "lengths that add up, such as C/2 or C3/4")
        self.bar.closing = closing
        self.bars.append(self.bar)
        self.held = self.sounding if self.bar.notes[-1].tied else {}

    def read_inline(self, text: str) -> None:
        self.read_field(text[1], text[3:-1].strip())

    def read_symbol(self, text: str) -> None:
        self.bar.symbols.append((self.bar.length, text.strip('"')))

    def read_note(self, text: str) -> None:
        inside, _, outside = text[1:].partition("]") if text[0] == "[" else (text, "", "")
        parts = PART.findall(inside)
        if len(parts) > MAX_CHORD:
            raise self.error(f"a chord of {len(parts)} notes", f"at most {MAX_CHORD}")
        self.sounding = {}
        pitches = tuple(self.pitch(*part[:3]) for part in parts)
        length = length_of(*(parts[0][3:] if parts else _rest(text))) * (
            length_of(*_rest("z" + outside)) if outside else 1
        )
        if self.unit is None:
            self.unit = Fraction(1, 16) if self.metre is not None and self.metre < Fraction(3, 4) else Fraction(1, 8)
        ratio, left = self.tuplet
        length = length * self.unit * self.factor * (ratio if left else 1)
        self.factor, self.tuplet = Fraction(1), (ratio, max(0, left - 1))
        if length <= 0:
            raise self.error(text, "a length above 0")
        if not self.bar.notes:
            self.bar.line = self.place[0]
        self.bar.add(Note(pitches, length, tied="-" in inside))
        self.held = {}

    def pitch(self, accidental: str, letter: str, octave: str) -> int:
        name = letter.upper()
        if accidental:
            self.accidentals[name] = ACCIDENTALS[accidental]
        height = 72 if letter.islower() else 60
        natural = height + SEMITONES[name] + 12 * (octave.count("'") - octave.count(","))
        usual = self.accidentals.get(name, self.signature.get(name, 0))
        self.sounding[natural] = usual if accidental else self.held.get(natural, usual)
        return natural + self.sounding[natural]

    def read_rests(self, text: str) -> None:
        """Z4: rests of whole bars."""
        if self.metre is None:
            raise self.error(text, "a metre (M:) before rests of whole bars")
        for _ in range(int(text[1:] or 1)):
            self.bar.add(Note((), self.metre))
            self.close("|")

    def read_tie(self, text: str) -> None:
        self.change_last(text, tied=True)

    def read_broken(self, text: str) -> None:
        """a>b: the first lasts half as long again, the second half as long; a<b the other way."""
        if self.factor != 1:
            raise self.error(text, "a note between two marks of broken rhythm")
        short = Fraction(1, 2 ** len(text))
        first, self.factor = (2 - short, short) if text[0] == ">" else (short, 2 - short)
        self.change_last(text, times=first)

    def change_last(self, text: str, tied: bool = False, times: Fraction = Fraction(1)) -> None:
        if not self.bar.notes:
            raise self.error(text, "a note before it")
        note = self.bar.notes[-1]
        self.bar.change_last(replace(note, tied=tied or note.tied, length=note.length * times))

    def read_tuplet(self, text: str) -> None:
        """(p:q:r, p notes in the time of q, for the next r."""
        given = [int(n) if n else 0 for n in text[1:].split(":")] + [0, 0]
        compound = self.metre is not None and self.metre.denominator == 4 and self.fields.get("M", "").endswith("/8")
        count = given[0]
        time = given[1] or TUPLETS.get(count, 3 if compound else 2)
        if count == 0:
            raise self.error(text, "a tuplet of 2 to 9 notes")
        self.tuplet = (Fraction(time, count), given[2] or count)


def _joined(first: str, second: str) -> str:
    """Two bar lines with nothing between them, as one: its first part closes, its last part opens."""
    if first in ("", "|"):
        return second if second != "|" or not first else first
    return first + second if second not in ("|", "") else first


def _metre(text: str) -> Fraction | None:
    text = {"C": "4/4", "C|": "2/2"}.get(text, text)
    return None if text in ("none", "") else _fraction(text)


def _fraction(text: str) -> Fraction:
    if not re.fullmatch(r"\d{1,4}(/\d{1,4})?", text.strip()):
        raise ValueError(text)
    value = Fraction(text.strip())
    if not 0 < value <= 16:
        raise ValueError(text)
    return value


def signature(text: str) -> dict[str, int]:
    """ "F#m" → {"F": 1, "C": 1, "G": 1}."""
    words = text.split()
    if not words or words[0] == "none":
        return {}
    if words[0].upper() == "HP":
        return {"F": 1, "C": 1}
    match = re.match(r"([A-G])([#b]?)([A-Za-z]*)$", words[0])
    if match is None:
        raise ValueError(text)
    mode = (match[3] or (words[1] if len(words) > 1 and words[1][:3].lower() in MODES else "")).lower()
    fifths = FIFTHS[match[1]] + {"#": 7, "b": -7, "": 0}[match[2]] + MODES[mode if mode == "m" else mode[:3]]
    sharps, flats = "FCGDAEB"[: max(0, fifths)], "BEADGCF"[: max(0, -fifths)]
    return dict.fromkeys(sharps, 1) | dict.fromkeys(flats, -1)


def _rest(text: str) -> tuple[str, str, str]:
    match = re.match(r".(\d*)(/*)(\d*)", text)
    assert match is not None
    return match[1], match[2], match[3]


def length_of(count: str, slashes: str, divisor: str) -> Fraction:
    """ "3/2", "/", "//", "2" in units."""
    below = int(divisor) if divisor else 2 ** len(slashes)
    return Fraction(int(count or 1), below) if below else Fraction(0)
