"""What a service may depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from minimanager.domain.dependencies import MAX_DEPENDENCIES, check_dependencies, ensure_dependencies
from minimanager.domain.objects import Dependency, DependencyCondition, Service, ServiceMode, ServiceSpec


def spec(name: str, *needs: str, mode: ServiceMode = ServiceMode.REPLICATED) -> ServiceSpec:
    return ServiceSpec(name=name, mode=mode, depends_on=tuple(Dependency(each) for each in needs))


def services(*specs: ServiceSpec) -> dict[str, Service]:
    return {f"{each.name}-id": Service(f"{each.name}-id", spec=each) for each in specs}


def test_those_that_the_answer_rests_on_are_all_that_can_be_reached() -> None:
    present = services(spec("db", "disk"), spec("disk"), spec("other"))
    needed = ensure_dependencies(present, spec("web", "db"))
    assert {each.spec.name for each in needed} == {"db", "disk"}


def test_a_service_that_does_not_exist_is_refused_unless_it_was_named_before() -> None:
    web = spec("web", "db")
    with pytest.raises(NotFoundError, match="depends_on: service db not found"):
        ensure_dependencies({}, web)
    removing = {key: replace(each, removing=True) for key, each in services(spec("db")).items()}
    with pytest.raises(NotFoundError):
        ensure_dependencies(removing, web)
    assert ensure_dependencies({}, web, before=web.depends_on) == []


def test_a_circle_is_refused_by_its_names() -> None:
    present = services(spec("db", "disk"), spec("disk", "web"), spec("web"))
    with pytest.raises(FailedPreconditionError, match="wait for each other: web -> db -> disk -> web"):
        ensure_dependencies(present, spec("web", "db"))


def test_only_jobs_complete() -> None:
    web = ServiceSpec(name="web", depends_on=(Dependency("db", DependencyCondition.COMPLETED),))
    with pytest.raises(FailedPreconditionError, match="service db is no job"):
        ensure_dependencies(services(spec("db")), web)
    job = spec("db", mode=ServiceMode.REPLICATED_JOB)
    assert len(ensure_dependencies(services(job), web)) == 1


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (("web",), "cannot depend on itself"),
        (("db", "db"), "named twice"),
        (("no such name",), "no such name"),
        (tuple(f"s{number}" for number in range(MAX_DEPENDENCIES + 1)), "at most 100 services, not 101"),
    ],
)
def test_what_contradicts_itself_is_refused(needs: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check_dependencies(spec("web", *needs))
