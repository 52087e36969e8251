"""`minictl swarm`."""

from __future__ import annotations

from minictl import values
from minictl.command import Command
from minictl.commands import backup, common
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ClusterSpec

    from minictl.context import Context
    from minictl.flags import Parsed

INIT_SECONDS = 180.0
"""For init and join: etcd and the manager have to start, on a slow disk, too."""

ROLES = ("worker", "manager")


def _init(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    availability: Any = common.availability(parsed["availability"])
    request = messages.InitRequest(
        advertise_address=parsed["advertise-addr"],
        listen_address=parsed["listen-addr"] if parsed.changed("listen-addr") else "",
        default_address_pools=[pool for value in parsed["default-addr-pool"] for pool in value.split(",")],
        subnet_size=parsed["default-addr-pool-mask-length"],
        certificate_lifetime_ns=parsed["cert-expiry"],
        heartbeat_period_ns=parsed["dispatcher-heartbeat"],
        availability=availability,
        force_new_cluster=parsed["force-new-cluster"],
        etcd_endpoints=[url for value in parsed["etcd-endpoints"] for url in value.split(",")],
        etcd_ca_pem=_read(parsed["etcd-ca"]),
        etcd_certificate_pem=_read(parsed["etcd-cert"]),
        etcd_key_pem=_read(parsed["etcd-key"]),
    )
    request.autolock = parsed["autolock"]
    if parsed.changed("task-history-limit"):
        request.task_history_limit = parsed["task-history-limit"]
    response = context.call("LocalNode/Init", request, timeout=INIT_SECONDS)
    context.print(f"Swarm initialized: current node ({response.node_id}) is now a manager.\n")
    _print_join(context, "worker", response.worker_token, response.join_address)
    context.print(
        "To add a manager to this swarm, run 'minictl swarm join-token manager' and follow the instructions."
    )
    if parsed["autolock"]:
        context.print()
        _print_unlock(context)
    return 0


def _read(path: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error


def _print_join(context: Context, role: str, token: str, address: str) -> None:
    context.print(f"To add a {role} to this swarm, run the following command:\n")
    context.print(f"    minictl swarm join --token {token} {address}\n")


def _join(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    availability: Any = common.availability(parsed["availability"])
    request = messages.JoinClusterRequest(
        token=parsed["token"],
        remote_addresses=parsed.arguments,
        advertise_address=parsed["advertise-addr"],
        listen_address=parsed["listen-addr"] if parsed.changed("listen-addr") else "",
        availability=availability,
    )
    response = context.call("LocalNode/Join", request, timeout=INIT_SECONDS)
    context.print(f"This node joined a swarm as a {ROLES[response.role]}.")
    return 0


def _join_token(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (role,) = parsed.arguments
    if role not in ROLES:
        raise CliError(f"unknown role {role}")
    number: Any = ROLES.index(role)
    request = messages.JoinTokenRequest(role=number, rotate=parsed["rotate"])
    response = context.call("Clusters/JoinToken", request)
    if parsed["quiet"]:
        context.print(response.token)
        return 0
    if parsed["rotate"]:
        context.print(f"Successfully rotated {role} join token.\n")
    _print_join(context, role, response.token, response.address)
    return 0


def _token_create(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (role,) = parsed.arguments
    if role not in ROLES:
        raise CliError(f"unknown role {role}")
    number: Any = ROLES.index(role)
    request = messages.CreateTokenRequest(
        role=number, label=parsed["label"], ttl_ns=parsed["ttl"] or 0, max_uses=parsed["uses"] or 0
    )
    answer = context.call("JoinTokens/Create", request)
    if parsed["quiet"]:
        context.print(answer.token)
        return 0
    _print_join(context, role, answer.token, answer.address)
    context.print("The token is shown this once.")
    return 0


def _token_ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import access

    answer = context.call("JoinTokens/List", messages.ListTokensRequest())
    rows = access.token_rows(answer, everything=parsed["all"], truncate=not parsed["no-trunc"])
    context.out.write(listing.render(access.TOKENS, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _token_rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def revoke(ref: str) -> None:
        context.call("JoinTokens/Revoke", messages.RevokeTokenRequest(ref=ref))
        context.print(ref)

    return common.for_each(parsed.arguments, revoke)


def _leave(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    context.call("LocalNode/Leave", messages.LeaveClusterRequest(force=parsed["force"]), timeout=INIT_SECONDS)
    context.print("Node left the swarm.")
    return 0


def _update(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    if not parsed.given():
        raise CliError("nothing to update: give a flag (see 'minictl swarm update --help')")
    if parsed.given() - {"rotate-encryption-key", "detach"}:
        cluster = context.call("Clusters/Get", messages.GetClusterRequest()).cluster
        locked = cluster.spec.autolock
        change_spec(cluster.spec, parsed)
        context.call(
            "Clusters/Update",
            messages.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec),
        )
        context.print("Swarm updated.")
        if cluster.spec.autolock and not locked:
            _print_unlock(context)
    if parsed["rotate-encryption-key"]:
        from minictl import rotation

        rotation.rotate_encryption_key(context, detach=parsed["detach"])
    return 0


def _print_unlock(context: Context) -> None:
    from minictl.client import messages

    answer = context.call("EncryptionKeys/UnlockKey", messages.GetUnlockKeyRequest())
    _show_unlock(context, answer.key)
    _confirm_unlock(context, answer.key)


def _show_unlock(context: Context, key: str) -> None:
    context.print(
        "To unlock a swarm manager after it restarts, run the `minictl swarm unlock`\n"
        "command and provide the following key:\n\n"
        f"    {key}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )


def _unlock_key(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    answer = context.call("EncryptionKeys/UnlockKey", messages.GetUnlockKeyRequest(rotate=parsed["rotate"]))
    if not answer.key:
        raise CliError("no unlock key is set")
    if parsed["quiet"]:
        context.print(answer.key)
    else:
        if parsed["rotate"]:
            context.print("Successfully rotated manager unlock key.\n")
        _show_unlock(context, answer.key)
    _confirm_unlock(context, answer.key)
    return 0


def _confirm_unlock(context: Context, key: str) -> None:
    """Whoever asked has the key: from now on managers open with no other, nor without one."""
    from minictl.client import messages

    context.out.flush()
    context.call("EncryptionKeys/UnlockKey", messages.GetUnlockKeyRequest(confirm=key))


def _unlock(context: Context, parsed: Parsed) -> int:
    import sys

    from minictl.client import messages

    local = context.call("LocalNode/Info", messages.InfoRequest())
    if local.state == messages.LOCAL_STATE_INACTIVE:
        raise CliError("Error: This node is not part of a swarm")
    if local.role == messages.NODE_ROLE_MANAGER and local.state != messages.LOCAL_STATE_LOCKED:
        raise CliError("Error: swarm is not locked")
    if sys.stdin.isatty():
        from getpass import getpass

        key = getpass("Enter unlock key: ")
    else:
        key = sys.stdin.readline()
    context.call("LocalNode/Unlock", messages.UnlockNodeRequest(key=key.strip()), timeout=INIT_SECONDS)
    return 0


def _ca(context: Context, parsed: Parsed) -> int:
    from minictl import rotation
    from minictl.client import messages

    if not parsed["rotate"]:
        for flag in ("ca-cert", "ca-key", "cert-expiry", "detach", "quiet"):
            if parsed.changed(flag):
                raise CliError(f"`--{flag}` flag requires the `--rotate` flag to update the CA")
        context.out.write(context.call("RootAuthority/Get", messages.GetRootRequest()).root_ca_pem.decode())
        return 0
    request = messages.RotateRootRequest(
        ca_certificate_pem=_read(parsed["ca-cert"]), ca_key_pem=_read(parsed["ca-key"])
    )
    if parsed.changed("cert-expiry"):
        cluster = context.call("Clusters/Get", messages.GetClusterRequest()).cluster
        change_spec(cluster.spec, parsed)
        context.call(
            "Clusters/Update",
            messages.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec),
        )
    context.call("RootAuthority/Rotate", request)
    if parsed["detach"]:
        return 0
    rotation.wait_root(context, quiet=parsed["quiet"])
    if not parsed["quiet"]:
        context.out.write(context.call("RootAuthority/Get", messages.GetRootRequest()).root_ca_pem.decode())
    return 0


def change_spec(spec: ClusterSpec, parsed: Parsed) -> None:
    """Only the flags that were given change something."""
    if "autolock" in parsed.given():
        spec.autolock = parsed["autolock"]
    if parsed.changed("cert-expiry"):
        spec.certificate_lifetime_ns = parsed["cert-expiry"]
    if parsed.changed("dispatcher-heartbeat"):
        spec.heartbeat_period_ns = parsed["dispatcher-heartbeat"]
    if "ledger-age" in parsed.given():
        spec.ledger_age_ns = parsed["ledger-age"]
    if "ledger-records" in parsed.given():
        spec.ledger_records = parsed["ledger-records"]
    if parsed.changed("task-history-limit"):
        spec.task_history_limit = parsed["task-history-limit"]


def _info(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import cluster

    info = context.call("Clusters/Get", messages.GetClusterRequest())
    if parsed["format"]:
        return _formatted(context, cluster.to_json(info), parsed["format"])
    context.print("\n".join(cluster.lines(info)))
    return 0


def _formatted(context: Context, value: dict[str, Any], format: str) -> int:
    from minictl.output.inspect import show_one

    context.print(show_one(value, format))
    return 0


_AVAILABILITY = Flag(
    "availability",
    'Availability of the node ("active", "pause", "drain")',
    kind=values.STRING,
    default="active",
    shown='"active"',
)
_ADVERTISE = Flag(
    "advertise-addr", 'Advertised address (format: "<ip|interface>[:port]")', kind=values.STRING
)
_LISTEN = Flag(
    "listen-addr",
    'Listen address (format: "<ip|interface>[:port]")',
    kind=values.NODE_ADDRESS,
    default="0.0.0.0:2377",
    shown="0.0.0.0:2377",
)
_DATA_PATH = Flag(
    "data-path-addr",
    'Address or interface to use for data path traffic (format: "<ip|interface>")',
    kind=values.STRING,
    later=True,
)
_HISTORY = Flag("task-history-limit", "Task history retention limit", kind=values.INT, default=5, shown="5")
_EXPIRY = Flag(
    "cert-expiry",
    "Validity period for node certificates (ns|us|ms|s|m|h)",
    kind=values.DURATION,
    default=2160 * 3600 * 1_000_000_000,
    shown="2160h0m0s",
)
_HEARTBEAT = Flag(
    "dispatcher-heartbeat",
    "Dispatcher heartbeat period (ns|us|ms|s|m|h)",
    kind=values.DURATION,
    default=2_000_000_000,
    shown="2s",
)
_EXTERNAL_CA = Flag(
    "external-ca",
    "Specifications of one or more certificate signing endpoints",
    kind=values.LIST,
    why="is not supported: managers sign by themselves. A root of your own is brought with "
    "`minictl swarm ca --rotate --ca-cert FILE --ca-key FILE`",
)
_LATER = (
    _EXTERNAL_CA,
    Flag("max-snapshots", "Number of additional Raft snapshots to retain", kind=values.UINT, later=True),
    Flag("snapshot-interval", "Number of log entries between Raft snapshots", kind=values.UINT, later=True),
)

_BACKUP, _VERIFY, _RESTORE = backup.commands(advertise=_ADVERTISE, listen=_LISTEN)

COMMANDS = (
    _BACKUP,
    _VERIFY,
    Command(
        "ca",
        "Display and rotate the root CA",
        _ca,
        flags=(
            Flag(
                "ca-cert",
                "Path to the PEM-formatted root CA certificate to use for the new cluster",
                kind=values.STRING,
            ),
            Flag(
                "ca-key",
                "Path to the PEM-formatted root CA key to use for the new cluster",
                kind=values.STRING,
            ),
            _EXPIRY,
            Flag(
                "detach", "Exit immediately instead of waiting for the root rotation to converge", short="d"
            ),
            _EXTERNAL_CA,
            Flag("quiet", "Suppress progress output", short="q"),
            Flag(
                "rotate",
                "Rotate the swarm CA - if no certificate or key are provided, new ones will be generated",
            ),
        ),
    ),
    Command(
        "info",
        "Show the state of the swarm and of its store",
        _info,
        flags=(common.INSPECT_FORMAT,),
    ),
    Command(
        "init",
        "Initialize a swarm",
        _init,
        flags=(
            _ADVERTISE,
            Flag(
                "autolock",
                "Enable manager autolocking (requiring an unlock key to start a stopped manager)",
            ),
            _AVAILABILITY,
            _EXPIRY,
            _DATA_PATH,
            Flag(
                "data-path-port", "Port number to use for data path traffic", kind=values.UINT32, later=True
            ),
            Flag("default-addr-pool", "default address pool in CIDR format", kind=values.CIDR, shown="[]"),
            Flag(
                "default-addr-pool-mask-length",
                "default address pool subnet mask length",
                kind=values.UINT32,
                default=24,
                shown="24",
            ),
            _HEARTBEAT,
            Flag("etcd-ca", "CA of the etcd given with --etcd-endpoints (a PEM file)", kind=values.STRING),
            Flag("etcd-cert", "Client certificate for that etcd (a PEM file)", kind=values.STRING),
            Flag(
                "etcd-endpoints",
                "URLs of an etcd that you run, instead of one that is started on this node",
                kind=values.LIST,
            ),
            Flag("etcd-key", "Key of the client certificate for that etcd (a PEM file)", kind=values.STRING),
            Flag("force-new-cluster", "Force create a new cluster from current state"),
            _LISTEN,
            _HISTORY,
            *_LATER,
        ),
    ),
    Command(
        "join",
        "Join a swarm as a node and/or manager",
        _join,
        arguments="HOST:PORT",
        least=1,
        most=1,
        flags=(
            _ADVERTISE,
            _AVAILABILITY,
            _DATA_PATH,
            _LISTEN,
            Flag("token", "Token for entry into the swarm", kind=values.STRING),
        ),
    ),
    Command(
        "join-token",
        "Manage join tokens",
        _join_token,
        arguments="(worker|manager)",
        least=1,
        most=1,
        flags=(Flag("quiet", "Only display token", short="q"), Flag("rotate", "Rotate join token")),
    ),
    Command(
        "join-token create",
        "Create a join token of limited use",
        _token_create,
        arguments="(worker|manager)",
        least=1,
        most=1,
        flags=(
            Flag("label", "What the token is for", kind=values.STRING),
            Flag("quiet", "Only display token", short="q"),
            Flag("ttl", "How long it lets nodes in (ns|us|ms|s|m|h)", kind=values.DURATION, shown="for ever"),
            Flag("uses", "How many nodes it lets in", kind=values.UINT, shown="any number"),
        ),
    ),
    Command(
        "join-token ls",
        "List join tokens of limited use",
        _token_ls,
        flags=(
            Flag("all", "Show those that let nobody in any more, too", short="a"),
            common.LIST_FORMAT,
            common.NO_TRUNC,
            common.quiet_flag(),
        ),
    ),
    Command(
        "join-token rm",
        "Revoke one or more join tokens of limited use",
        _token_rm,
        arguments="TOKEN_ID|LABEL [TOKEN_ID|LABEL...]",
        least=1,
        most=None,
    ),
    Command(
        "leave",
        "Leave the swarm",
        _leave,
        flags=(Flag("force", "Force this node to leave the swarm, ignoring warnings", short="f"),),
    ),
    _RESTORE,
    Command("unlock", "Unlock swarm", _unlock),
    Command(
        "unlock-key",
        "Manage the unlock key",
        _unlock_key,
        flags=(Flag("quiet", "Only display token", short="q"), Flag("rotate", "Rotate unlock key")),
    ),
    Command(
        "update",
        "Update the swarm",
        _update,
        flags=(
            Flag("autolock", "Change manager autolocking setting (true|false)"),
            _EXPIRY,
            Flag(
                "detach",
                "With --rotate-encryption-key: exit immediately instead of waiting for its end",
                short="d",
            ),
            _HEARTBEAT,
            Flag(
                "ledger-age",
                "How long records of delivered secrets are kept; 0s for 90 days (ns|us|ms|s|m|h)",
                kind=values.DURATION,
            ),
            Flag(
                "ledger-records",
                "How many records of delivered secrets are kept; 0 for 50000",
                kind=values.UINT,
            ),
            Flag("rotate-encryption-key", "Put everything that is encrypted at rest under a new key"),
            _HISTORY,
            *_LATER,
        ),
    ),
)
