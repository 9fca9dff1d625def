"""Results files: read from either place, every number back bit by bit, bad lines told by file and line."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detpress.errors import InputError
from detpress.voc.results import ClassDetections, read_results, write_results

finite = st.floats(allow_nan=False, allow_infinity=False)


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("place", [".", "results/Main"])
def test_files_of_the_image_set_are_read(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, "comp4_det_test_dog.txt", "000004 0.7 89 112.5 516 466\n\n#1\t1e-3  -1 2 3 4\n")
    write(tmp_path / place, "comp4_det_test_cat.txt", "\n")
    write(tmp_path / place, "comp4_det_val_dog.txt", "not read\n")
    found = read_results(tmp_path, "test", ["cow", "dog", "cat"])
    assert list(found) == ["cow", "dog", "cat"]
    assert found["dog"].images == ("000004", "#1")
    assert found["dog"].scores.tolist() == [0.7, 0.001]
    assert found["dog"].boxes.tolist() == [[89, 112.5, 516, 466], [-1, 2, 3, 4]]
    for name in ("cow", "cat"):
        assert found[name].images == ()
        assert found[name].boxes.shape == (0, 4)


@given(
    st.integers(0, 5).flatmap(
        lambda n: st.tuples(arrays(float, n, elements=finite), arrays(float, (n, 4), elements=finite))
    )
)
def test_written_numbers_read_back_to_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, numbers: tuple[np.ndarray, np.ndarray]
) -> None:
    scores, boxes = numbers
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    images = tuple(f"day/{i:06d}" for i in range(len(scores)))
    write_results(folder, "test", {"traffic light": ClassDetections(images, scores, boxes)})
    found = read_results(folder, "test", ["traffic light"])["traffic light"]
    assert found.images == images
    assert found.scores.tobytes() == scores.tobytes()
    assert found.boxes.tobytes() == boxes.tobytes()


@pytest.mark.parametrize(
    "line",
    ["a 0.5 1 2 3", "a b 0.5 1 2 3", "a high 1 2 3 4", "a 0.5 1 2 3 nan", "a inf 1 2 3 4", "a", "a 0.5 1_0 2 3 4"],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, "comp4_det_test_dog.txt", f"a 0.5 1 2 3 4\n\n{line}\na 0.5 1 2 3 4\n")
    message = f"{path}:3: expected an image, a score and four coordinates, all numbers finite; got {line!r}"
    with pytest.raises(InputError, match=re.escape(message) + "$"):
        read_results(tmp_path, "test", ["dog"])


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_dog.txt").write_bytes(b"a 0.5 1 2 3 4\n\xff\n")
    with pytest.raises(InputError, match=r"comp4_det_test_dog\.txt: cannot be read: .*utf-8"):
        read_results(tmp_path, "test", ["dog"])


def test_a_file_of_an_unknown_class(tmp_path: Path) -> None:
    write(tmp_path, "comp4_det_test_dgo.txt", "")
    with pytest.raises(InputError, match=r"comp4_det_test_dgo\.txt: unknown class 'dgo'; did you mean 'dog'\?"):
        read_results(tmp_path, "test", ["cat", "dog"])


def test_a_folder_without_results_of_the_image_set(tmp_path: Path) -> None:
    write(tmp_path, "comp4_det_val_dog.txt", "")
    with pytest.raises(InputError, match=r"expected files comp4_det_test_<class>\.txt, here or in results/Main"):
        read_results(tmp_path, "test", ["dog"])


ONE = ClassDetections(("a",), np.array([0.5]), np.array([[1.0, 2.0, 3.0, 4.0]]))


def test_a_class_with_a_slash_has_a_file_of_its_own_in_the_folder(tmp_path: Path) -> None:
    classes = ["/../../x", "car/truck", "car%2Ftruck", "car%252Ftruck", "100%"]
    write_results(tmp_path / "out", "test", dict.fromkeys(classes, ONE))
    assert len(list((tmp_path / "out").iterdir())) == len(classes)
    assert all(found.images == ("a",) for found in read_results(tmp_path / "out", "test", classes).values())


@pytest.mark.parametrize("name", ["x" * 300, "人" * 100])
def test_a_class_that_no_file_can_be_named_after_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="has no results file: expected a name of at most 255 bytes"):
        write_results(tmp_path, "test", {name: ONE})


@pytest.mark.parametrize("name", ["a\0b", "a\x01", "a\nb", "a\u2028b", " a", "a\ud800"])
def test_a_class_that_no_line_of_text_holds_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"^class {re.escape(repr(name))} has no results file: expected a name in "):
        write_results(tmp_path, "test", {name: ONE})


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_an_images_name_may_hold_spaces_and_the_file_a_byte_order_mark(tmp_path: Path, start: str) -> None:
    write(tmp_path, "comp4_det_test_dog.txt", f"{start}img (1) a 0.9 5 5 28 28\n\nb 0.8 1 2 3 4\n")
    found = read_results(tmp_path, "test", ["dog"])["dog"]
    assert found.images == ("img (1) a", "b")
    assert found.scores.tolist() == [0.9, 0.8]
    assert found.boxes.tolist() == [[5, 5, 28, 28], [1, 2, 3, 4]]


def test_a_set_named_like_the_start_of_another_is_not_given_its_files(tmp_path: Path) -> None:
    write(tmp_path, "comp4_det_test_dog.txt", "a 0.9 5 5 28 28\n")
    write(tmp_path, "comp4_det_test_small_dog.txt", "b 0.9 5 5 28 28\n")
    sets = ["test", "test_small"]
    assert list(read_results(tmp_path, "test", ["dog"], sets)) == ["dog"]
    assert read_results(tmp_path, "test_small", ["dog"], sets)["dog"].images == ("b",)
    assert list(read_results(tmp_path, "test", ["dog", "small_dog"], sets)) == ["dog", "small_dog"]


def test_classes_that_only_the_detector_knows_come_last(tmp_path: Path) -> None:
    write(tmp_path, "comp4_det_test_dog.txt", "a 0.9 5 5 28 28\n")
    write(tmp_path, "comp4_det_test_cat.txt", "a 0.8 5 5 28 28\n")
    assert list(read_results(tmp_path, "test", ["dog"])) == ["dog", "cat"]
