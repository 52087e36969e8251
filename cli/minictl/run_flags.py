"""The flags of `minictl run`, and the service of one task that they ask for."""

from __future__ import annotations

from minictl import container_flags, values
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.mounts import parse_mount
from minictl.terminal import DETACH_KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.context import Context
    from minictl.flags import Parsed


def parse_volume(text: str) -> dict[str, Any]:
    """`-v`: `/target`, `source:/target` or `source:/target:ro`, as the API's Mount. Raises ValueError."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f"invalid spec: {text}: must be [SOURCE:]TARGET[:OPTIONS]")
    source, target, options = ("", parts[0], "") if len(parts) == 1 else (*parts, "")[:3]
    if not target.startswith("/"):
        raise ValueError(f"invalid volume specification: '{text}': mount path must be absolute")
    bind = source.startswith("/")
    mount: dict[str, Any] = {"type": 1 if bind else 0, "source": source, "target": target}
    for option in options.split(",") if options else ():
        if option == "ro":
            mount["read_only"] = True
        elif option == "nocopy" and not bind:
            mount["no_copy"] = True
        elif bind and option in ("rprivate", "private", "rshared", "shared", "rslave", "slave"):
            mount["propagation"] = option
        elif option != "rw":
            raise ValueError(f"invalid mode: {option}")
    return mount


def _network(text: str) -> tuple[str, list[str]]:
    """`backend`, or `name=backend,alias=db`."""
    if "=" not in text:
        return text, []
    name, aliases = "", []
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "name":
            name = value
        elif key == "alias":
            aliases.append(value)
        else:
            raise ValueError(f"invalid field key {key}")
    if not name:
        raise ValueError("network name/id is not specified")
    return name, aliases


_VOLUME = values.Kind("list", parse_volume, repeat=True)
_MOUNT = values.Kind("mount", parse_mount, repeat=True)
_NETWORK = values.Kind("network", _network, repeat=True)

FLAGS = (
    *(flag for flag in container_flags.CREATE_FLAGS if flag.name not in ("init", "mount", "tty")),
    Flag("cap-add", "Add Linux capabilities", kind=values.LIST),
    Flag("cap-drop", "Drop Linux capabilities", kind=values.LIST),
    Flag("constraint", "Placement constraints", kind=values.LIST),
    Flag("cpus", "Number of CPUs", kind=values.CPUS),
    Flag("detach", "Run container in background and print container ID", short="d"),
    Flag(
        "detach-keys",
        "Override the key sequence for detaching a container",
        kind=values.STRING,
        default=DETACH_KEYS,
    ),
    Flag("entrypoint", "Overwrite the default ENTRYPOINT of the image", kind=values.COMMAND),
    Flag("env", "Set environment variables", short="e", kind=values.ENV),
    Flag("env-file", "Read in a file of environment variables", kind=values.LIST),
    Flag("group-add", "Add additional groups to join", kind=values.LIST),
    Flag("hostname", "Container host name", kind=values.STRING),
    Flag("init", "Run an init inside the container that forwards signals and reaps processes"),
    Flag("interactive", "Keep STDIN open even if not attached", short="i"),
    Flag("label", "Set meta data on a container", short="l", kind=values.LABEL),
    Flag("memory", "Memory limit", short="m", kind=values.MEMORY),
    Flag("mount", "Attach a filesystem mount to the container", kind=_MOUNT),
    Flag("name", "Assign a name to the container", kind=values.STRING),
    Flag("network", "Connect a container to a network", kind=_NETWORK),
    Flag("node", "Run on this node", kind=values.STRING),
    Flag("pids-limit", "Tune container pids limit (0 for unlimited)", kind=values.INT),
    Flag("publish", "Publish a container's port on the node that it runs on", short="p", kind=values.PORT),
    Flag("read-only", "Mount the container's root filesystem as read only"),
    Flag("rm", "Automatically remove the container when it exits"),
    Flag("sig-proxy", "Proxy received signals to the process", default=True, shown="true"),
    Flag("stop-signal", "Signal to stop the container", kind=values.STRING),
    Flag("tty", "Allocate a pseudo-TTY", short="t"),
    Flag("user", "Username or UID (format: <name|uid>[:<group|gid>])", short="u", kind=values.STRING),
    Flag("volume", "Bind mount a volume", short="v", kind=_VOLUME),
    Flag("workdir", "Working directory inside the container", short="w", kind=values.STRING),
)

_FIELDS = (
    ("hostname", "hostname"),
    ("init", "init"),
    ("read-only", "read_only"),
    ("stop-signal", "stop_signal"),
    ("tty", "tty"),
    ("user", "user"),
    ("workdir", "dir"),
)


def new_spec(parsed: Parsed, context: Context) -> ServiceSpec:
    """What the flags ask for. Raises CliError."""
    from minictl import keyvalues, names, service_flags
    from minictl.client import messages
    from minictl.commands import common

    image, *args = parsed.arguments
    spec = messages.ServiceSpec(name=parsed["name"] or names.random_name())
    container = spec.task.container
    container.image = image
    container.args.extend(args)
    container.command.extend(parsed["entrypoint"] or [])
    for key, value in keyvalues.labels(parsed["label"]).items():
        container.labels[key] = value
    container.groups.extend(parsed["group-add"])
    container.stop_grace_period_ns = service_flags.STOP_GRACE_PERIOD_NS
    variables = [
        item for path in parsed["env-file"] for item in keyvalues.read_env_file(path, context.environment)
    ]
    variables += keyvalues.resolve_env(parsed["env"], context.environment)
    container.env.extend(keyvalues.last_of_each(variables))
    for flag, field in _FIELDS:
        if parsed.changed(flag):
            setattr(container, field, parsed[flag])
    container_flags.apply_new(spec, parsed)
    container.mounts.extend([messages.Mount(**fields) for fields in parsed["volume"]])
    added, dropped = service_flags.merge_capabilities(container, parsed)
    container.cap_add[:], container.cap_drop[:] = added, dropped
    limits = spec.task.resources.limits
    for flag, field in (("cpus", "nano_cpus"), ("memory", "memory_bytes"), ("pids-limit", "pids")):
        if parsed.changed(flag):
            setattr(limits, field, parsed[flag])
    for name, aliases in parsed["network"]:
        spec.task.networks.append(messages.NetworkUse(network=name, aliases=aliases))
    spec.placement.constraints.extend(parsed["constraint"])
    if parsed["node"]:
        node = context.call(
            "Nodes/Get", messages.GetRequest(ref=common.node_reference(context, parsed["node"]))
        )
        spec.placement.constraints.append(f"node.id=={node.node.id}")
    _publish(spec, parsed)
    return spec


def _publish(spec: ServiceSpec, parsed: Parsed) -> None:
    from minictl.client import messages

    for port in (port for group in parsed["publish"] for port in group):
        if not port.published:
            raise CliError(
                f"port {port.target}: say which port of the node it is to be: -p NODE_PORT:{port.target}"
            )
        spec.ports.append(
            messages.PortConfig(
                protocol=port.protocol,
                target_port=port.target,
                published_port=port.published,
                publish_mode=messages.PUBLISH_MODE_HOST,
            )
        )
