"""What a selection keeps: exactly the number that it says, the same for the same scores."""

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.channels import stored_parameters
from detpress.detector.network import Network
from detpress.errors import InputError
from detpress.pruning.selection import Ranking, left_after, random_scores, select, shuffled, without_lowest
from detpress.pruning.single_weights import prunable_weights

RANKINGS: list[Ranking] = ["uniform", "global"]


def some(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"entry {i}": torch.randn(shape, generator=generator).abs() for i, shape in enumerate(shapes)}


def all_of(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.ones_like(score, dtype=torch.bool) for key, score in scores.items()}


def counts(kept: dict[str, Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in kept.values()]


def test_yolov3_of_voc_keeps_the_published_numbers() -> None:
    architecture = build_architecture("yolov3", [f"class{i}" for i in range(20)], 416)
    with torch.device("meta"):
        network = Network(architecture)
    sizes = [network.get_parameter(name).numel() for name in prunable_weights(architecture)]
    assert (len(sizes), sum(sizes)) == (72, 61_438_816)
    others = stored_parameters(architecture) - sum(sizes)
    assert others == 52_608 + 134_625  # BatchNorms and heads
    assert sum(left_after(size, 0.9) for size in sizes) + others == 6_331_151
    assert left_after(sum(sizes), 0.9) + others == 6_331_115
    assert left_after(sum(sizes), 0.2) + others == 49_338_286
    assert left_after(sum(sizes), 0.2, rounds=10) + others == 6_784_176
    assert left_after(sum(sizes), 0.2, rounds=12) + others == 4_409_277  # 4,409,276.29, and no part of a weight


def test_the_share_is_the_decimal_number_of_the_recipe() -> None:
    assert left_after(100, 0.29) == 71  # 0.29 * 100 is 28.999999999999996
    assert left_after(1000, 0.1, rounds=3) == 729


@pytest.mark.parametrize("ranking", RANKINGS)
def test_exactly_so_many_of_a_large_layer_are_left(ranking: Ranking) -> None:
    """Of a million weights in 16 bits, thousands are equal."""
    scores = {key: score.bfloat16().float() for key, score in some((512, 256, 3, 3), (64, 32, 1, 1)).items()}
    kept = all_of(scores)
    for rounds in (1, 2, 3):
        before, kept = kept, select(scores, kept, 0.2, ranking, rounds)
        assert all(not (kept[key] & ~before[key]).any() for key in kept)
        if ranking == "uniform":
            assert counts(kept) == [left_after(score.numel(), 0.2, rounds) for score in scores.values()]
        else:
            assert sum(counts(kept)) == left_after(sum(score.numel() for score in scores.values()), 0.2, rounds)
        assert [mask.shape for mask in kept.values()] == [score.shape for score in scores.values()]


def test_the_lowest_go_and_of_equal_ones_the_first() -> None:
    scores = {"a": torch.tensor([3.0, 1.0, 2.0, 1.0]), "b": torch.tensor([[1.0, 5.0]])}
    left = without_lowest(scores, all_of(scores), 2)
    assert left["a"].tolist() == [True, False, True, False]
    assert left["b"].tolist() == [[True, True]]
    left = without_lowest(scores, left, 2)
    assert left["a"].tolist() == [True, False, False, False]
    assert left["b"].tolist() == [[False, True]]


def test_what_is_gone_is_not_counted_again() -> None:
    scores = {"a": torch.tensor([0.0, 1.0, 2.0, 3.0])}
    gone = {"a": torch.tensor([False, True, True, True])}
    assert select(scores, gone, 0.5, "uniform")["a"].tolist() == [False, False, True, True]
    assert select(scores, gone, 0.25, "global")["a"].tolist() == [False, True, True, True]


def test_an_entry_keeps_its_highest_whatever_the_others_score() -> None:
    scores = {"low": torch.tensor([0.1, 0.3, 0.2]), "high": torch.arange(1.0, 10.0)}
    left = select(scores, all_of(scores), 0.5, "global", at_least=2)
    assert left["low"].tolist() == [False, True, True]
    assert left["high"].tolist() == [False] * 5 + [True] * 4
    assert counts(select(scores, all_of(scores), 0.9, "uniform", at_least=2)) == [2, 2]
    with pytest.raises(InputError, match="9 are to be removed, but at most 8 can go"):
        select(scores, all_of(scores), 0.75, "global", at_least=2)


def test_chance_keeps_as_many_and_is_repeated_by_its_seed() -> None:
    scores = some((40, 30), (20, 10))
    kept = select(scores, all_of(scores), 0.7, "global")
    one, same, other = (shuffled(kept, seed) for seed in (1, 1, 2))
    assert counts(one) == counts(other) == counts(kept)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["entry 0"], other["entry 0"])
    assert not torch.equal(one["entry 0"], kept["entry 0"])
    drawn = random_scores(kept, 1)
    assert abs(float(drawn["entry 0"].mean()) - 0.5) < 0.03
