"""Intel Neural Compressor's autotune."""

import json
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.plugins.inc import LayerOptions, layers_in_float, layers_to_quantize, plan_of_int8
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from detpress.adapters.inc_autotune import Candidate, Criterion, Trial
    from detpress.detector.model import Model
    from detpress.detector.network import Network


class SchemeOptions(Options):
    """One way to choose scales; see `inc.static_int8`."""

    algorithm: Literal["minmax", "kl"] = Field("minmax", description="range of an activation")
    symmetric: bool | Literal["padded"] = Field(
        "padded", description="an activation's zero is the middle of its values: of all, of none, of what is padded"
    )
    per_channel: bool = Field(True, description="one scale for each filter's weights")
    corrected: bool = Field(True, description="equalize channels and correct biases")
    full_range: bool = Field(False, description="weights use all codes of 8 bits")


class AutotuneOptions(LayerOptions):
    """What is tried, and when that is enough."""

    tolerable_loss: float = Field(0.01, ge=0, lt=1, description="share of the float model's mAP that may be lost")
    schemes: list[SchemeOptions] = Field(
        [SchemeOptions(), SchemeOptions(symmetric=False), SchemeOptions(algorithm="kl", symmetric=False)],
        min_length=1,
        description="tried in this order with all layers in int8",
    )
    trials: int = Field(20, ge=1, description="configurations scored at most")
    minutes: float | None = Field(
        None, gt=0, description="no further trial when the trials so far took so long; the result then depends on speed"
    )
    calibration_images: int = Field(64, ge=1, description="training images that the activations' ranges are read from")
    sensitivity_images: int = Field(8, ge=1, description="training images that decide which layers fall back first")


class Autotune(Plugin):
    """The first int8 configuration that keeps the mAP, sensitive layers left in float where it takes that.

    Intel Neural Compressor's autotune on static quantization (`inc.static_int8`): each configuration is quantized and
    scored with the detector's own evaluator on the validation images, in the runtime that the recipe scores int8
    models in; the first that loses no more than `tolerable_loss` of the float model's mAP is kept. First the schemes
    are tried with every layer in int8. When none will do, the best of them is tried with one layer in float, then two,
    and so on, in the order of what each layer's rounding costs the raw maps in signal-to-quantization-noise ratio
    (`detpress sensitivity` shows it). When nothing meets the criterion, the run says so and goes on with the best
    trial; `measure.max_map_loss` can make that an error.

    The log has the table of all trials. They are kept as they are scored: a run that was stopped goes on behind them.
    """

    Config = AutotuneOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "neural-compressor"
    version = 7
    chooses_by_map = True

    def plan(self, model: "Model", config: AutotuneOptions) -> Plan:
        return plan_of_int8(model, layers_to_quantize(model.architecture, config))

    def check(self, model: "Model", config: AutotuneOptions, images: ImageCounts) -> None:
        images.check_validation()
        images.check_asked(config, "calibration_images")
        images.check_asked(config, "sensitivity_images")

    def repeats(self, config: AutotuneOptions) -> bool:
        return config.minutes is None

    def apply(self, model: "Model", config: AutotuneOptions, bench: Workbench) -> "Model":
        from dataclasses import replace

        from detpress.adapters.inc import Scheme
        from detpress.adapters.inc_autotune import Candidate, Criterion, tune

        network = model.own_network
        kept = tuple(sorted(layers_in_float(model.architecture, config)))
        quantized = layers_to_quantize(model.architecture, config)
        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        trials = _Trials(model, config.trials, bench)
        seconds = None if config.minutes is None else 60 * config.minutes
        criterion = Criterion(trials.baseline(), config.tolerable_loss, config.trials, seconds)
        schemes = [Scheme(**one.model_dump()) for one in config.schemes]

        candidates = [Candidate(scheme, kept) for scheme in schemes][: config.trials]
        found = tune(network, images, candidates, criterion, trials.score, bench.log)
        best = max(found, key=lambda trial: trial.map)
        if left := criterion.after(found):
            probes = bench.calibration(config.sensitivity_images, config.is_default("sensitivity_images"))
            scheme = best.candidate.scheme
            order = trials.by_sensitivity(best.candidate, scheme.network_to_round(network, images), probes)
            candidates = [Candidate(scheme, kept + tuple(order[:n])) for n in range(1, len(quantized))]
            found += tune(network, images, candidates[: left.trials], left, trials.score, bench.log)
            best = max(found, key=lambda trial: trial.map)
        bench.log.info("%s", _table(found, criterion, best))
        return replace(trials.model(best.candidate), notes=(_outcome(found, criterion, best),))


