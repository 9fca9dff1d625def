"""NNI's search for architectures: another backbone under the heads of the shared detector."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.plugins.nni_search_space import TRIALS, BlockKind, NASOptions, space_of
from detpress.plugins.search_trials import Choices, Trials
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model


class NAS(Plugin):
    """Searches a backbone for the detector's heads, and trains the best one from nothing.

    Spaces:
    yolov3: of each of five stages a width and a number of blocks is chosen, of each block its kind (residual,
    depthwise-separable, fire, and YOLO Nano's `pep`), kernel and bottleneck (`detpress.detector.backbone`);
    mobilenetv3: MobileNetV3Space of NNI's hub, the largest space of Bender et al. (TuNAS), arXiv:2008.06120, 2020,
    without squeeze-and-excitation, ReLU everywhere; of each stage a width and a number of blocks is chosen, of each
    block its expansion (`ratios`) and its kernel of 3, 5 or 7 pixels.

    What the given model knew is gone; its classes, anchors and input size stay. Trials are trained for a few epochs
    (`trial`), scored on the validation images, and remembered across kills. Budgets are kept by what is counted from
    the layer list, and by latency measured on this machine before a network is trained.

    By NNI 3.0, whose strategies are
    random, grid: drawn, or one after the other;
    evolution: regularized evolution, the oldest network dies; Real et al., arXiv:1802.01548, 2019;
    tpe: tree-structured Parzen estimator; Bergstra et al., NeurIPS 2011;
    policy_rl: a policy trained by PPO; Zoph and Le, arXiv:1611.01578, 2017, use REINFORCE. Needs the extra `rl`;
    darts: choices as weights of a sum, first order; Liu, Simonyan, Yang, arXiv:1806.09055, 2019;
    gumbel_darts: the same, sums drawn towards one-hot; Xie et al. (SNAS), arXiv:1812.09926, 2019;
    proxyless: one path at a time; Cai, Zhu, Han, arXiv:1812.00332, 2019;
    enas: a controller trained by policy gradients; Pham et al., arXiv:1802.03268, 2018. Needs the extra `rl`;
    random_one_shot: uniform paths, then `trials` of them are scored with the shared weights; Guo et al.,
    arXiv:1904.00420, 2020, who search those by evolution and compute BatchNorm's statistics anew for each.

    The last five train one supernet, whose blocks are choices between all kinds, kernels and bottlenecks, and, beyond
    the smallest of `blocks`, nothing at all; its widths are fixed. Trials and the winner are trained by the one
    trainer; the supernet is trained by NNI's loop, since its strategies own the optimizers and change the choices
    between the steps: on the detection loss, without augmentation, at a constant learning rate, in 32 bits, without a
    moving average, a checkpoint or a curve. Killed, its training begins anew, and ends the same.
    """

    Config = NASOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    engine = "nni"

    def plan(self, model: "Model", config: NASOptions) -> Plan:
        from detpress.detector.model import new_model

        space = space_of(config)
        first = {label: values[0] for label, values in space.choices.items()}
        return Plan((), new_model(space.architecture_of(first, model.architecture), seed=0))

    def check(self, model: "Model", config: NASOptions, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_validation()

    def repeats(self, config: NASOptions) -> bool:
        return not config.max_latency_ms

    def apply(self, model: "Model", config: NASOptions, bench: Workbench) -> "Model":
        from detpress.detector.model import new_model

        space, given = space_of(config), model.architecture
        trials = Trials(lambda choices: space.architecture_of(choices, given), config, bench)
        if config.strategy in TRIALS:
            _search_by_trials(trials, space.choices, config, bench)
        else:
            _search_in_supernet(trials, given, config, bench)
        trials.keep(f"{config.strategy}: mAP on the validation images after the trial's training")
        winner = trials.winner()
        bench.log.info("network %d of %d is trained anew: %s", winner["trial"], len(trials.made), winner)
        best = new_model(trials.architecture_of(winner["choices"]), bench.seed)
        return model.with_network(bench.fit(best, config.final).network)


def _search_by_trials(trials: Trials, choices: Mapping[str, list[Any]], config: NASOptions, bench: Workbench) -> None:
    from detpress.adapters.nni_nas import run_trials

    def judge(chosen: Choices) -> float:
        return trials.judge(chosen, lambda _, architecture: _trained(architecture, config, bench))

    run_trials(config.strategy, trials.evolution(), choices, judge, trials.enough, bench.seed, bench.log)


def _trained(architecture: "Architecture", config: NASOptions, bench: Workbench) -> tuple[float | None, str | None]:
    """mAP after the trial's training, or why there is none; made once for each architecture, also across kills."""
    from detpress.detector.model import new_model
    from detpress.errors import StageError

    def compute(folder: Path) -> None:
        try:
            model = bench.fit(new_model(architecture, bench.seed), config.trial)
            result: dict[str, Any] = {"map": bench.evaluate(model), "why": None}
        except StageError as error:
            result = {"map": None, "why": str(error)}
        (folder / "trial.json").write_text(json.dumps(result))

    key = {"trial": architecture.as_dict(), "training": config.trial.model_dump(mode="json")}
    result = json.loads((bench.remember(key, compute) / "trial.json").read_text())
    return result["map"], result["why"]


def _search_in_supernet(trials: Trials, given: "Architecture", config: NASOptions, bench: Workbench) -> None:
    """Trains the supernet once; its choice, or, of `random_one_shot`, the drawn ones, become the trials."""

    def compute(folder: Path) -> None:
        (folder / "trials.json").write_text(json.dumps(_supernet_trials(trials, given, config, bench)))

    key = {"supernet": config.model_dump(mode="json", exclude={"final"}), "given": given.as_dict()}
    for choices, score in json.loads((bench.remember(key, compute) / "trials.json").read_text()):
        trials.add(choices, trials.sizes(trials.architecture_of(choices)), score)


def _supernet_trials(
    trials: Trials, given: "Architecture", config: NASOptions, bench: Workbench
) -> list[tuple[Choices, float | None]]:
    import random

    from detpress.adapters.nni_nas import train_supernet
    from detpress.detector.backbone import Block, supernet_parts
    from detpress.detector.model import Model

    blocks = {name: Block(*values) for name, values in _blocks(config).items()}
    architecture, candidates = supernet_parts(config.widths[0], config.blocks, blocks, given)
    names = {label: list(modules) for label, modules in candidates.values()}

    def feasible(chosen: dict[str, str]) -> bool:
        return not trials.excess(trials.sizes(trials.architecture_of(_choices_of_names(chosen, config))))

    chosen, with_choices = train_supernet(
        config.strategy,
        architecture,
        candidates,
        config.trial,
        bench.training_set(architecture, "train"),
        bench.training_set(architecture, "val"),
        config.architecture_rate,
        feasible,
        bench.seed,
        bench.scratch,
        lambda epoch: bench.progress("epochs of the supernet", epoch, config.trial.epochs),
        bench.log,
    )
    if config.strategy != "random_one_shot":
        bench.log.info("the supernet chose %s", chosen)
        return [(_choices_of_names(chosen, config), None)]
    generator = random.Random(bench.seed)
    drawn: list[dict[str, str]] = []
    for _ in range(1000 * config.trials):
        sample = {label: generator.choice(options) for label, options in names.items()}
        if len(drawn) < config.trials and sample not in drawn and feasible(sample):
            drawn.append(sample)
    found: list[tuple[Choices, float | None]] = []
    for sample in drawn:
        score = bench.evaluate(Model(with_choices(sample)))
        found.append((_choices_of_names(sample, config), score))
        bench.log.info("with shared weights: mAP %.4f, %s", score, sample)
    return found


def _blocks(config: NASOptions) -> dict[str, tuple[BlockKind, int, float]]:
    """Name of a candidate, which may hold no point, -> its kind, kernel and ratio."""
    return {
        f"{kind} {kernel} {ratio:g}".replace(".", "_"): (kind, kernel, ratio)
        for kind in config.kinds
        for kernel in config.kernels
        for ratio in config.ratios
    }


def _choices_of_names(chosen: dict[str, str], config: NASOptions) -> dict[str, Any]:
    """What the supernet's choices, label -> candidate, are in the labels of `choices_of`."""
    blocks = _blocks(config)
    choices: dict[str, Any] = {}
    for stage in range(1, 6):
        names = [name for label, name in chosen.items() if label.startswith(f"stage{stage}_") and name in blocks]
        choices[f"stage{stage}.width"] = config.widths[0]
        choices[f"stage{stage}.blocks"] = len(names)
        for block, name in enumerate(names):
            values = dict(zip(("kind", "kernel", "ratio"), blocks[name], strict=True))
            choices |= {f"stage{stage}.block{block}.{what}": value for what, value in values.items()}
    return choices
