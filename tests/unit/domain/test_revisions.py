"""Revisions: numbered, at most ten, and a template that comes back keeps its version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import (
    FailureAction,
    Rollout,
    RolloutState,
    Service,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from minimanager.domain.revisions import (
    MAX_REVISIONS,
    all_revisions,
    ensure_replacing,
    last_other_template,
    requested,
    revised,
    revision_to_go_back_to,
)
from minimanager.domain.validate_update import check_updates


def changed(service: Service, **spec: object) -> Service:
    return revised(service, replace(service.spec, **spec), Belongings(), now_ns=7)  # type: ignore[arg-type]


def with_templates(count: int) -> Service:
    service = Service("s", spec=ServiceSpec(name="web"))
    for number in range(1, count):
        service = changed(service, task=TaskSpec(force_update=number))
    return service


def test_each_change_is_a_revision() -> None:
    service = with_templates(3)
    assert [each.number for each in all_revisions(service)] == [1, 2, 3]
    assert (service.revision, service.spec_version) == (3, 3)


def test_the_same_specification_is_none() -> None:
    service = with_templates(3)
    assert changed(service) == service


def test_a_change_beside_the_template_keeps_its_version() -> None:
    service = changed(with_templates(3), replicas=9)
    assert (service.revision, service.spec_version) == (4, 3)


def test_a_template_that_comes_back_keeps_its_version_and_twice_back_is_forward() -> None:
    service = with_templates(3)
    back = revised(service, revision_to_go_back_to(service).spec, Belongings(), now_ns=8)
    assert (back.revision, back.spec_version, back.spec.task.force_update) == (4, 2, 1)
    again = revised(back, revision_to_go_back_to(back).spec, Belongings(), now_ns=9)
    assert (again.revision, again.spec_version, again.spec) == (5, 3, service.spec)


def test_ten_former_ones_are_kept() -> None:
    service = with_templates(20)
    assert [each.number for each in service.revisions] == list(range(20 - MAX_REVISIONS, 20))


def test_what_cannot_be_gone_back_to() -> None:
    with pytest.raises(FailedPreconditionError, match="web does not have a previous spec"):
        revision_to_go_back_to(with_templates(1))
    with pytest.raises(NotFoundError, match="has no revision 9, only 1, 2"):
        revision_to_go_back_to(with_templates(2), 9)
    assert revision_to_go_back_to(with_templates(4), 2).number == 2


def test_a_failed_update_goes_back_past_what_only_scaled() -> None:
    service = changed(with_templates(3), replicas=9)
    target = last_other_template(service)
    assert target is not None
    assert target.number == 2


def test_only_an_update_that_is_not_over_can_be_paused() -> None:
    fresh, asked = with_templates(1), requested(with_templates(1))
    over = Rollout("web", update_number=asked.update_number, state=RolloutState.COMPLETED)
    ensure_replacing(asked, None)
    ensure_replacing(asked, replace(over, update_number=0))
    ensure_replacing(asked, replace(over, state=RolloutState.UPDATING))
    ensure_replacing(asked, replace(over, state=RolloutState.PAUSED))
    job = replace(asked, spec=replace(asked.spec, mode=ServiceMode.REPLICATED_JOB))
    for service, rollout in ((fresh, None), (asked, over), (job, None)):
        with pytest.raises(FailedPreconditionError, match="service web has no update in progress"):
            ensure_replacing(service, rollout)


def test_a_request_ends_a_pause() -> None:
    paused = replace(with_templates(1), update_paused=True)
    assert requested(paused, rolling_back=True) == replace(
        paused, update_number=1, update_paused=False, rolling_back=True
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ServiceSpec(update=UpdateConfig(parallelism=-1)), "update: parallelism must be 0"),
        (
            ServiceSpec(update=UpdateConfig(max_failure_millionths=1_000_001)),
            "max failure ratio must be 0 to 1",
        ),
        (ServiceSpec(rollback=UpdateConfig(monitor_ns=-1)), "rollback: monitor must be 0s to"),
        (ServiceSpec(rollback=UpdateConfig(failure_action=FailureAction.ROLLBACK)), "not rolled back"),
    ],
)
def test_what_is_refused(spec: ServiceSpec, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_updates(spec)
