"""NVIDIA's library by ctypes, against a stand-in compiled here: there is no card to test on.

The stand-in has the names and argument types of NVIDIA's header, so a wrong order or width of
arguments fails; what it cannot show is what a real driver answers.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgebench.agent.device import nvml
from edgebench.agent.device.nvml import Nvml

SOURCE = r"""
#include <string.h>
typedef struct { int id; } *dev;
static struct { int id; } cards[1] = {{42}};
static unsigned long long energy = 5000;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "550.54.15", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, dev *d) { *d = (dev)&cards[i]; return i ? 2 : 0; }
static int bad(dev d) { return d->id != 42; }
int nvmlDeviceGetName(dev d, char *s, unsigned n) { strncpy(s, "Stand-in", n); return bad(d); }
int nvmlDeviceGetEnforcedPowerLimit(dev d, unsigned *v) { *v = 250500; return bad(d); }
int nvmlDeviceGetMaxClockInfo(dev d, unsigned t, unsigned *v)
{ *v = t ? 5001 : 1980; return bad(d); }
int nvmlDeviceGetClockInfo(dev d, unsigned t, unsigned *v) { *v = t ? 5001 : 345; return bad(d); }
int nvmlDeviceGetApplicationsClock(dev d, unsigned t, unsigned *v) { return 3; }
int nvmlDeviceGetPersistenceMode(dev d, unsigned *v) { *v = 1; return bad(d); }
int nvmlDeviceGetEccMode(dev d, unsigned *c, unsigned *p) { *c = 1; *p = 0; return bad(d); }
int nvmlDeviceGetTemperature(dev d, unsigned s, unsigned *v) { *v = 41; return s || bad(d); }
int nvmlDeviceGetPowerUsage(dev d, unsigned *v) { *v = 61250; return bad(d); }
int nvmlDeviceGetTotalEnergyConsumption(dev d, unsigned long long *v)
{ *v = energy += 1000; return bad(d); }
int nvmlDeviceGetCurrentClocksThrottleReasons(dev d, unsigned long long *v)
{ *v = 0x45; return bad(d); }
struct violation { unsigned long long reference, time; };
int nvmlDeviceGetViolationStatus(dev d, int policy, struct violation *v)
{ v->reference = 9; v->time = policy ? 700 : 30; return bad(d); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the stand-in with")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(SOURCE)
    made = folder / "libstandin.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-o", str(made), str(folder / "nvml.c")], check=True
    )
    return str(made)


def test_card(library: str) -> None:
    found = Nvml.open(library)
    assert found is not None
    assert found.identity() == {
        "driver": "550.54.15",
        "cards": [
            {
                "name": "Stand-in",
                "power_limit_w": 250.5,
                "most_graphics_mhz": 1980,
                "most_memory_mhz": 5001,
                "application_graphics_mhz": None,
                "persistence": True,
                "ecc": True,
                "mig": None,
            }
        ],
    }
    assert found.state() == [
        {
            "graphics_mhz": 345,
            "memory_mhz": 5001,
            "temperature_c": 41,
            "power_w": 61.25,
            "slowed_by": ["power cap", "heat, by hardware"],
        }
    ]
    assert found.slowed_ns() == {"power": 30, "heat": 700}
    assert found.energy_mj(0) == 6000
    found.close()


def test_no_library_is_no_evidence() -> None:
    assert Nvml.open("libnvidia-ml-that-is-not-there.so.1") is None


def test_library_that_is_something_else() -> None:
    assert Nvml.open("libc.so.6") is None


def test_card_in_the_record(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebench.agent.device import device_record

    monkeypatch.setattr(nvml, "LIBRARY", library)
    runtime = {"name": "onnxruntime", "version": "1", "numpy": "2"}
    with_cuda = device_record(Path("/"), {**runtime, "providers": ["CUDAExecutionProvider"]})
    assert with_cuda["identity"]["gpu"] == ["Stand-in"]
    assert with_cuda["state"]["nvidia"][0]["power_w"] == 61.25
    assert "card 0 is slowed down now: power cap, heat, by hardware" in with_cuda["hazards"]


def test_card_counts_energy(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebench.agent.device import find_sensors

    monkeypatch.setattr(nvml, "LIBRARY", library)
    card = find_sensors(Path("/"))[-1]
    assert (card.name, card.kind, card.scope) == ("NVML Stand-in", "counter", "card 0")
    first, second = card.read(), card.read()
    assert first is not None
    assert second == first + 1_000_000
