"""Tunes: what ABC says, whether bars add up, the order of playing, MIDI and WAV files."""

from __future__ import annotations

import io
import struct
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edgekit import music, sound
from edgekit.errors import InputError
from edgekit.music import Tune, parse, triad


def tune(body: str, key: str = "C", metre: str = "4/4", unit: str = "1/8") -> Tune:
    return parse(f"X:1\nT:Test\nM:{metre}\nL:{unit}\nK:{key}\n{body}\n")


def melody(body: str, key: str = "C", metre: str = "4/4", unit: str = "1/8") -> list[tuple[tuple[int, ...], Fraction]]:
    """Pitches and length of every note as written."""
    return [(n.pitches, n.length) for bar in tune(body, key, metre, unit).bars for n in bar.notes]


def lengths(body: str, **fields: str) -> list[str]:
    return [str(length) for _, length in melody(body, **fields)]


def pitches(body: str, **fields: str) -> list[int]:
    return [p for chord, _ in melody(body, **fields) for p in chord]


def played(body: str) -> str:
    """The order of playing, as the pitches' names."""
    return "".join("CxDxEFxGxAxB"[p % 12] for bar in tune(body).played() for n in bar.notes for p in n.pitches)


def test_pitches_and_octaves() -> None:
    assert pitches("C D E c c' C, C,,") == [60, 62, 64, 72, 84, 48, 36]


def test_keys_and_modes() -> None:
    assert pitches("F C G", key="D") == [66, 61, 67]
    assert pitches("F", key="Em") == [66]
    assert pitches("B E A", key="Gm") == [70, 63, 69]
    assert pitches("F C", key="Ador") == [66, 60]
    assert pitches("F C", key="A Mixolydian") == [66, 61]
    assert pitches("F C", key="Bb") == [65, 60]
    assert pitches("F", key="none") == [65]
    assert pitches("F C G D A E B", key="C#") == [66, 61, 68, 63, 70, 65, 72]


def test_accidentals_last_a_bar() -> None:
    assert pitches("^F F f | F") == [66, 66, 78, 65]
    assert pitches("=F F | F", key="G") == [65, 65, 66]
    assert pitches("^^C __D") == [62, 60]


def test_lengths() -> None:
    assert lengths("C C2 C/ C/4 C3/2 C// z2") == ["1/8", "1/4", "1/16", "1/32", "3/16", "1/32", "1/4"]
    assert lengths("C", unit="1/4") == ["1/4"]
    assert [str(n.length) for n in parse("X:1\nM:2/4\nK:C\nC\n").bars[0].notes] == ["1/16"]
    assert [str(n.length) for n in parse("X:1\nM:6/8\nK:C\nC\n").bars[0].notes] == ["1/8"]


def test_broken_rhythm_tuplets_chords() -> None:
    assert lengths("C>D E<F G>>A") == ["3/16", "1/16", "1/16", "3/16", "7/32", "1/32"]
    assert lengths("(3CDE F") == ["1/12"] * 3 + ["1/8"]
    assert lengths("(3:2:2C2D F") == ["1/6", "1/12", "1/8"]
    assert lengths("(2CD", metre="6/8") == ["3/16", "3/16"]
    assert melody("[CEG]2 [C2E2]") == [((60, 64, 67), Fraction(1, 4)), ((60, 64), Fraction(1, 4))]


def test_what_is_passed_over() -> None:
    assert pitches('"Am"A {cd}B !trill!c ~d .e (fg) "^slowly"a `b \\') == [69, 71, 72, 74, 76, 77, 79, 81, 83]
    assert pitches("C % D\nw: la la\nE") == [60, 64]


def test_fields_inside_the_tune() -> None:
    assert pitches("F |[K:G] F") == [65, 66]
    assert lengths("C4C4 |\nM:3/4\nC2C2C2 |[L:1/4]C3|") == ["1/2", "1/2", "1/4", "1/4", "1/4", "3/4"]
    assert tune("C4C4 |\nM:3/4\nC2C2C2 |").faults() == []


def test_order_of_playing() -> None:
    assert played("C8 | D8 :| E8") == "CDCDE"
    assert played("C8 |: D8 | E8 :| F8 |]") == "CDEDEF"
    assert played("|: C8 |1 D8 :|2 E8 |]") == "CDCE"
    assert played("|: C8 |[1 D8 :|[2 E8 || F8 |: G8 :|") == "CDCEFGG"
    assert played("|: C8 :: D8 :|") == "CCDD"
    assert played("C8 :| D8 :|") == "CCDD"
    assert played("|: C8 |1,2 D8 :|3 E8 :| F8 |]") == "CDCDCEF"
    assert played("|:C8||D8:|") == "CDCD"


def test_endless_repeats_are_bounded() -> None:
    with pytest.raises(InputError, match="bars"):
        tune("C8|" * 5_001).played()


def test_bars_that_add_up() -> None:
    assert tune("C4 D4 | E8 |]").faults() == []
    assert tune("G2 | C4 D4 | E8 | C6 :| A2 | C8 | D6 |]").faults() == []
    assert tune("G2 |: C4 D4 |1 E6 G2 :|2 E6 |]").faults() == []
    assert tune("C8 | D8 | E2 |]").faults() == []


