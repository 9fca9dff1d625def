"""What the bytes of coded layers are for, among a stage's figures and as a table."""

import csv
from collections.abc import Mapping

from detpress.contract.plugin import Workbench


def keep_bytes(bench: Workbench, table: Mapping[int, Mapping[str, float]]) -> None:
    """table: by layer number, bytes by what they are for, the same for each layer.

    Their sums become figures, such as `code_bytes`, and all of them `files/bytes.csv`.
    """
    parts = list(next(iter(table.values())))
    for part in parts:
        bench.figure(f"{part}_bytes", sum(row[part] for row in table.values()))
    with bench.keep("bytes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", *(f"{part} bytes" for part in parts)])
        writer.writerows([i, *(f"{row[part]:.1f}" for part in parts)] for i, row in table.items())
