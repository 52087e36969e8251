"""What the mode of a service changes in how it is shown: its name, its counts, its JSON."""

from __future__ import annotations

from minictl.mode_flags import GLOBAL, GLOBAL_JOB, JOBS, MODES, REPLICATED, REPLICATED_JOB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.control_pb2 import ServiceView
    from miniproto.v1.objects_pb2 import Service, ServiceSpec


def name(spec: ServiceSpec) -> str:
    """As in `service ls`: "replicated job". A newer daemon may have more modes: their number is shown."""
    return MODES[spec.mode].replace("-", " ") if spec.mode < len(MODES) else str(spec.mode)


def replicas(view: ServiceView) -> str:
    """ "2/3"; of a job also what is done: "1/2 (3/5 completed)"; and how many a node may have, when that is limited."""
    spec = view.service.spec
    counts = f"{view.running}/{view.desired}"
    if spec.mode in JOBS:
        return f"{counts} ({view.completed}/{total(view)} completed)"
    most = spec.placement.max_replicas
    return f"{counts} (max {most} per node)" if most else counts


def total(view: ServiceView) -> int:
    """The completions that a job is to have in all."""
    spec = view.service.spec
    if spec.mode == REPLICATED_JOB:
        return int(spec.replicas)
    return int(view.desired + view.completed + view.given_up)


def concurrent(spec: ServiceSpec) -> int:
    """The tasks of a replicated job that run at once."""
    return int(spec.max_concurrent or spec.replicas)


def to_json(spec: ServiceSpec) -> dict[str, Any]:
    match spec.mode:
        case 0:
            return {"Replicated": {"Replicas": spec.replicas}}
        case 1:
            return {"Global": {}}
        case 2:
            counts = {"MaxConcurrent": concurrent(spec), "TotalCompletions": spec.replicas}
            return {"ReplicatedJob": counts}
        case _:
            return {"GlobalJob": {}}


def job_status_json(service: Service) -> dict[str, Any]:
    """Which iteration of a job this is, the first being 0, and when it began."""
    from minictl.views import common

    if service.spec.mode not in JOBS:
        return {}
    status = {
        "JobIteration": {"Index": service.spec_version - 1},
        "LastExecution": common.timestamp(service.meta.updated_at_ns),
    }
    return {"JobStatus": status}


def pretty(spec: ServiceSpec) -> list[str]:
    """The lines of `inspect --pretty`."""
    if spec.mode == REPLICATED:
        return ["Service Mode:\tReplicated", *([f" Replicas:\t{spec.replicas}"] if spec.replicas else [])]
    if spec.mode == REPLICATED_JOB:
        return [
            "Service Mode:\tReplicatedJob",
            f" Max Concurrent:\t{concurrent(spec)}",
            f" Total Completions:\t{spec.replicas}",
        ]
    return [f"Service Mode:\t{ {GLOBAL: 'Global', GLOBAL_JOB: 'GlobalJob'}.get(spec.mode, spec.mode) }"]
