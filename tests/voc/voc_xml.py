"""VOC's XML, written by hand."""

from collections.abc import Sequence

WIDTH, HEIGHT = 100, 80
Objects = Sequence[tuple[str, Sequence[float], bool]]  # class, VOC box, difficult


def annotation_xml(objects: Objects, width: object = WIDTH, height: object = HEIGHT) -> str:
    parts = [
        f"  <object>\n    <name>{name}</name>\n    <difficult>{int(difficult)}</difficult>\n    <bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox>\n  </object>\n"
        for name, box, difficult in objects
    ]
    size = f"  <size><width>{width}</width><height>{height}</height></size>\n"
    return f"<annotation>\n{size}{''.join(parts)}</annotation>\n"
