"""Folk tunes as a network learns them: one form for every tune, and each in the keys around its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from edgekit import music, notation

UNIT = Fraction(1, 8)
LETTERS = "CDEFGAB"
SIGNS = {-2: "__", -1: "_", 0: "=", 1: "^", 2: "^^"}
KEYS = ("F", "C", "G", "D", "A")  # where a tune in a major key is moved to; minor keys likewise
MINOR_KEYS = ("Dm", "Am", "Em", "Bm", "F#m")


def taken(abc: str) -> music.Tune | None:
    """The tune of a text; None for one to leave out: bars that do not add up, a change of metre or key on the way."""
    names = ["".join(pair) for pair in re.findall(r"^([MKLV]):|\[([MKLV]):", abc, re.MULTILINE)]
    if len(names) != len(set(names)) or "V" in names or not music.adds_up(abc):
        return None
    return music.parse(abc)


def settled(tune: music.Tune, key: str | None = None) -> str:
    """A tune with lengths in eighths, no spaces, a line a section, plain chord symbols; moved to `key` if that is given."""
    header = "".join(f"{name}:{value}\n" for name, value in _header(tune, key))
    return f"{header}{_body(tune, key)}\n"


def keys_around(tune: music.Tune) -> Iterator[str]:
    """The keys to move a tune to: its own, and those of the instruments that play such tunes."""
    near = KEYS if tune.key in KEYS else MINOR_KEYS if tune.key in MINOR_KEYS else ()
    yield tune.key
    yield from (key for key in near if key != tune.key)


def _header(tune: music.Tune, key: str | None) -> Iterator[tuple[str, str]]:
    yield "X", "1"
    yield "T", re.sub(r"[^A-Za-z' ]", "", tune.title).strip()[:40] or "Untitled"
    yield "M", re.findall(r"^M:\s*(\S+)", tune.abc, re.MULTILINE)[0]
    yield "L", str(UNIT)
    yield "K", key or tune.key


def _body(tune: music.Tune, key: str | None) -> str:
    """The music after K:, token by token."""
    unit = re.findall(r"^L:\s*(\S+)", tune.abc, re.MULTILINE)
    metre = tune.metre or Fraction(1)
    factor = (Fraction(unit[0]) if unit else Fraction(1, 16 if metre < Fraction(3, 4) else 8)) / UNIT
    shift = _Shift(tune.key, key or tune.key)
    lines = re.split(r"^K:.*\n", tune.abc, flags=re.MULTILINE)[-1].splitlines()
    text = "".join(line.split("%")[0].strip() for line in lines if not re.match(r"[A-Za-z]:(?![|:])", line))
    parts: list[str] = []
    for match in notation.TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "symbol":
            parts.append(shift.symbol(match[0]))
        elif kind == "note":
            parts.append(notation.PART.sub(lambda m: shift.note(m) + _scaled(m, factor), _resized(match[0], factor)))
        elif kind == "line":
            parts.append(match[0].replace("[|", "||").replace("|]", "||"))
        elif kind != "skip":
            parts.append(match[0])
    return re.sub(r"[|:]+", _plain_line, "".join(parts)).replace("\n[", "[").rstrip("\n") + "\n"


def _plain_line(match: re.Match[str]) -> str:
    """Bar lines with nothing between them, as one of | || |: :| and a pair of the last two, a line after a section."""
    lines = match[0]
    ends, starts = lines[0] == ":", len(lines) > 1 and lines[-1] == ":"
    if ends or starts:
        return ":|\n|:" if ends and starts else ":|\n" if ends else "|:"
    return "|" if lines == "|" else "||\n"


def _resized(text: str, factor: Fraction) -> str:
    """Spaces out; a rest's own length in eighths (notes are scaled where they are moved)."""
    text = re.sub(r"\s", "", text)
    rest = re.match(r"[zx](\d*)(/*)(\d*)$", text)
    return text[0] + _length(notation.length_of(rest[1], rest[2], rest[3]) * factor) if rest else text


def _scaled(match: re.Match[str], factor: Fraction) -> str:
    return _length(notation.length_of(match[4], match[5], match[6]) * factor)


def _length(value: Fraction) -> str:
    """3/2 → "3/2", 1 → "", 1/2 → "/", 2 → "2"."""
    above = "" if value.numerator == 1 else str(value.numerator)
    below = {1: "", 2: "/"}.get(value.denominator, f"/{value.denominator}")
    return above + (f"/{value.denominator}" if above and below else below)


class _Shift:
    """Moves notes and chord symbols from one key to another, by the shortest way."""

    def __init__(self, source: str, target: str) -> None:
        self.before, self.after = notation.signature(source), notation.signature(target)
        steps = (LETTERS.index(target[0]) - LETTERS.index(source[0])) % 7
        self.steps = steps if steps <= 3 else steps - 7

    def letter(self, letter: str) -> str:
        return LETTERS[(LETTERS.index(letter) + self.steps) % 7]

    def note(self, match: re.Match[str]) -> str:
        accidental, letter, octave = match[1], match[2], match[3]
        place = LETTERS.index(letter.upper()) + self.steps + 7 * letter.islower()
        place += 7 * (octave.count("'") - octave.count(","))
        name = LETTERS[place % 7]
        sign = ""
        if accidental:
            lifted = notation.ACCIDENTALS[accidental] - self.before.get(letter.upper(), 0)
            sign = SIGNS.get(lifted + self.after.get(name, 0), "")
        return sign + (name + "," * (-(place // 7)) if place < 7 else name.lower() + "'" * (place // 7 - 1))

    def symbol(self, text: str) -> str:
        """A chord symbol with nothing but root, m and 7; "" where it is none."""
        match = re.match(r'"([A-G])([#b]?)(m(?!a))?(7)?', text)
        if match is None:
            return ""
        lifted = {"#": 1, "b": -1, "": 0}[match[2]] - self.before.get(match[1], 0)
        name = self.letter(match[1])
        sign = {1: "#", 0: "", -1: "b"}.get(lifted + self.after.get(name, 0))
        return "" if sign is None else f'"{name}{sign}{match[3] or ""}{match[4] or ""}"'
