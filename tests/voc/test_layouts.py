"""The layouts that data sets lie in: found by themselves, read exactly, and what is wrong with one is told."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from voc_xml import HEIGHT, WIDTH, annotation_xml

from detpress.errors import InputError
from detpress.files.pictures import pictures_below
from detpress.run.data_inspection import inspect_data
from detpress.voc.convert import convert
from detpress.voc.devkit import Devkit
from detpress.voc.named import open_data

DOG, CAT = ("dog", (10, 10.5, 40, 50), False), ("cat", (1, 1, 100, 80), True)
CVAT = """<annotation><folder>day</folder><size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>dog</name><occluded>0</occluded><bndbox><xmin>10.25</xmin><ymin>1.5</ymin><xmax>20.0</xmax><ymax>30</ymax>
</bndbox><attributes><attribute><name>weather</name><value>rain</value></attribute></attributes>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object></annotation>
"""


def picture(path: Path, shade: int = 0, turned: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0))
    exif = image.getexif()
    if turned:
        exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], classes: list[str]) -> str:
    categories = [{"id": 7 * i + 3, "name": name} for i, name in enumerate(classes)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def image_entry(number: int, file_name: str) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT}


def names(data: Devkit, image_set: str) -> list[str]:
    return [annotation.image for annotation in data.image_set(image_set)]


@pytest.mark.parametrize(
    ("xml", "jpg"),
    [("Annotations/{}.xml", "JPEGImages/{}.jpg"), ("annotations/{}.xml", "images/{}.png"), ("{}.xml", "{}.JPG")],
)
def test_xml_needs_no_image_sets(tmp_path: Path, xml: str, jpg: str) -> None:
    for name in ("b", "day/a"):
        write(tmp_path / xml.format(name), annotation_xml([DOG, CAT]))
        picture(tmp_path / jpg.format(name))
    data = open_data(str(tmp_path))
    assert data.image_set_names == ("all",)
    assert names(data, "all") == ["b", "day/a"]
    b, a = data.image_set("all")
    assert data.image_path(a) == tmp_path / jpg.format("day/a")
    assert (b.names, b.boxes.tolist(), b.difficult.tolist()) == (
        ("dog", "cat"),
        [[10, 10.5, 40, 50], [1, 1, 100, 80]],
        [False, True],
    )
    assert data.classes == ("cat", "dog")
    assert "image sets" in data.layout.name or "beside" in data.layout.name


def test_folders_called_train_and_the_like_are_image_sets(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write(tmp_path / part / "a.xml", annotation_xml([DOG]))
        picture(tmp_path / part / "a.jpg")
        picture(tmp_path / part / "not annotated.jpg")
    data = open_data(str(tmp_path))
    assert data.image_set_names == ("test", "train", "valid")
    assert names(data, "valid") == ["valid/a"]
    with pytest.raises(InputError, match=r"no image set 'val'; did you mean 'valid'\?"):
        data.image_set("val")


def test_what_annotation_tools_add_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.xml", CVAT)
    picture(tmp_path / "a.png")
    (annotation,) = open_data(str(tmp_path)).image_set("all")
    assert annotation.names == ("dog",)
    assert annotation.boxes.tolist() == [[10.25, 1.5, 20.0, 30.0]]


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two image sets as Ultralytics writes them; one picture without a text, one with an empty one."""
    write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: {0: dog, 1: cat}\nnc: 2\n")
    for name in ("train/a", "train/b", "train/none", "val/c"):
        picture(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 1 1\n\n0 .25 0.5 0.3 0.25\n")
    write(tmp_path / "labels/train/b.txt", "")
    write(tmp_path / "labels/val/c.txt", "0 0.5 0.5 0.5 0.5\n")
    return tmp_path


def test_yolos_fractions_become_vocs_pixels(yolo: Path) -> None:
    data = open_data(str(yolo))
    assert (data.layout.name, data.classes, data.image_set_names) == ("YOLO text", ("dog", "cat"), ("train", "val"))
    assert names(data, "train") == ["train/a", "train/b", "train/none"]
    a, b, none = data.image_set("train")
    assert (a.size, a.names) == ((WIDTH, HEIGHT), ("cat", "dog"))
    assert a.boxes.tolist() == [[1, 1, 100, 80], [11, 31, 40, 50]]
    assert not a.difficult.any()
    assert (b.names, none.names) == ((), ())
    assert data.image_path(none) == yolo / "images/train/none.jpg"


def test_yolos_fractions_are_of_the_picture_as_people_see_it(yolo: Path) -> None:
    picture(yolo / "images/val/c.jpg", turned=True)
    (c,) = open_data(str(yolo)).image_set("val")
    assert (c.size, c.boxes.tolist()) == ((HEIGHT, WIDTH), [[21, 26, 60, 75]])


@pytest.mark.parametrize(
    "places",
    [
        "train: ../train/images\nval: ../val/images",
        "path: /content/set\ntrain: train/images/\nval: [val/images]",
        "train: train.txt\nval: lists/val.txt",
    ],
)
def test_data_yaml_as_others_write_it(tmp_path: Path, places: str) -> None:
    for part in ("train", "val"):
        picture(tmp_path / part / "images/a.jpg")
        write(tmp_path / part / "labels/a.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "train.txt", "./train/images/a.jpg\n")
    write(tmp_path / "lists/val.txt", "val/images/a.jpg\n")
    write(tmp_path / "data.yaml", f"{places}\nnames: [dog]\nroboflow: {{license: CC BY 4.0}}\n")
    data = open_data(str(tmp_path))
    assert data.image_set_names == ("train", "val")
    assert [data.image_set(name)[0].names for name in ("train", "val")] == [("dog",), ("dog",)]


def test_an_alias_of_one_value_is_that_value(yolo: Path) -> None:
    write(yolo / "data.yaml", "val: &place images/val\ntest: *place\nnames: [dog, cat]\n")
    assert names(open_data(str(yolo)), "test") == ["val/c"]


def test_a_folder_of_the_data_set_may_be_a_link(yolo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for part in ("images", "labels"):
        (yolo / part).rename(elsewhere / part)
        (yolo / part).symlink_to(elsewhere / part)
    assert names(open_data(str(yolo)), "val") == ["val/c"]


def test_a_folder_of_pictures_may_be_a_link_and_one_that_leads_back_is_no_circle(
    yolo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for part in ("images", "labels"):
        (yolo / part / "val").rename(elsewhere / part)
        (yolo / part / "train/val").symlink_to(elsewhere / part)
        (yolo / part / "train/back").symlink_to(yolo / part)
    write(yolo / "data.yaml", "train: images/train\nnames: [dog, cat]\n")
    assert names(open_data(str(yolo)), "train") == ["train/a", "train/b", "train/none", "train/val/c"]


def test_keys_of_data_yaml_that_name_no_pictures_are_no_image_sets(yolo: Path) -> None:
    write(yolo / "README.md", "# my data\n")
    more = "readme: README.md\nlicense: ''\ntest: ''\n"
    write(yolo / "data.yaml", f"train: images/train\nval: images/val\nnames: [dog, cat]\n{more}")
    assert open_data(str(yolo)).image_set_names == ("train", "val")


@pytest.mark.parametrize(
    ("classes", "jpg", "txt"),
    [("classes.txt", "images/{}.jpg", "labels/{}.txt"), ("classes.txt", "{}.png", "{}.txt")],
)
def test_classes_txt_names_the_classes(tmp_path: Path, classes: str, jpg: str, txt: str) -> None:
    write(tmp_path / classes, "dog\nbig cat\n")
    for name in ("a", "b"):
        picture(tmp_path / jpg.format(name))
        write(tmp_path / txt.format(name), "1 0.5 0.5 1 1")
    data = open_data(str(tmp_path))
    assert (data.classes, names(data, "all")) == (("dog", "big cat"), ["a", "b"])
    assert data.image_set("all")[0].names == ("big cat",)


@pytest.fixture(params=["coco", "roboflow", "single"])
def cocos(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The folder, and the name of the image set."""
    text, jpg, name = {
        "coco": ("annotations/instances_val2017.json", "val2017/{}", "val2017"),
        "roboflow": ("valid/_annotations.coco.json", "valid/{}", "valid"),
        "single": ("labels.json", "images/{}", "labels"),
    }[request.param]
    objects = [
        {"id": 1, "image_id": 5, "category_id": 10, "bbox": [0.1, 9.5, 10.2, 20], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 100, 80], "iscrowd": 1, "segmentation": {"a": 1}},
    ]
    images = [image_entry(5, "b.jpg"), image_entry(2, "day/a.png")]
    write(tmp_path / text, coco(images, objects, ["dog", "cat"]))
    if request.param == "coco":
        write(tmp_path / "annotations/captions_val2017.json", "{}")
    for entry in images:
        picture(tmp_path / jpg.format(entry["file_name"]))
    return tmp_path, name


def test_cocos_boxes_become_vocs_pixels(cocos: tuple[Path, str]) -> None:
    root, name = cocos
    data = open_data(str(root))
    assert (data.layout.name, data.classes, data.image_set_names) == ("COCO JSON", ("dog", "cat"), (name,))
    b, a = data.image_set(name)
    assert (b.image, a.image, a.names) == ("b", "day/a", ())
    assert b.names == ("cat", "dog")
    assert b.boxes.tolist() == [[1.1, 10.5, 10.3, 29.5], [1, 1, 100, 80]]
    assert b.difficult.tolist() == [False, True], "a crowd is neither found nor missed"
    assert data.image_path(a).name == "a.png"


def test_the_fingerprint_follows_the_content_and_not_the_place(yolo: Path, tmp_path_factory: Any) -> None:
    before = open_data(str(yolo)).fingerprint(["train", "val"])
    there = tmp_path_factory.mktemp("there") / "set"
    shutil.copytree(yolo, there)
    assert open_data(str(there)).fingerprint(["train", "val"]) == before
    write(there / "labels/val/c.txt", "0 0.5 0.5 0.5 0.5001\n")
    assert open_data(str(there)).fingerprint(["train", "val"]) != before
    shutil.copy(yolo / "labels/val/c.txt", there / "labels/val/c.txt")
    write(there / "data.yaml", (yolo / "data.yaml").read_text().replace("dog", "wolf"))
    assert open_data(str(there)).fingerprint(["train", "val"]) != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels/val/c.txt", "0 0.5 0.5 0.5\n", r"labels/val/c\.txt:1: expected class x y width height, got 4 columns"),
        ("labels/val/c.txt", "0 .1 .1 .2 .1 .2 .2\n", r"c\.txt:1: .* got 7 columns: an outline is no box"),
        ("labels/val/c.txt", "\n2 0.5 0.5 0.5 1\n", r"c\.txt:2: class: expected a number from 0 to 1, got '2'"),
        ("labels/val/c.txt", "0 50 0.5 0.5 1\n", r"c\.txt:1: x: expected a fraction of the picture, .* got '50'"),
        ("labels/val/c.txt", "0,.1,.1,.2,.1\n", r"c\.txt:1: .* got 1 columns, with commas; expected spaces"),
        ("labels/val/c.txt", "0 nan 0.5 0.5 1\n", r"c\.txt:1: x: expected a fraction"),
        ("labels/val/c.txt", "0 .5 0.5 -1 1\n", r"c\.txt:1: width: expected a fraction"),
        ("images/val/c.jpg", "", r"images/val/c\.jpg: cannot be read as an image"),
        ("data.yaml", "names: [dog\n", r"data\.yaml:2: not YAML"),
        ("data.yaml", "!!python/object:os.system {}\n", r"data\.yaml:1: not YAML"),
        ("data.yaml", "val: images/val\n", r"data\.yaml: names: missing; expected a list of class names"),
        ("data.yaml", "names: 3\n", r"data\.yaml: names: expected a list of class names, got 3"),
        ("data.yaml", "val: images/val\nnames:\n- dog\n- yes\n", r"data\.yaml:4: names: YAML reads yes as True"),
        ("data.yaml", "names: {0: dog, 1: 007}\nval: images/val\n", r"YAML reads 007 as 7: quote it"),
        ("data.yaml", f"names: [{'9' * 5000}]\nval: images/val\n", r"data\.yaml:1: not YAML: '9+\.\.\.9+' is no int"),
        ("data.yaml", f"val: images/val\nnames: [0x{'f' * 5000}]\n", r"data\.yaml:2: not YAML: '0xf+\.\.\.f+' is no"),
        ("data.yaml", f"nc: 0x{'f' * 5000}\n", r"data\.yaml:1: not YAML: '0xf+\.\.\.f+' is no int"),
        ("data.yaml", f"nc: 1{':59' * 3000}.5\n", r"data\.yaml:1: not YAML: '1:59.*' is no float"),
        ("data.yaml", "nc: !!int ''\n", r"data\.yaml:1: not YAML: '' is no int"),
        ("data.yaml", "names: [dog]\nval: images/val\nnames: [cat]\n", r"yaml:3: not YAML: key 'names' given twice"),
        ("data.yaml", "names:\n  0: dog\n  0: cat\nval: images/val\n", r"data\.yaml:3: not YAML: key '0' given twice"),
        ("data.yaml", "a: &a [x, x]\nb: [*a, *a]\n", r"data\.yaml:2: not YAML: an alias of more than one value; "),
        ("data.yaml", "names: [dog\x07]\n", r"data\.yaml: not YAML: unacceptable character #x0007.*"),
        ("data.yaml", "names: [dog, dog]\nval: images/val\n", r"data\.yaml: class 1: named twice: 'dog'"),
        ("data.yaml", "names: [dog]\nval: images/vla\n", r"data\.yaml: val: images/vla: nothing there within"),
        ("data.yaml", "names: [dog]\nval: /etc\n", r"data\.yaml: val: /etc: nothing there within"),
        ("data.yaml", "names: [dog]\n", r"data\.yaml: expected train, val or test"),
        ("data.yaml", 'names: [dog, "c\\u0001t"]\nval: images/val\n', r"class 1: 'c\\x01t': expected a name in UTF-8"),
        ("data.yaml", 'names: [dog, "c\\ud800t"]\nval: images/val\n', r"class 1: 'c\\ud800t': expected a name in U"),
        ("data.yaml", "names: [dog]\n../out: images/val\n", r"data\.yaml:2: '\.\./out': no name of an image set"),
        ("data.yaml", "names: [dog]\n/tmp/out: images/val\n", r"data\.yaml:2: '/tmp/out': no name of an image set"),
        ("data.yaml", 'names: [dog]\n"a\\0b": images/val\n', r"data\.yaml:2: 'a\\x00b': no name of an image set"),
        ("data.yaml", "nc: 3\nnames: [dog, cat]\nval: images/val\n", r"data\.yaml: nc: 3, but names has 2"),
    ],
)
def test_what_is_wrong_with_yolos_files(yolo: Path, name: str, text: str, message: str) -> None:
    write(yolo / name, text)
    with pytest.raises(InputError, match=message) as refused:
        open_data(str(yolo)).image_set("val")
    assert "\n" not in str(refused.value)


def test_a_folder_of_texts_by_another_name_is_named_and_not_read_as_no_objects(yolo: Path) -> None:
    (yolo / "labels").rename(yolo / "Labels")
    message = rf"data\.yaml: none of 4 pictures has a text, such as {yolo}/labels/train/a\.txt"
    with pytest.raises(InputError, match=message):
        open_data(str(yolo))


def test_texts_without_a_picture_are_told(yolo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    stray = write(yolo / "labels/val/lost.txt", "0 0.5 0.5 0.5 0.5\n")
    write(yolo / "labels/val/classes.txt", "dog\ncat\n")
    write(yolo / "labels/val/unlisted.txt", "")
    picture(yolo / "images/val/unlisted.png")
    write(yolo / "data.yaml", "train: images/train\nval: val.txt\nnames: [dog, cat]\n")
    write(yolo / "val.txt", "images/val/c.jpg\n")
    data = open_data(str(yolo))
    assert data.stray_texts() == [stray]
    assert inspect_data(data, lambda *_: None).strays == [str(stray)]
    [note] = convert(data, "coco", tmp_path_factory.mktemp("coco"))
    assert note == f"1 texts without a picture are left out, such as {stray}"


def test_an_object_given_twice_is_told(yolo: Path) -> None:
    line = "0 0.5 0.5 0.5 0.5\n"
    text = write(yolo / "labels/val/c.txt", f"{line}1 0.5 0.5 0.5 0.5\n{line}")
    [found] = inspect_data(open_data(str(yolo)), lambda *_: None).twice
    assert found.startswith(f"{text}:3 (dog): ")


BOX = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5]}


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([image_entry(1, "a.jpg")], [BOX | {"bbox": [0, 0, 5]}], r"annotations\[0\]: bbox: expected \[x, y, width,"),
        ([image_entry(1, "a.jpg")], [BOX | {"bbox": [0, 0, -5, 5]}], r"annotations\[0\]: bbox: expected"),
        ([image_entry(1, "a.jpg")], [BOX | {"bbox": [0, 0, float("nan"), 5]}], r"annotations\[0\]: bbox: expected"),
        ([image_entry(1, "a.jpg")], [BOX, BOX | {"image_id": 2}], r"annotations\[1\]: image_id: 2 is not in images"),
        ([image_entry(1, "a.jpg")], [BOX | {"category_id": [4]}], r"annotations\[0\]: category_id: expected a number"),
        ([image_entry(1, "a.jpg")], [BOX | {"category_id": 4}], r"annotations\[0\]: category_id: 4 is not in categ"),
        ([image_entry(1, "../a.jpg")], [], r"images\[0\]: file_name: '../a.jpg' climbs out"),
        ([image_entry(1, "a.jpg"), image_entry(2, "a.png")], [], r"images\[1\]: image 'a', id 2: named before"),
        ([image_entry(1, "a.jpg") | {"width": -3}], [], r"image 'a.jpg': width: expected a number of pixels, got -3"),
        ([{"id": 1}], [], r"images\[0\]: file_name: expected a picture's name, got None"),
        ([], [], r"images: empty"),
        (["a"], [], r"images\[0\]: expected an object, got 'a'"),
    ],
)
def test_what_is_wrong_with_cocos_json(tmp_path: Path, images: Any, annotations: Any, message: str) -> None:
    write(tmp_path / "annotations/train.json", coco(images, annotations, ["dog"]))
    with pytest.raises(InputError, match=rf"annotations/train\.json: {message}"):
        open_data(str(tmp_path)).image_set("train")


def test_two_categories_of_one_name_are_refused_where_objects_are_of_both(tmp_path: Path) -> None:
    """Roboflow's group of all classes may have the name of one of them; no object is of it."""
    path = tmp_path / "annotations/train.json"
    said = json.loads(coco([image_entry(1, "a.jpg")], [BOX], ["dog"]))
    said["categories"].append({"id": 0, "name": "dog"})
    write(path, json.dumps(said))
    assert open_data(str(tmp_path)).classes == ("dog",)
    said["annotations"].append(BOX | {"category_id": 0})
    write(path, json.dumps(said))
    with pytest.raises(InputError, match=r"categories\[1\]: name: 'dog' is that of id 3, too"):
        open_data(str(tmp_path)).image_set("train")


@pytest.mark.parametrize("name", ["a\x01b", "a\nb", "a\ud800b"])
def test_a_category_that_no_line_of_text_holds_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "labels.json", coco([image_entry(1, "a.jpg")], [], ["dog", name]))
    message = rf"labels\.json: categories\[1\]: name: {re.escape(repr(name))}: expected a name in UTF-8, without"
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path)).image_set("labels")


@pytest.mark.parametrize("name", [b"x\xff", b"a\nb", b" a", b"a "])
def test_a_picture_whose_name_is_no_line_of_text_is_named_and_the_others_are_read(tmp_path: Path, name: bytes) -> None:
    odd = os.fsdecode(name)
    for image in ("good", odd):
        picture(tmp_path / f"{image}.jpg")
        write(tmp_path / f"{image}.xml", annotation_xml([DOG]))
    data = open_data(str(tmp_path))
    (wrong,) = (found for found in data.entries("all") if isinstance(found, InputError))
    assert str(wrong).startswith(f"{tmp_path}/{repr(odd)[1:-1]}.xml: image {odd!r}: expected a name in UTF-8, ")
    assert "\n" not in str(wrong)
    with pytest.raises(InputError, match="; rename it"):
        data.image_set("all")
    with pytest.raises(InputError, match="; rename it"):
        convert(data, "yolo", tmp_path / "out")
    found = inspect_data(data, lambda *_: None)
    assert (found.sets["all"].images, found.broken) == (1, [str(wrong)])


def test_pascal_vocs_image_sets_count_before_all_else(tmp_path: Path, write_devkit: Callable[..., Path]) -> None:
    write_devkit(tmp_path, {"a": [DOG]})
    write(tmp_path / "data.yaml", "names: [dog]\ntrain: JPEGImages\n")
    data = open_data(str(tmp_path))
    assert (data.layout.name, data.image_set_names) == ("Pascal VOC", ("test",))


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    write(tmp_path / "package.json", "{}")
    with pytest.raises(InputError, match=r"no data set; expected Pascal VOC's folders .* or YOLO's texts with data"):
        open_data(str(tmp_path))
    write(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(InputError, match=r"classes\.txt: none of 1 pictures has a text, such as .*a\.txt"):
        open_data(str(tmp_path))


def test_the_whole_file_system_is_no_data_set_and_hidden_folders_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^/: all files of this machine; expected the folder of a data set"):
        open_data("/")
    picture(tmp_path / ".venv/a.png")
    picture(tmp_path / "b/c.PNG")
    picture(tmp_path / "b/.d.png")
    assert pictures_below(tmp_path) == [tmp_path / "b/c.PNG"]


def test_two_layouts_of_the_same_objects_give_the_same_boxes(yolo: Path, tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("xml")
    picture(root / "c.jpg")
    write(root / "c.xml", annotation_xml([("dog", (26, 21, 75, 60), False)]))
    boxes = [open_data(str(folder)).image_set(name)[0].boxes for folder, name in ((yolo, "val"), (root, "all"))]
    assert np.array_equal(*boxes)
