"""What the objectives of this package may be told. No PyTorch, so that listing plugins stays quick."""

from pydantic import Field

from detpress.options import BundleName, Options


class TeacherOptions(Options):
    """Who teaches."""

    teacher: BundleName = Field(
        description="the teacher's bundle: a shipped one such as `builtin:digits`, or its folder"
    )


class LinkedOptions(TeacherOptions):
    """Who teaches, and which layers learn from which."""

    links: dict[str, str] = Field(
        {},
        description="student's layer -> teacher's layer, by name: {layers.79: layers.79}; by default what each head "
        "takes, its last two convolutions being the head, to what the teacher's head of that stride takes",
    )


class PkdOptions(LinkedOptions):
    """PKD's."""

    weight: float = Field(10.0, gt=0, description="factor of each link's loss")
    score_weighted: bool = Field(
        False, description="whether a place counts by the teacher's best score there, instead of all places alike"
    )


class CrossKdOptions(TeacherOptions):
    """CrossKD's."""

    weight: float = Field(1.0, gt=0, description="factor of what the teacher's heads say of the student's maps")


class DetectorOptions(CrossKdOptions):
    """CrossKD's, with PKD beside it."""

    pkd_weight: float = Field(2.0, gt=0, description="factor of PKD on what each head takes")
    score_weighted: bool = Field(
        True, description="whether PKD counts a place by the teacher's best score there, instead of all places alike"
    )
