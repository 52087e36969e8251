"""Manifests, indexes and image configurations: read from JSON into values, in Docker's and OCI's spelling."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from miniworker.runtime.api import NO_HEALTH_CHECK, HealthCheck, ImageError
from miniworker.runtime.oci import digest as digests

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""`uname -m` to Go's GOARCH, which images use."""

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest or configuration that are still accepted (the Distribution API's usual limit)."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What the image says about the containers made of it."""

    diff_ids: tuple[str, ...]
    created_at_ns: int = 0
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    dir: str = ""
    stop_signal: str = ""
    health: HealthCheck = NO_HEALTH_CHECK


def architecture() -> str:
    """This machine's, as images name it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError, naming `what` it should have been."""
    try:
        value = json.loads(data)
    except ValueError:
        raise ImageError(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    return value


def is_index(value: Mapping[str, Any], media_type: str = "") -> bool:
    return (value.get("mediaType") or media_type) in INDEX_TYPES or "manifests" in value


def descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, dict) or not digests.is_digest(str(value.get("digest"))):
        raise ImageError(f"{what} has no sha256 digest")
    size = value.get("size")
    if not isinstance(size, int) or size < 0:
        raise ImageError(f"{what} has no size")
    annotations = value.get("annotations") or {}
    return Descriptor(str(value.get("mediaType", "")), value["digest"], size, annotations)


def manifest(value: Mapping[str, Any]) -> Manifest:
    """A manifest. Raises ImageError for schema 1 and for layers that live elsewhere."""
    if value.get("schemaVersion") != 2 or "config" not in value:
        raise ImageError("the manifest is not of schema version 2; images that old must be pushed again")
    layers = tuple(descriptor(layer, "a layer of the manifest") for layer in value.get("layers") or ())
    for layer in layers:
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise ImageError(f"layer {layer.digest} is not distributed with the image ({layer.media_type})")
    return Manifest(config=descriptor(value["config"], "the manifest's config"), layers=layers)


def for_this_platform(value: Mapping[str, Any], *, machine: str | None = None) -> Descriptor:
    """The entry of an index made for this kind of machine. Raises ImageError, listing what there is."""
    wanted = machine or architecture()
    offered: list[str] = []
    for entry in value.get("manifests") or ():
        platform_ = entry.get("platform") or {}
        if not platform_ and len(value["manifests"]) == 1:
            return descriptor(entry, "an entry of the index")
        system, machine_ = platform_.get("os", "linux"), platform_.get("architecture", "")
        if (system, machine_) == ("linux", wanted):
            return descriptor(entry, "an entry of the index")
        offered.append(f"{system}/{machine_}")
    raise ImageError(
        f"no image for linux/{wanted}; the index has {', '.join(sorted(set(offered))) or 'none'}"
    )


def platforms(value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(operating system, architecture) of each image of an index; signatures and the like, which have none, are not."""
    found = (entry.get("platform") or {} for entry in value.get("manifests") or ())
    pairs = ((str(each.get("os", "")), str(each.get("architecture", ""))) for each in found)
    return tuple(sorted({(os, machine) for os, machine in pairs if machine not in ("", "unknown")}))


def platforms_of_config(data: bytes) -> tuple[tuple[str, str], ...]:
    """The one of an image's configuration; none when it names none. Raises ImageError."""
    value = document(data, "the image's configuration")
    machine = str(value.get("architecture") or "")
    return ((str(value.get("os") or "linux"), machine),) if machine else ()


def image_config(data: bytes) -> ImageConfig:
    """An image's configuration. Raises ImageError."""
    value = document(data, "the image's configuration")
    rootfs = value.get("rootfs") or {}
    diff_ids = tuple(rootfs.get("diff_ids") or ())
    if not all(isinstance(item, str) and digests.is_digest(item) for item in diff_ids):
        raise ImageError("the image's configuration has a layer without a sha256 digest")
    settings = value.get("config") or {}
    return ImageConfig(
        diff_ids=diff_ids,
        created_at_ns=_time_ns(str(value.get("created") or "")),
        env=_words(settings, "Env"),
        entrypoint=_words(settings, "Entrypoint"),
        command=_words(settings, "Cmd"),
        user=str(settings.get("User") or ""),
        dir=str(settings.get("WorkingDir") or ""),
        stop_signal=str(settings.get("StopSignal") or ""),
        health=_health(settings.get("Healthcheck") or {}),
    )


def _health(value: Mapping[str, Any]) -> HealthCheck:
    """HEALTHCHECK of a Dockerfile, which only Docker's images have."""
    numbers = {
        name: value.get(key) or 0
        for name, key in (
            ("interval_ns", "Interval"),
            ("timeout_ns", "Timeout"),
            ("retries", "Retries"),
            ("start_period_ns", "StartPeriod"),
            ("start_interval_ns", "StartInterval"),
        )
    }
    if not all(isinstance(number, int) and number >= 0 for number in numbers.values()):
        raise ImageError(
            "the image's configuration: Healthcheck has something else than numbers of nanoseconds"
        )
    return HealthCheck(test=_words(value, "Test"), **numbers)


def _words(settings: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = settings.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"the image's configuration: {key} is not a list of strings")
    return tuple(value)


def _time_ns(text: str) -> int:
    """RFC 3339, nanoseconds included, which `datetime` alone would refuse. 0: not given or not a time."""
    match = re.fullmatch(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        return 0
    seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    except ValueError:
        return 0
    return int(moment.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
