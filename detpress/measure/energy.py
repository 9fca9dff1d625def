"""Energy that the processor has used, from Intel's and AMD's own counters (RAPL) as Linux shows them."""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
Energy = dict[Path, tuple[int, int]]  # package -> microjoules counted, microjoules at which it begins again


def read_energy(powercap: Path = POWERCAP) -> Energy | None:
    """The counters of all processor packages; None where there are none, or this user may not read them."""
    try:
        found = {
            package: (int((package / "energy_uj").read_text()), int((package / "max_energy_range_uj").read_text()))
            for package in sorted(powercap.glob("intel-rapl:*"))
            # intel-rapl:0:0 is a part of intel-rapl:0; psys, on its level, is the whole board, packages included.
            if package.name.count(":") == 1 and (package / "name").read_text().startswith("package")
        }
    except OSError:
        return None
    return found or None


def joules_between(before: Energy | None, after: Energy | None) -> float | None:
    """What all packages used together; a counter may have begun again once. None where a reading is."""
    if before is None or after is None:
        return None
    used = [(after[package][0] - counted) % (limit + 1) for package, (counted, limit) in before.items()]
    return sum(used) / 1e6
