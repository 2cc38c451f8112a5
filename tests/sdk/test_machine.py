"""What a machine tells of itself, on faked /proc and /sys: boards, processors, heat and throttling."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import doctor, machine

PI4 = "fp asimd evtstrm crc32 cpuid"
PI5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def pi(root: Path, title: str = "Raspberry Pi 5 Model B Rev 1.0", features: str = PI5) -> Path:
    write(root, "proc/device-tree/model", f"{title}\0")
    write(root, "proc/cpuinfo", f"processor\t: 0\nFeatures\t: {features}\nCPU part\t: 0xd0b\n\nModel\t\t: {title}\n")
    write(root, "proc/meminfo", "MemTotal:        8255312 kB\nMemFree: 1 kB\n")
    write(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(root, "sys/class/thermal/thermal_zone0/temp", "54350\n")
    for name, kilohertz in (("scaling_cur_freq", 1500000), ("cpuinfo_max_freq", 2400000)):
        write(root, f"sys/devices/system/cpu/cpu0/cpufreq/{name}", f"{kilohertz}\n")
    write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    write(root, FIRMWARE, "0\n")
    return root


def vcgencmd(root: Path, body: str) -> None:
    write(root, "usr/bin/vcgencmd", f"#!/bin/sh\n{body}\n")
    (root / "usr/bin/vcgencmd").chmod(0o755)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    root = pi(tmp_path)
    assert machine.board(root) == machine.processor(root) == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.int8_units(root) == ("Arm dot product",)
    assert machine.memory_mb(root) == 8061 and machine.governor(root) == "ondemand"
    assert machine.temperature_c(root) == 54.4  # 54.35, rounded
    assert machine.clock_mhz(root) == {"now": 1500, "at most": 2400}
    assert machine.throttled(root) == {"now": [], "since start": []}
    assert machine.int8_units(pi(tmp_path / "4", "Raspberry Pi 4 Model B Rev 1.5", PI4)) == ()


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    for fact in (machine.board, machine.temperature_c, machine.clock_mhz, machine.throttled, machine.governor):
        assert fact(tmp_path) is None
    assert machine.memory_mb(tmp_path) is None and machine.int8_units(tmp_path) == ()
    assert machine.processor(tmp_path) and doctor.board(tmp_path) == []


def test_a_pc(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: sse2 avx512_vnni\n")
    for number, (kind, heat) in enumerate((("acpitz", 27800), ("x86_pkg_temp", 61000))):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", str(heat))
    assert machine.processor(tmp_path) == "A Processor" and machine.int8_units(tmp_path) == ("AVX512-VNNI",)
    assert machine.temperature_c(tmp_path) == 61.0 and machine.board(tmp_path) is None


def test_processors_that_virtual_machines_call_by_one_name_are_told_apart(tmp_path: Path) -> None:
    def named(title: str, model: int) -> str:
        root = tmp_path / f"{title}{model}"
        write(root, "proc/cpuinfo", f"cpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: {title}\nflags\t\t: avx2\n")
        return machine.processor(root)

    assert (named("AMD EPYC", 1), named("AMD EPYC", 97)) == (
        "AMD EPYC (family 25, model 1)",
        "AMD EPYC (family 25, model 97)",
    )
    assert named("Intel(R) Xeon(R) CPU @ 2.20GHz", 85).endswith(" (family 25, model 85)")
    assert named("AMD EPYC 7763 64-Core Processor", 1) == "AMD EPYC 7763 64-Core Processor"


def test_int8_figures_hold_where_units_are_had_or_not_alike(tmp_path: Path) -> None:
    write(tmp_path / "new", "proc/cpuinfo", "processor\t: 0\nflags\t\t: sse2 avx512_vnni amx_int8\n")
    write(tmp_path / "old", "proc/cpuinfo", "processor\t: 0\nflags\t\t: sse2 avx2\n")
    for units, new, old in ((("AVX-VNNI",), True, False), ((), False, True)):
        assert machine.computes_int8_like(units, tmp_path / "new") is new
        assert machine.computes_int8_like(units, tmp_path / "old") is old
        assert machine.computes_int8_like(units, tmp_path) is bool(units)  # a system that does not tell
    assert machine.computes_int8_like(None, tmp_path / "new") and machine.computes_int8_like(None, tmp_path)
    assert not machine.computes_int8_like(None, tmp_path / "old")


@pytest.mark.parametrize(
    ("word", "now", "before"),
    [
        ("0x0", [], []),
        ("0x50000", [], ["under-voltage", "throttled"]),
        ("0x50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        (
            "0xe000a",
            ["capped clock", "soft temperature limit"],
            ["capped clock", "throttled", "soft temperature limit"],
        ),
    ],
)
def test_what_the_firmware_says(tmp_path: Path, word: str, now: list[str], before: list[str]) -> None:
    vcgencmd(pi(tmp_path / "a"), f'[ "$1" = get_throttled ] && echo throttled={word}')
    write(pi(tmp_path / "b"), FIRMWARE, f"{int(word, 16):x}\n")  # as the kernel writes it
    for root in (tmp_path / "a", tmp_path / "b"):
        assert machine.throttled(root) == {"now": now, "since start": before}


@pytest.mark.parametrize("body", ["exit 1", "echo VCHI initialization failed", "exec sleep 60"])
def test_a_command_that_fails_says_nothing(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ANSWER_S", 0.5)
    root = tmp_path / "pc"
    vcgencmd(root, body)
    assert machine.throttled(root) is None
    write(root, "sys/devices/platform/soc@107c000000:firmware/get_throttled", "4\n")
    assert machine.throttled(root) == {"now": ["throttled"], "since start": []}  # the file is asked then


def told(root: Path) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in doctor.board(root)]


def test_doctor_tells_of_the_board(tmp_path: Path) -> None:
    root = pi(tmp_path)
    first = ("ok", "Raspberry Pi 5 Model B Rev 1.0, 54 °C, 1500 of 2400 MHz")
    assert told(root) == [first]
    write(root, "sys/class/thermal/thermal_zone0/temp", "78000\n")
    assert [level for level, _ in told(root)] == ["ok", "note"] and "a fan" in told(root)[1][1]
    write(root, FIRMWARE, "50001\n")
    (_, problem), (_, note) = told(root)[-2:]
    assert "slowed down now: under-voltage. What helps: a stronger power supply" in problem and "fan" not in problem
    assert "since its start: throttled. What helps: a heat sink or a fan" in note
    write(root, FIRMWARE, "zzz\n")
    assert [level for level, _ in told(root)] == ["ok", "note"]


def test_the_facts_beside_a_measurement() -> None:
    facts = machine.facts()
    assert {"board", "processor", "clock_mhz", "temperature_c", "throttled", "governor", "load_1min"} <= set(facts)
    assert machine._said(None) is None and machine._said({"now": [], "since start": []}) == "no"
    assert machine._said({"now": ["throttled"], "since start": ["under-voltage"]}) == (
        "throttled now, under-voltage since start"
    )
