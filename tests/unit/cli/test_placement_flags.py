"""Placement on the command line: flags in, lists and inspection out."""

from __future__ import annotations

import pytest
from minictl import flags, service_flags
from minictl.client import messages
from minictl.errors import CliError, UsageError
from minictl.output import listing
from minictl.views import service, service_pretty
from miniproto.v1 import objects_pb2 as objects
from support import canned


def create(*words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.CREATE_FLAGS, [*words, "whoami:1"], interspersed=False)
    return objects.ServiceSpec.FromString(service_flags.new_spec(parsed, {}).SerializeToString())


def update(spec: objects.ServiceSpec, *words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.UPDATE_FLAGS, words)
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    service_flags.change_spec(changed, parsed, {})
    return objects.ServiceSpec.FromString(changed.SerializeToString())


def placed() -> objects.ServiceSpec:
    return create(
        *("--constraint", "node.role==worker", "--constraint", "node.labels.a in (b,c)"),
        *("--placement-pref", "spread=node.labels.zone", "--placement-pref", "spread=node.labels.rack"),
        *("--replicas-max-per-node", "2", "--placement-strategy", "binpack"),
        *("--affinity", "cache", "--affinity", "db", "--anti-affinity", "batch"),
    )


def test_flags_reach_their_fields() -> None:
    placement = placed().placement
    assert list(placement.constraints) == ["node.role==worker", "node.labels.a in (b,c)"]
    assert list(placement.spread_over) == ["node.labels.zone", "node.labels.rack"]
    assert (placement.max_replicas, placement.strategy) == (2, objects.PLACEMENT_STRATEGY_BINPACK)
    assert (list(placement.affinity), list(placement.anti_affinity)) == (["cache", "db"], ["batch"])


def test_without_flags_there_is_no_limit_and_an_update_changes_nothing() -> None:
    placement = create().placement
    assert (list(placement.constraints), placement.max_replicas, placement.strategy) == ([], 0, 0)
    spec = placed()
    assert update(spec, "--quiet") == spec


def test_update_adds_and_removes() -> None:
    placement = update(
        placed(),
        *("--constraint-add", "node.id!=x", "--constraint-rm", "node.role==worker"),
        *("--constraint-add", "node.labels.a in (b,c)"),
        *(
            "--placement-pref-add",
            "spread=engine.labels.disk",
            "--placement-pref-rm",
            "spread=node.labels.zone",
        ),
        *("--replicas-max-per-node", "0", "--placement-strategy", "spread"),
        *("--affinity-rm", "db", "--affinity-add", "api", "--anti-affinity-rm", "batch"),
    ).placement
    assert list(placement.constraints) == ["node.id!=x", "node.labels.a in (b,c)"]
    assert list(placement.spread_over) == ["node.labels.rack", "engine.labels.disk"]
    assert (placement.max_replicas, placement.strategy) == (0, objects.PLACEMENT_STRATEGY_SPREAD)
    assert (list(placement.affinity), list(placement.anti_affinity)) == (["api", "cache"], [])


@pytest.mark.parametrize(
    ("preference", "message"),
    [
        ("spread", 'must be of the format "<strategy>=<arg>"'),
        ("=x", 'must be of the format "<strategy>=<arg>"'),
        ("pack=x", "unsupported placement preference pack (only spread is supported)"),
    ],
)
def test_a_preference_that_is_none_is_refused(preference: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        create("--placement-pref", preference)
    assert message in str(caught.value)


def test_a_strategy_that_is_none_is_refused() -> None:
    with pytest.raises(CliError, match='invalid placement strategy "best": must be "spread" or "binpack"'):
        create("--placement-strategy", "best")


def test_a_list_shows_the_maximum() -> None:
    view = canned.service()
    view.service.spec.placement.max_replicas = 3
    shown = listing.render(service.LAYOUT, service.rows([view]), format="{{.Replicas}}")
    assert shown == "2/2 (max 3 per node)\n"


def test_inspect_shows_it_as_docker_does() -> None:
    view = canned.service()
    view.service.spec.placement.CopyFrom(placed().placement)
    assert service.to_json(view)["Spec"]["TaskTemplate"]["Placement"] == {
        "Constraints": ["node.role==worker", "node.labels.a in (b,c)"],
        "Preferences": [
            {"Spread": {"SpreadDescriptor": "node.labels.zone"}},
            {"Spread": {"SpreadDescriptor": "node.labels.rack"}},
        ],
        "MaxReplicas": 2,
        "Strategy": "binpack",
        "Affinity": ["cache", "db"],
        "AntiAffinity": ["batch"],
    }
    pretty = service_pretty.render(view)
    assert (
        "Placement:\n Constraints:\t[node.role==worker node.labels.a in (b,c)]\n"
        " Preferences:\t[node.labels.zone node.labels.rack]\n Max Replicas Per Node:\t2\n Strategy:\tbinpack\n"
        " Affinity:\t[cache db]\n Anti-Affinity:\t[batch]\n"
    ) in pretty
