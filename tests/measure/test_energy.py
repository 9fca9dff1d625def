"""Energy counters, read from a tree as Linux shows them."""

from pathlib import Path

from detpress.measure.energy import joules_between, read_energy

NAMES = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl:0:0": "core"}


def count(powercap: Path, domain: str, microjoules: int, limit: int = 999_999) -> None:
    folder = powercap / domain
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{NAMES[domain]}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")


def test_packages_are_added_up_and_their_parts_left_out(tmp_path: Path) -> None:
    for domain in NAMES:
        count(tmp_path, domain, 100)
    before = read_energy(tmp_path)
    count(tmp_path, "intel-rapl:0", 300_100)
    count(tmp_path, "intel-rapl:1", 200_100)
    count(tmp_path, "intel-rapl:0:0", 250_100)
    count(tmp_path, "intel-rapl:2", 700_100)
    assert joules_between(before, read_energy(tmp_path)) == 0.5


def test_a_counter_that_began_again_goes_on_from_its_limit(tmp_path: Path) -> None:
    count(tmp_path, "intel-rapl:0", 900_000)
    before = read_energy(tmp_path)
    count(tmp_path, "intel-rapl:0", 400_000)
    assert joules_between(before, read_energy(tmp_path)) == 0.5


def test_without_counters_there_is_no_figure(tmp_path: Path) -> None:
    assert read_energy(tmp_path) is None
    assert joules_between(None, None) is None
    (tmp_path / "intel-rapl:0").mkdir()  # a package whose counter this user may not read
    assert read_energy(tmp_path) is None
