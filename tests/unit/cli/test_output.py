"""Lists, inspected objects and pretty forms, as golden files, from a canned cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from minictl.errors import CliError
from minictl.output import listing
from minictl.output.jsontext import indented
from minictl.views import cluster, common, image, network, node, secret, service, service_pretty, task, why
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import objects_pb2 as objects
from support import canned, golden

GOLDEN = Path(__file__).parent / "golden" / "output"

TASKS = [
    canned.task(2, identity="t2", hostname="core-02", age=30),
    canned.task(10, identity="tA", age=1, state=448),
    canned.task(
        1, identity="t0", state=704, desired=640, age=400, error="task: non-zero exit (137): killed\nhard"
    ),
    canned.task(1),
    canned.task(3, identity="t3", state=64, hostname="", error="no suitable node"),
]


def tasks(**options: Any) -> str:
    settings: dict[str, Any] = {"truncate": True, "resolve": True, **options}
    quiet = settings.pop("quiet", False)
    rows = task.rows(TASKS, now_ns=canned.NOW_NS, **settings)
    return listing.render(task.LAYOUT, rows, format=options.get("format", ""), quiet=quiet)


SERVICES = [
    canned.service(),
    canned.service("api", running=0),
    canned.service("web10"),
    canned.service("web9"),
]
NODES = [canned.node("core-02", manager=False, identity=canned.OTHER_NODE_ID), canned.node()]


def services(**options: Any) -> str:
    return listing.render(service.LAYOUT, service.rows(SERVICES), **options)


def nodes(**options: Any) -> str:
    return listing.render(node.LAYOUT, node.rows(NODES, self_id=canned.NODE_ID), **options)


def secrets(**options: Any) -> str:
    rows = secret.rows([canned.secret(), canned.secret("b-key", rotated=True)], now_ns=canned.NOW_NS)
    return listing.render(secret.LAYOUT, rows, **options)


def images(layout: listing.Layout = image.LAYOUT, *, truncate: bool = True) -> str:
    rows = image.rows([canned.image()], now_ns=canned.NOW_NS, truncate=truncate)
    return listing.render(layout, rows)


def updated() -> control.ServiceView:
    view = canned.service()
    view.rollout.state = 2  # type: ignore[assignment]
    view.rollout.started_at_ns = canned.NOW_NS - 90 * canned.SECOND
    view.rollout.completed_at_ns = canned.NOW_NS - 30 * canned.SECOND
    view.rollout.message = "update completed"
    return view


OUTPUTS: dict[str, Callable[[], str]] = {
    "service-ls": services,
    "service-ls-quiet": lambda: services(quiet=True),
    "service-ls-json": lambda: services(format="json"),
    "service-ls-table": lambda: services(format=r"table {{.ID}}\t{{upper .Name}}\t{{.Replicas}}"),
    "service-ls-template": lambda: services(format="{{.Name}}: {{.Image}}"),
    "service-ls-empty": lambda: listing.render(service.LAYOUT, []),
    "service-ps": tasks,
    "service-ps-no-trunc": lambda: tasks(truncate=False),
    "service-ps-no-resolve": lambda: tasks(resolve=False),
    "service-ps-template": lambda: tasks(format="{{.Name}} {{.CurrentState}}"),
    "service-ps-quiet": lambda: tasks(quiet=True, truncate=False),
    "service-inspect": lambda: indented([service.to_json(canned.service())]),
    "service-inspect-pretty": lambda: service_pretty.render(canned.service()),
    "service-inspect-pretty-updated": lambda: service_pretty.render(updated(), now_ns=canned.NOW_NS),
    "task-why": lambda: why.render(canned.why()),
    "task-why-json": lambda: indented([why.to_json(canned.why())]),
    "task-inspect": lambda: indented([task.to_json(canned.task())]),
    "node-ls": nodes,
    "node-ls-self": lambda: nodes(format="{{.Hostname}} {{if .Self}}self{{else}}other{{end}} {{.TLSStatus}}"),
    "node-inspect": lambda: indented([node.to_json(canned.node())]),
    "node-inspect-worker": lambda: indented([node.to_json(canned.node(manager=False))]),
    "node-inspect-pretty": lambda: node.pretty(canned.node()),
    "swarm-info": lambda: "\n".join(cluster.lines(canned.cluster_info())),
    "swarm-info-json": lambda: indented(cluster.to_json(canned.cluster_info())),
    "info-manager": lambda: "\n".join(cluster.info_lines(canned.local_info(), canned.cluster_info())),
    "info-worker": lambda: "\n".join(cluster.info_lines(canned.local_info(), None)),
    "info-json": lambda: indented(cluster.info_json(canned.local_info(), canned.cluster_info())),
    "network-ls": lambda: listing.render(network.LAYOUT, network.rows([canned.network()], truncate=True)),
    "network-inspect": lambda: indented([network.to_json(canned.network_view(canned.backend()))]),
    "network-inspect-verbose": lambda: indented(
        [network.to_json(canned.network_view(canned.backend()), verbose=True)]
    ),
    "secret-ls": lambda: secrets(),
    "secret-ls-quiet": lambda: secrets(quiet=True),
    "secret-ls-json": lambda: secrets(format="json"),
    "secret-inspect": lambda: indented([secret.to_json(canned.secret(rotated=True))]),
    "secret-inspect-pretty": lambda: secret.pretty(canned.secret(rotated=True)),
    "config-ls": lambda: listing.render(
        secret.CONFIG_LAYOUT, secret.config_rows([canned.config().config], now_ns=canned.NOW_NS)
    ),
    "config-inspect": lambda: indented([secret.config_json(canned.config())]),
    "config-inspect-pretty": lambda: secret.config_pretty(canned.config()),
    "secret-who": lambda: listing.render(
        secret.WHO_LAYOUT, secret.holder_rows(canned.holders(), now_ns=canned.NOW_NS, truncate=True)
    ),
    "secret-audit": lambda: listing.render(
        secret.AUDIT_LAYOUT, secret.audit_rows(canned.ledger(), {canned.NODE_ID: "core-01"}, truncate=True)
    ),
    "service-inspect-secrets": lambda: indented([service.to_json(canned.service_with_secrets())]),
    "service-inspect-secrets-pretty": lambda: service_pretty.render(canned.service_with_secrets()),
    "image-ls": images,
    "image-ls-digests": lambda: images(image.DIGESTS_LAYOUT, truncate=False),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_output(name: str) -> None:
    golden.check(GOLDEN / f"{name}.txt", OUTPUTS[name]())


def port(target: int, published: int, protocol: int = 0, mode: int = 0) -> objects.PortConfig:
    return objects.PortConfig(
        target_port=target,
        published_port=published,
        protocol=objects.PortProtocol.ValueType(protocol),
        publish_mode=objects.PublishMode.ValueType(mode),
    )


@pytest.mark.parametrize(
    ("ports", "shown"),
    [
        ([], ""),
        ([port(80, 8080)], "*:8080->80/tcp"),
        ([port(80, 8080), port(81, 8081)], "*:8080-8081->80-81/tcp"),
        ([port(80, 8080), port(80, 8081)], "*:8080-8081->80/tcp"),
        ([port(53, 53, 1), port(80, 8080)], "*:8080->80/tcp, *:53->53/udp"),
        ([port(80, 8080), port(90, 8081)], "*:8080->80/tcp, *:8081->90/tcp"),
        ([port(80, 8080, 0, 1)], ""),
    ],
)
def test_ports_of_a_service(ports: list[objects.PortConfig], shown: str) -> None:
    assert service.port_ranges(ports) == shown


@pytest.mark.parametrize(
    ("image_name", "shown"),
    [
        ("whoami", "whoami"),
        ("whoami:1", "whoami:1"),
        ("docker.io/library/whoami:1@sha256:abc", "whoami:1"),
        ("docker.io/team/app:2", "team/app:2"),
        ("127.0.0.1:5000/app:2", "127.0.0.1:5000/app:2"),
        ("127.0.0.1:5000/app@sha256:abc", "127.0.0.1:5000/app@sha256:abc"),
    ],
)
def test_images_are_shown_short(image_name: str, shown: str) -> None:
    assert common.familiar_image(image_name) == shown


def test_a_template_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(CliError, match='template parsing error: map has no entry for key "Nope"'):
        services(format="{{.Nope}}")


def test_a_number_that_a_newer_daemon_knows_is_shown() -> None:
    assert common.state_name(999) == "999"
