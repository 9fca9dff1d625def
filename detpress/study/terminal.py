"""What a person sees while a study goes on, on stderr: two live bars in a terminal, plain lines elsewhere."""

import time

from detpress.run.terminal import Terminal
from detpress.study.definition import Job
from detpress.study.running import Outcome, Plan


class StudyTerminal(Terminal):
    """A `detpress.study.running.StudyListener` for people, with a bar of all stages above that of the current one."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._all = self._bars.add_task("stages", visible=False)
        self._jobs = 0
        self._failed = 0

    def planned(self, plan: Plan) -> None:
        self._jobs = len(plan.jobs)
        total, there = len(plan.plugins), len(plan.there)
        steps = sum(len(planned.keys) for planned in plan.jobs)
        self.say(
            f"{self._jobs} runs of {steps} stages, {total} of them different: "
            f"{there} there already, {total - there} to make"
        )
        self._bars.update(self._all, total=total, completed=there, visible=True)

    def begin_job(self, number: int, job: Job) -> None:
        self.say(f"[{number}/{self._jobs}] {job.what}")

    def begin(self, index: int, total: int, name: str) -> None:
        self._what = ""
        self._said = time.monotonic()
        self._bars.update(self._current, description=f"{index}/{total - 1} {name}", visible=True)

    def end_stage(self, reused: bool, seconds: float, plan: Plan, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f", about {spell_seconds(seconds_left)} left"
        failed = f", {self._failed} runs failed" if self._failed else ""
        self._bars.update(self._all, completed=len(plan.there), description=f"stages{left}{failed}")
        if self._bars.disable and not reused:
            self.say(f"  {len(plan.there)} of {len(plan.plugins)} stages{left}")

    def end_job(self, number: int, outcome: Outcome) -> None:
        self._bars.update(self._current, visible=False)
        if outcome.failure is not None:
            self._failed += 1
            log = f"\n  its log: {outcome.log}" if outcome.log.is_file() else ""
            self.say(f"  failed: {outcome.failure}{log}")
            return
        how = "nothing to make" if all(stage.reused for stage in outcome.stages) else "done"
        metrics = outcome.stages[-1].metrics
        self.say(f"  {how}; mAP {metrics['map']:.4f}, {metrics['parameters']:,} parameters")


def spell_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
