"""Files and arguments spoilt in fields, values and structure, thousands of times: read or refused, never a traceback.

    python benchmarks/fuzz.py [--count 1000] [--seed 0] [--json]

The targets are those of `tests/fuzz`; a fault is anything but success and a DetpressError, and is told with the number
of its mutation. Exits with 1 where there was one.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/fuzz"))
from fuzz_targets import count_outcomes, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="mutations of each target (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other mutations (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [count_outcomes(target, root, options.seed, options.count) for target in targets(root)]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{'target':<14}{'mutations':>10}{'accepted':>10}{'refused':>10}{'faults':>8}{'slowest':>10}")
        for row in rows:
            counts = f"{row['mutations']:>10,}{row['accepted']:>10,}{row['refused']:>10,}{len(row['faults']):>8,}"
            print(f"{row['target']:<14}{counts}{row['slowest_seconds']:>8.2f} s")
        for row in rows:
            for number, fault in row["faults"].items():
                print(f"{row['target']}, mutation {number}: {fault[:200]}")
    sys.exit(any(row["faults"] for row in rows))


if __name__ == "__main__":
    main()