class _Trials:
    """The trials of one stage, each kept on disk with its network as soon as it is scored."""

    def __init__(self, model: "Model", most: int, bench: Workbench) -> None:
        self.parent = model
        self.most = most
        self.bench = bench
        self.begun = 0

    def baseline(self) -> float:
        def compute(folder: "Path") -> None:
            _write(folder, {"map": self._map(self.parent), "seconds": 0.0})

        return float(_read(self.bench.remember({"autotune": "baseline"}, compute))["map"])

    def score(self, candidate: "Candidate", network: "Network", started: float) -> "Trial":
        from detpress.adapters.inc_autotune import Trial
        from detpress.encodings.bundle import save_bundle

        self.begun += 1
        self.bench.progress(f"trial {self.begun} of at most {self.most}", self.begun, self.most)

        def compute(folder: "Path") -> None:
            model = self.parent.with_network(network, Form.INT8)
            save_bundle(model, folder / "bundle")
            score = self._map(model)
            _write(folder, {"map": score, "seconds": time.perf_counter() - started})

        result = _read(self.bench.remember(_key(candidate), compute))
        return Trial(candidate, result["map"], result["seconds"])

    def model(self, candidate: "Candidate") -> "Model":
        """The model of a candidate that was scored."""
        from detpress.encodings.bundle import load_bundle

        def compute(folder: "Path") -> None:
            raise AssertionError("the trial was not kept")

        return load_bundle(self.bench.remember(_key(candidate), compute) / "bundle")

    def by_sensitivity(self, candidate: "Candidate", rounded: "Network", images: "Tensor") -> list[int]:
        """Layer numbers of the convolutions in int8, first those whose rounding costs the raw maps most.

        rounded: the float network that the candidate's was made of.
        """
        from detpress.detector.network import Network
        from detpress.measure.sensitivity import measure_sensitivity

        def compute(folder: "Path") -> None:
            quantized = self.model(candidate).network
            assert isinstance(quantized, Network)
            found = measure_sensitivity(quantized, rounded, images, self.bench.progress)
            _write(folder, {"order": [layer.index for layer in found.by_gain()]})

        order: list[int] = _read(self.bench.remember({"sensitivity": _key(candidate)}, compute))["order"]
        return order

    def _map(self, model: "Model") -> float:
        import math

        from detpress.errors import StageError

        score = self.bench.evaluate(model)
        if math.isnan(score):
            raise StageError(f"the evaluation of the {model.form} model on the validation images gave NaN")
        return score


def _key(candidate: "Candidate") -> dict[str, object]:
    from dataclasses import asdict

    return {"autotune": asdict(candidate.scheme), "float_layers": sorted(candidate.float_layers)}


def _write(folder: "Path", result: dict[str, object]) -> None:
    (folder / "result.json").write_text(json.dumps(result))


def _read(folder: "Path") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def _describe(candidate: "Candidate") -> str:
    scheme = candidate.scheme
    zeros = {True: "symmetric", False: "asymmetric", "padded": "symmetric where padded"}
    words = [scheme.algorithm, zeros[scheme.symmetric]]
    words.append("per channel" if scheme.per_channel else "per tensor")
    words += [] if scheme.corrected else ["not corrected"]
    words += ["full range"] if scheme.full_range else []
    return f"{', '.join(words)}; in float: {', '.join(map(str, candidate.float_layers)) or 'none'}"


def _table(trials: "list[Trial]", criterion: "Criterion", best: "Trial") -> str:
    lines = [f"autotune: {len(trials)} trials, mAP on the validation images, {criterion.baseline:.4f} in float"]
    for number, trial in enumerate(trials, start=1):
        loss = 1 - trial.map / criterion.baseline
        remark = ("meets the criterion" if criterion.met(trial) else "") + (", kept" if trial is best else "")
        lines.append(
            f"{number:4d}  {trial.map:.4f}  loss {loss:+.2%}  {trial.seconds:7.1f} s  {_describe(trial.candidate)}"
            f"  {remark.strip(', ')}".rstrip()
        )
    return "\n".join(lines)


def _outcome(trials: "list[Trial]", criterion: "Criterion", best: "Trial") -> str:
    loss = 1 - best.map / criterion.baseline
    what = f"mAP {best.map:.4f} on the validation images, a loss of {loss:.2%}: {_describe(best.candidate)}"
    if criterion.met(best):
        return f"trial {len(trials)} loses no more than {criterion.tolerable_loss:.2%}: {what}"
    return f"none of {len(trials)} trials loses at most {criterion.tolerable_loss:.2%}; the best is kept: {what}"
