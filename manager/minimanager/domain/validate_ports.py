"""Whether a service's ports and its endpoint mode may be stored. Raises InvalidArgumentError."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from minicommon.errors import InvalidArgumentError

from minimanager.domain.objects import (
    EndpointMode,
    PortConfig,
    PortLocality,
    PortProtocol,
    PublishMode,
    ServiceSpec,
)

PROXY_PROTOCOLS = (0, 2)
"""Versions; 0: none."""


def validate_ports(ports: tuple[PortConfig, ...]) -> tuple[PortConfig, ...]:
    """The ports in normal form. None is published twice; 0 asks for a free one and conflicts with none."""
    seen: set[tuple[int, int]] = set()
    for port in ports:
        _check_numbers(port)
        _check_options(port)
        key = (port.protocol, port.published_port)
        if port.published_port and key in seen:
            raise InvalidArgumentError(f"EndpointSpec: duplicate published ports provided: {_name(port)}")
        seen.add(key)
    return tuple(replace(port, host_ip=_host_ip(port.host_ip)) if port.host_ip else port for port in ports)


def check_endpoint_mode(spec: ServiceSpec) -> None:
    """A name that stands for the tasks' addresses leads past the nodes' ports (SwarmKit's words)."""
    if spec.endpoint_mode is not EndpointMode.DNSRR:
        return
    if any(port.publish_mode is PublishMode.INGRESS for port in spec.ports):
        raise InvalidArgumentError(
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
        )


def _check_numbers(port: PortConfig) -> None:
    if not 1 <= port.target_port <= 65_535:
        raise InvalidArgumentError(f"ports: target port must be 1 to 65535, not {port.target_port}")
    if not 0 <= port.published_port <= 65_535:
        raise InvalidArgumentError(
            f"ports: published port must be 1 to 65535, or 0 for any, not {port.published_port}"
        )


def _check_options(port: PortConfig) -> None:
    if port.proxy_protocol not in PROXY_PROTOCOLS:
        raise InvalidArgumentError(
            f"ports: proxy protocol of port {_name(port)} must be 2, or 0 for none, not {port.proxy_protocol}"
        )
    if port.proxy_protocol and port.protocol is not PortProtocol.TCP:
        raise InvalidArgumentError(f"ports: the proxy protocol is for tcp, not for port {_name(port)}")
    if port.publish_mode is PublishMode.INGRESS:
        return
    for name, given in (
        ("local", port.locality is not PortLocality.ANY),
        ("sticky", port.sticky),
        ("proxy_protocol", bool(port.proxy_protocol)),
    ):
        if given:
            raise InvalidArgumentError(
                f"ports: {name} is for ports in ingress mode, port {_name(port)} is published in host mode"
            )


def _host_ip(text: str) -> str:
    """The address as it is usually written; empty where it stands for all of a node's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgumentError(f"ports: host_ip must be an IP address, not {text!r}") from error
    if address.is_multicast or "%" in text:
        raise InvalidArgumentError(f"ports: host_ip must be the address of a host, not {text!r}")
    return "" if text == "0.0.0.0" else str(address)


def _name(port: PortConfig) -> str:
    return f"{port.published_port or port.target_port}/{port.protocol.name.lower()}"
