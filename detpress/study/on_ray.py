"""Runs a study on a Ray cluster: one task a stage, on whichever node has room.

A task waits for the one that makes its parent; a stage that several recipes share is one task. Stages meet in the
store, so that a node finds what another one made: on several machines that is the shared one, `$DETPRESS_STORE`. A task
whose worker is lost is run again by Ray, up to `RETRIES` times, and goes on from what is in the store.

Each task gets as many CPUs as this process has threads, and sets its own to that number, so that it computes what a
local run does, bit for bit on like hardware. Where latency is measured, it gets a whole node, so that nothing else
disturbs it.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray.exceptions import RayError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from detpress.cache import cache_root
from detpress.errors import DetpressError, InputError
from detpress.options import Options
from detpress.recipe.file import Recipe
from detpress.recipe.sections import Running
from detpress.run.chain import Chain, find_chain
from detpress.run.initial_model import recipe_classes
from detpress.run.store import Store, open_store
from detpress.study.events import EventListener
from detpress.study.running import Outcome, Plan, PlannedJob, StudyListener, conclude, log_file, prepare_folder
from detpress.training.config import TrainingOptions
from detpress.voc.devkit import Devkit
from detpress.voc.named import open_data
from detpress.voc.split import Split

RETRIES = 3


@dataclass(frozen=True)
class Made:
    """What became of a stage's task. seconds: with measuring; log: the stage's, where it failed."""

    reused: bool = False
    seconds: float = 0.0
    failure: str | None = None
    log: str = ""


@dataclass(frozen=True)
class Cluster:
    """The nodes that have CPUs. cpus: of the smallest; gpus: of all together."""

    nodes: int
    cpus: float
    gpus: float


Task = Any  # Ray's reference to what a task will return, a `Made`


def run_study_on_ray(
    plan: Plan, store: Store, folder: Path, listener: StudyListener, address: str
) -> Iterator[Outcome]:
    """The jobs' outcomes in the order in which they end; otherwise as `detpress.study.running.run_study`.

    address: of a running cluster, or `auto`: the one that runs on this machine, or else one that is started here and
    ends with the study. Raises InputError where there is none, or its nodes share no store.
    """
    prepare_folder(plan, folder)
    with _cluster(address, store) as cluster:
        # On this node, so that it does not go down with one of the others.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        jobs = _submit(plan, store, cluster, events)
        keys = {task: key for tasks in jobs for key, task in tasks}
        made: dict[Task, Made] = {}
        waiting = list(range(len(jobs)))
        while waiting:
            pending = [task for task in keys if task not in made]
            for task in ray.wait(pending, num_returns=len(pending), timeout=0.2)[0] if pending else ():
                made[task] = _result(task)
                _tell(keys[task], made[task], plan, listener, cluster)
            for event in events.get_nowait_batch(events.qsize()):
                if event["event"] == "progress":
                    listener.progress(event["what"], event["done"], event["total"])
            for i in [i for i in waiting if all(task in made for _, task in jobs[i])]:
                waiting.remove(i)
                listener.begin_job(i + 1, plan.jobs[i].job)
                outcome = _outcome(plan.jobs[i], {key: made[task] for key, task in jobs[i]}, store, folder)
                listener.end_job(i + 1, outcome)
                yield outcome


def _submit(plan: Plan, store: Store, cluster: Cluster, events: Queue) -> list[list[tuple[str, Task]]]:
    """Of each job the keys of the stages that are not there, and their tasks; one that jobs share is the same task."""
    submitted: dict[tuple[str, str, Running | None], Task] = {}  # what is asked for -> who makes it
    jobs: list[list[tuple[str, Task]]] = []
    threads = torch.get_num_threads()
    for planned in plan.jobs:
        recipe = planned.job.recipe
        tasks: list[tuple[str, Task]] = []
        shipped = ray.put(recipe)  # once, not with each task
        for index in range(len(find_chain(recipe, planned.keys, planned.devkit, store)), len(planned.keys)):
            asked = planned.asked[index]
            if asked not in submitted:
                options = _make_stage.options(
                    name=f"{planned.plugins[index]} of {planned.job.name}",
                    num_cpus=cluster.cpus if recipe.measure.runtimes else min(threads, cluster.cpus),
                    num_gpus=min(_gpus(recipe, index), cluster.gpus),
                )
                before = tasks[-1][1] if tasks else None
                submitted[asked] = options.remote(shipped, index, planned.keys[index], threads, before, events)
            tasks.append((planned.keys[index], submitted[asked]))
        jobs.append(tasks)
    return jobs


def _gpus(recipe: Recipe, index: int) -> int:
    """A step trains where it has the options of a training; those say on how many devices."""
    if index == 0:
        return 0
    config = recipe.chain[index - 1].config
    options: Sequence[Options] = [config, *(value for _, value in config if isinstance(value, Options))]
    return max((option.devices for option in options if isinstance(option, TrainingOptions)), default=0)


@ray.remote(max_retries=RETRIES)
def _make_stage(recipe: Recipe, index: int, key: str, threads: int, before: Made | None, events: Queue) -> Made:
    """Stage `index` of the recipe, made and measured on the node that runs this."""
    if before is not None and before.failure is not None:
        return before
    torch.set_num_threads(threads)
    listener = EventListener(events.put)
    store = open_store()
    try:
        devkit = _devkit(recipe.data.root, tuple(recipe_classes(recipe) or ()), recipe.data.split)
        chain = Chain(recipe, devkit, store, listener)
        if chain.keys[index] != key:
            return Made(failure=f"{socket.gethostname()} has another data set or other versions of the packages")
        listener.begin(index, len(chain.keys), chain.names[index])
        if index and not store.has(chain.keys[index - 1]):
            return Made(failure=f"{socket.gethostname()} does not find the stage before: the nodes share no store")
        with store.in_use(chain.keys[max(0, index - 1) : index + 1]):
            stage = chain.stage(index)
    except DetpressError as error:
        if isinstance(error.__cause__, SystemExit):  # Ray takes this worker away: the task is run again elsewhere
            raise error.__cause__ from None
        log = store.root / "scratch" / key / "stage.log"
        return Made(failure=str(error), log=log.read_text(errors="replace") if log.is_file() else "")
    return Made(stage.reused, listener.seconds())


@lru_cache(maxsize=2)
def _devkit(root: str, classes: tuple[str, ...], split: Split | None) -> Devkit:
    """Read once by each worker."""
    return open_data(root, list(classes) or None, split)


def _result(task: Task) -> Made:
    try:
        return cast(Made, ray.get(task))
    except RayError as error:  # the worker was lost more often than Ray tries again, or memory ran out
        return Made(failure=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def _tell(key: str, made: Made, plan: Plan, listener: StudyListener, cluster: Cluster) -> None:
    if made.failure is not None:
        plan.given_up.add(key)
        return
    if made.reused:
        plan.there.add(key)
    else:
        plan.made(key, made.seconds)
    left = plan.seconds_left()
    listener.end_stage(made.reused, made.seconds, plan, None if left is None else left / cluster.nodes)


def _outcome(planned: PlannedJob, made: dict[str, Made], store: Store, folder: Path) -> Outcome:
    failed = next((found for found in made.values() if found.failure is not None), None)
    if failed is not None:
        log_file(folder, planned.job).write_text(f"{failed.failure}\n{failed.log}", encoding="utf-8")
    new = {key for key, found in made.items() if not found.reused}
    return conclude(planned, store, folder, failed.failure if failed else None, new)


def _reach(address: str) -> None:
    """Raises OSError or ValueError where nobody listens, which Ray itself tries for minutes to change."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _cluster(address: str, store: Store) -> Iterator[Cluster]:
    """The connection to the cluster, for as long as the study runs."""
    shared = {"DETPRESS_STORE": store.shared.url} if store.shared else {}
    try:
        if address != "auto":
            _reach(address)
        if "DETPRESS_CACHE" in os.environ:
            os.environ["DETPRESS_CACHE"] = str(cache_root())  # means the same in another folder
        # Workers look for modules in the folder in which Ray is reached: in the store there are none.
        store.root.mkdir(parents=True, exist_ok=True)
        with chdir(store.root):
            ray.init(
                None if address == "auto" else address,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(torch.get_num_threads()), **shared}},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no cluster there: {str(error).splitlines()[0]}") from error
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        nodes = [node for node in alive if node["Resources"].get("CPU")]  # a head may leave the work to the others
        hosts = {node["NodeManagerHostname"] for node in nodes}
        if store.shared is None and hosts != {socket.gethostname()}:
            raise InputError(
                f"--ray {address}: its nodes are on {', '.join(sorted(hosts))}; expected the environment variable "
                "DETPRESS_STORE to name a folder that all of them reach, such as s3://bucket/stages"
            )
        cpus = min(node["Resources"]["CPU"] for node in nodes)
        yield Cluster(len(nodes), cpus, sum(node["Resources"].get("GPU", 0.0) for node in nodes))
    finally:
        ray.shutdown()
