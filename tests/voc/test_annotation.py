"""VOC XML files: what is read from good ones, and the one line that a bad one gets."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detpress.errors import InputError
from detpress.voc.annotation import Annotation, object_line, read_annotation

BCCD = Path(__file__).parents[3] / "shared/data/BCCD"

GOOD = """<annotation>
  <filename>000012.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object>
    <name>person</name>
    <truncated>1</truncated>
    <difficult>0</difficult>
    <bndbox><xmin>9</xmin><ymin>107</ymin><xmax>499</xmax><ymax>263.5</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>
  </object>
  <object>
    <name> dog </name>
    <truncated>Unspecified</truncated>
    <difficult>1</difficult>
    <bndbox><ymin>20</ymin><ymax>40</ymax><xmin>10</xmin><xmax>30</xmax></bndbox>
  </object>
</annotation>
"""


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "000012.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_objects_are_read_with_their_boxes_as_the_file_has_them(tmp_path: Path) -> None:
    found = read_annotation(written(tmp_path, GOOD))
    assert (found.image, found.width, found.height) == ("000012", 500, 375)
    assert found.names == ("person", "dog"), "the parts of a person are no objects"
    assert found.boxes.tolist() == [[9, 107, 499, 263.5], [10, 20, 30, 40]]
    assert found.difficult.tolist() == [False, True]
    assert found.truncated.tolist() == [True, False]
    assert [object_line(found, i) for i in range(2)] == [4, 11]


def test_an_image_may_hold_no_object(tmp_path: Path) -> None:
    found = read_annotation(written(tmp_path, re.sub("<object>.*</object>", "", GOOD, flags=re.DOTALL)))
    assert found.names == ()
    assert found.boxes.shape == (0, 4)
    assert found.degenerate.shape == (0,)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_a_declared_encoding_is_followed(tmp_path: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + GOOD.replace("person", "élève")
    assert read_annotation(written(tmp_path, text.encode(encoding))).names[0] == "élève"


def test_degenerate_boxes_have_no_area_or_lie_off_the_image(annotate: Callable[..., Annotation]) -> None:
    boxes = {
        (10, 10, 20, 20): False,
        (0, 0, 99, 79): False,  # counted from 0
        (-5, -5, 120, 90): False,  # sticks out on all sides
        (10, 10, 10, 20): True,
        (10, 20, 20, 10): True,
        (101, 10, 120, 20): True,  # the image has 100 columns
        (100, 10, 120, 20): False,
        (-9, 10, 0, 20): True,
        (-9, 10, 1, 20): False,
        (10, 81, 20, 90): True,  # and 80 rows
    }
    found = annotate("x", [("a", box, False) for box in boxes])
    assert dict(zip(boxes, found.degenerate.tolist(), strict=True)) == boxes


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not at ../shared/data/BCCD")
def test_bccd_holds_two_boxes_of_no_area() -> None:
    annotations = [read_annotation(path) for path in sorted((BCCD / "Annotations").glob("*.xml"))]
    assert sum(len(annotation.names) for annotation in annotations) == 4155 + 372 + 361
    assert [a.image for a in annotations if a.degenerate.any()] == ["BloodImage_00338", "BloodImage_00343"]
    assert sum(int(annotation.degenerate.sum()) for annotation in annotations) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</object>\n</annotation>", "</annotation>", r":16: malformed XML: mismatched tag"),
        ("<width>500</width>", "<width>-1</width>", r":3: size/width: expected a number of pixels, got '-1'"),
        ("<height>375</height>", "<height>high</height>", r":3: size/height: expected a number of pixels, got 'high'"),
        (
            "<height>375</height>",
            "<height>1e999</height>",
            r":3: size/height: expected a number of pixels, got '1e999'",
        ),
        ("<xmin>9</xmin>", "<xmin>nine</xmin>", r":4: object 1: xmin: expected a number, got 'nine'"),
        ("<xmin>9</xmin>", "<xmin>nan</xmin>", r":4: object 1: xmin: expected a number, got 'nan'"),
        ("<ymax>40</ymax>", "", r":11: object 2: ymax: expected a number, got ''"),
        ("<difficult>1<", "<difficult>hard<", r":11: object 2: difficult: expected a number, got 'hard'"),
        ("<name> dog </name>", "<name/>", r":11: object 2: expected <name>"),
        ("<annotation>", '<?xml version="1.0" encoding="ü"?><annotation>', r":1: malformed XML"),
        ("<annotation>", '<?xml version="1.0" encoding="klingon"?><!-- ü --><annotation>', r":1: .*klingon"),
    ],
)
def test_a_bad_file_is_told_by_file_line_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=re.escape(str(path)) + message) as caught:
        read_annotation(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("<width>500</width>", ""), ("500", "0"), ("500", " ")])
def test_a_size_may_be_zero_or_absent(tmp_path: Path, old: str, new: str) -> None:
    annotation = read_annotation(written(tmp_path, GOOD.replace(old, new)))
    assert annotation.size is None
    assert not annotation.degenerate.any()


def test_unspecified_is_not_difficult(tmp_path: Path) -> None:
    text = GOOD.replace("<difficult>1<", "<difficult>Unspecified<")
    assert text != GOOD
    assert not read_annotation(written(tmp_path, text)).difficult.any()


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.xml: cannot be read: No such file"):
        read_annotation(tmp_path / "absent.xml")


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE lolz [\n <!ENTITY a0 "lol">\n'
    + "".join(f' <!ENTITY a{i} "{f"&a{i - 1};" * 10}">\n' for i in range(1, 12))
    + "]>\n<annotation><object><name>&a11;</name></object></annotation>\n"
)
EXTERNAL = '\n<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<annotation>&x;</annotation>\n'
EMPTY = "\n<!DOCTYPE annotation>\n<annotation/>\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [BOMB, EXTERNAL, EMPTY], ids=["bomb", "external", "empty"])
def test_a_document_type_is_refused_before_an_entity_expands(tmp_path: Path, text: str, encoding: str) -> None:
    content = text.replace('<?xml version="1.0"?>', "") if encoding == "utf-16" else text
    with pytest.raises(InputError, match=r"000012.xml:\d+: document type refused; expected XML without <!DOCTYPE"):
        read_annotation(written(tmp_path, content.encode(encoding)))


@given(st.binary(max_size=200) | st.text(alphabet="<>/!&;[]abcn ?xml=\"'1", max_size=200).map(str.encode))
def test_whatever_the_bytes_the_answer_is_an_annotation_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.xml"
    for noise in (content, GOOD.encode().replace(b"<name>person</name>", content)):
        path.write_bytes(noise)
        with contextlib.suppress(InputError):
            assert np.isfinite(read_annotation(path).boxes).all()