def test_bars_that_do_not() -> None:
    assert tune("C4 D4 | E4 | F8 |]").faults() == ["line 6: a bar of 1/2, expected 1"]
    assert tune("C4 D4 |\nE4 D4 D |\nF8 |]").faults() == ["line 7: a bar of 9/8, expected 1"]
    assert tune("C8 | D4 :| E8 |]").faults() != []
    assert tune("C8 C | D8 |]").faults() == ["line 6: a bar of 9/8, expected 1"]
    assert tune("z8 | z8 |]").faults() == ["no notes"]
    assert parse("X:1\nK:C\nCDE\n").faults() == ["no metre: M: is missing or 'none'"]
    assert music.adds_up("X:1\nM:4/4\nL:1/8\nK:C\nC8|]\n")
    assert not music.adds_up("nonsense")


def test_decorations_and_words() -> None:
    assert pitches("!D.C.!C !>!D !<(!E vTF T{g}G") == [60, 62, 64, 65, 67]
    assert parse('X:1\nQ:"Allegro"\nK:C\nC').tempo == 140
    assert parse('X:1\nQ:90\nK:C\nC\nQ:"slower"\nD').tempo == 90


def test_a_line_of_one_note_and_a_repeat_is_music() -> None:
    assert played("C::\nD:|:\nE8:|") == "CCDDEE"


def test_a_tie_keeps_the_accidental_over_the_bar_line() -> None:
    assert pitches("^F4-|\nF4 F4|F") == [66, 66, 65, 65]
    assert pitches("^F4-|=F4 F4") == [66, 65, 65]
    assert pitches("^F4-|f F") == [66, 77, 65]
    assert pitches("[^F-A]4|[FA]4") == [66, 69, 66, 69]


def test_a_tie_in_a_chord() -> None:
    sounds = parse("X:1\nL:1/4\nQ:60\nK:C\n[C-E-]2[CE]|]\n").sounds()
    assert [(s.start, s.length, s.pitch) for s in sounds] == [(0.0, 3.0, 60), (0.0, 3.0, 64)]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "body",
    [
        "[" + "C1111" * 3_000,
        "Z999|" * 400,
        "C" + ">" * 90_000,
        "[" + "C" * 33 + "]",
        "".join(f"C/{i}" for i in range(1, 9_999)),
    ],
)
def test_what_would_take_too_long_is_refused(body: str) -> None:
    with pytest.raises(InputError, match="line 6"):
        tune(body)


@pytest.mark.timeout(10)
def test_many_chord_symbols_are_read_in_one_pass() -> None:
    assert len(tune('"C"C' * 20_000).bars[0].symbols) == 20_000


