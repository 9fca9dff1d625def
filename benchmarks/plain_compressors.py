"""What general compressors make of a bundle's weights: the plain competitors of a detector's own coding.

    python benchmarks/plain_compressors.py BUNDLE [BUNDLE ...] [--json]

Bytes of `weights.safetensors` as it is, in a zip archive (DEFLATE, level 9), by xz (preset 9, extreme) and, where the
program is there, by zstd (level 22). Ratios are to the first bundle's file as it is.
"""

import argparse
import io
import json
import lzma
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [{"bundle": str(bundle), **compressed(bundle / "weights.safetensors")} for bundle in options.bundles]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    whole = rows[0]["as it is"]
    for row in rows:
        print(row.pop("bundle"))
        for name, size in row.items():
            print(f"  {name:<9}{size:>12,}  x{whole / size:.2f}")


def compressed(path: Path) -> dict[str, Any]:
    """Bytes by compressor."""
    content = path.read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(path.name, content)
    xz = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    found = {"as it is": len(content), "zip": len(archive.getvalue()), "xz": len(xz)}
    if zstd := shutil.which("zstd"):
        done = subprocess.run([zstd, "--ultra", "-22"], input=content, capture_output=True, check=True)
        found["zstd"] = len(done.stdout)
    return found


if __name__ == "__main__":
    main()