@pytest.mark.parametrize(
    ("abc", "says"),
    [
        ("", "no tune"),
        ("To be, or not to be", "no tune"),
        ("X:1\nM:4/4\n", "no K: field"),
        ("X:1\nK:C\n", "no notes"),
        ("X:1\nM:x\nK:C\nC\n", "line 2.*M:6/8"),
        ("X:1\nM:1/0\nK:C\nC\n", "line 2.*M:6/8"),
        ("X:1\nM:1e-10000000\nK:C\nC\n", "line 2.*M:6/8"),
        ("X:1\nL:0\nK:C\nC\n", "line 2.*L:1/8"),
        ("X:1\nK:H\nC\n", "line 2.*K:Em"),
        ("X:1\nQ:fast\nK:C\nC\n", "line 2.*Q:1/4=120"),
        ("X:1\nK:C\nCD?E\n", r"line 3, column 3: got '\?E'"),
        ("X:1\nK:C\nCD[EG\n", r"line 3, column 3"),
        ("X:1\nK:C\n-C\n", "line 3, column 1.*a note before it"),
        ("X:1\nK:C\n>C\n", "line 3, column 1.*a note before it"),
        ("X:1\nK:C\nC0\n", "length above 0"),
        ("X:1\nK:C\nC/0\n", "length above 0"),
        ("X:1\nK:C\nZ\n", "metre"),
        ("X:1\nK:C\n(0CD\n", "tuplet"),
        ("X:1\nCDE\nK:C\n", "line 2.*header field"),
    ],
)
def test_malformed_tunes_say_where(abc: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(abc)


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(InputError, match="at most 100,000"):
        parse("X:1\nK:C\n" + "C" * 100_000)


def test_a_collection_is_split() -> None:
    text = "X:1\nK:C\nC\n\n\nX: 2\r\nK:D\r\nD\r\nX:3\nK:G\nG"
    assert music.split(text) == ["X:1\nK:C\nC\n", "X: 2\nK:D\nD\n", "X:3\nK:G\nG\n"]
    assert parse(text).key == "C"


def test_seconds_ties_and_chord_symbols() -> None:
    sounds = parse('X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\n"C"C2-C "G7"D | "?"D4 |]\n').sounds()
    notes = [(s.start, s.length, s.pitch) for s in sounds if s.part == "melody"]
    assert notes == [(0.0, 3.0, 60), (3.0, 1.0, 62), (4.0, 4.0, 62)]
    chords = [(s.start, s.length, s.pitch) for s in sounds if s.part == "chord"]
    assert chords == [(0.0, 3.0, 48), (0.0, 3.0, 52), (0.0, 3.0, 55), (3.0, 1.0, 55), (3.0, 1.0, 59), (3.0, 1.0, 62)]


def test_tie_over_a_bar_line() -> None:
    sounds = parse("X:1\nM:4/4\nL:1/4\nQ:60\nK:C\nC4-|C2D2|]\n").sounds()
    assert [(s.start, s.length) for s in sounds] == [(0.0, 6.0), (6.0, 2.0)]


def test_triads() -> None:
    assert triad("C") == (48, 52, 55)
    assert triad("F#m7") == (54, 57, 61)
    assert triad("Bb") == (58, 62, 65)
    assert triad("Cmaj7") == (48, 52, 55)
    assert triad("Bdim") == (59, 62, 65)
    assert triad("slowly") == ()


def read_midi(data: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Division, and (time in ticks, message) of the one track."""
    kind, size, format, tracks, division = struct.unpack(">4sIHHH", data[:14])
    assert (kind, size, format, tracks) == (b"MThd", 6, 0, 1)
    assert data[14:18] == b"MTrk" and struct.unpack(">I", data[18:22])[0] == len(data) - 22
    at, now, events = 22, 0, []
    while at < len(data):
        delta = 0
        while True:
            byte, at = data[at], at + 1
            delta = delta << 7 | byte & 0x7F
            if byte < 0x80:
                break
        now += delta
        status = data[at]
        length = 3 + data[at + 2] if status == 0xFF else 2 if status >> 4 == 0xC else 3
        events.append((now, data[at : at + length]))
        at += length
    assert events[-1][1] == b"\xff\x2f\x00"
    return division, events


def test_midi_holds_every_note() -> None:
    source = parse("X:1\nT:Ünïcode ☃\nM:4/4\nL:1/4\nQ:1/4=90\nK:D\nF2 [FA]2 | F4- | F4 |]\n")
    division, events = read_midi(source.midi())
    on = [(t, m[1]) for t, m in events if m[0] >> 4 == 9]
    off = [(t, m[1]) for t, m in events if m[0] >> 4 == 8]
    assert on == [(0, 66), (2 * division, 66), (2 * division, 69), (4 * division, 66)]
    assert sorted(off) == [(2 * division, 66), (4 * division, 66), (4 * division, 69), (12 * division, 66)]
    assert any(m[:3] == b"\xff\x51\x03" and int.from_bytes(m[3:], "big") == 666_667 for _, m in events)


def samples(data: bytes) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


def test_wav_plays_the_notes() -> None:
    source = parse("X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\nA4 | z4 | e4 |]\n")
    rate, heard = samples(source.wav(16_000))
    assert rate == 16_000
    assert len(heard) / rate == pytest.approx(12.12, abs=0.01)
    assert np.abs(heard).max() == pytest.approx(0.9 * 32767, rel=0.01)
    for start, frequency in ((0, 440.0), (8, 659.26)):
        part = heard[start * rate : (start + 2) * rate]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        assert np.argmax(spectrum) * rate / len(part) == pytest.approx(frequency, abs=1.0)
    assert np.abs(heard[5 * rate : 8 * rate]).max() == 0.0
    assert np.abs(heard[:8]).max() < 3_000 and np.abs(heard[-8:]).max() < 300  # no clicks


def test_wav_refuses_what_cannot_be() -> None:
    source = tune("C8|]")
    for rate in (0, 1_000, 1_000_000):
        with pytest.raises(InputError, match="rate"):
            source.wav(rate)
    with pytest.raises(InputError, match="minutes"):
        tune("C9999|" * 3).wav()
    with pytest.raises(InputError, match="samples.*lower the rate"):
        tune(("[" + "C" * 32 + "]99|") * 60).wav()
    with pytest.raises(InputError, match="samples"):
        tune("z6000|C").wav(192_000)


def test_midi_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="minutes"):
        tune("C9999|" * 3).midi()
    with pytest.raises(InputError, match="tempo"):
        sound.midi([], 0)


def test_midi_pitches_are_clamped() -> None:
    _, events = read_midi(tune(f"b{4 * chr(39)}8|").midi())
    assert [m[1] for _, m in events if m[0] >> 4 == 9] == [127]


def test_very_high_notes_stay_below_half_the_rate() -> None:
    _, heard = samples(tune("c''''8|]").wav(8_000))
    assert np.isfinite(heard).all()


def test_real_tunes_add_up_mostly(data: Path) -> None:
    """What the check itself says of the collection: the rest are parts to be played in another order, and slips."""
    tunes = music.split((data / "nottingham.abc").read_text())
    assert len(tunes) == 1_034
    assert sum(map(music.adds_up, tunes)) / len(tunes) > 0.9
