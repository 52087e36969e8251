"""`minictl secret`."""

from __future__ import annotations

from minictl import values
from minictl.command import Command
from minictl.commands import common, content
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import Secret

    from minictl.context import Context
    from minictl.flags import Parsed

DEFAULT_GRACE_NS = 600 * 1_000_000_000
"""How long a content that nobody uses any more can still be gone back to: 10 minutes."""

_ROLLING, _COMPLETED, _REVERTING = 1, 2, 3
"""States of a rotation, as the API numbers them."""


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import keyvalues
    from minictl.client import messages

    if parsed["driver"]:
        raise CliError("secret drivers are not supported: a secret's content is given when it is created")
    if len(parsed.arguments) < 2:
        raise CliError("secret content is required: name a file, or - for standard input")
    name, path = parsed.arguments
    spec = messages.SecretSpec(
        name=name, labels=keyvalues.labels(parsed["label"]), templating=parsed["template-driver"]
    )
    request = messages.CreateSecretRequest(spec=spec, data=content.read(path))
    context.print(context.call("Secrets/Create", request).id)
    return 0


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import secret

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    rows = secret.rows(context.call("Secrets/List", request).secrets, now_ns=context.now_ns())
    context.out.write(listing.render(secret.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.output.inspect import inspect
    from minictl.views import secret

    if parsed["pretty"]:
        return content.inspect_pretty(
            context,
            parsed.arguments,
            kind="secret",
            format=parsed["format"],
            show=lambda ref: secret.pretty(_get(context, ref)),
        )
    return inspect(
        context,
        parsed.arguments,
        "secret",
        lambda ref: secret.to_json(_get(context, ref)),
        format=parsed["format"],
    )


def _get(context: Context, ref: str) -> Any:
    from minictl.client import messages

    return context.call("Secrets/Get", messages.GetRequest(ref=ref))


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    return content.remove(
        context,
        parsed.arguments,
        lambda ref: context.call("Secrets/Remove", messages.RemoveSecretRequest(ref=ref)),
    )


def _rotate(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    name, path = parsed.arguments
    grace_ns = DEFAULT_GRACE_NS if parsed["grace"] is None else parsed["grace"]
    request = messages.RotateSecretRequest(ref=name, data=content.read(path), grace_ns=grace_ns)
    response = context.call("Secrets/Rotate", request)
    services = ", ".join(response.services) or "no service"
    context.print(f"{name}: version {response.version} goes to {services}")
    if parsed["detach"]:
        return 0
    context.out.flush()
    return _wait(context, name, response.version, response.revision)


def _wait(context: Context, name: str, version: int, revision: int) -> int:
    """Until the rotation has ended, one way or the other. Raises CliError when it was taken back."""
    from minictl.client import messages

    said = False
    changes = context.channel.stream("Secrets/Watch", messages.GetRequest(ref=name, min_revision=revision))
    while True:
        secret: Secret | None = changes.receive()
        if secret is None:
            raise CliError(f"the daemon stopped telling about secret {name}; the rotation goes on")
        rotation = secret.rotation
        if rotation.new_version != version:
            changes.cancel()
            context.print(f"{name}: another rotation has begun, to version {rotation.new_version}")
            return 0
        if rotation.state == _REVERTING and not said:
            said = True
            context.warn(
                f"{name}: version {version} failed: {rotation.message}; going back to version "
                f"{rotation.old_version}"
            )
        if rotation.state not in (_ROLLING, _REVERTING):
            changes.cancel()
            break
    if rotation.state != _COMPLETED:
        raise CliError(
            f"{name}: version {rotation.old_version} is in use again, because version {version} failed: "
            f"{rotation.message}"
        )
    context.print(f"{name}: no task uses version {rotation.old_version} any more{_end_of(secret)}")
    return 0


def _end_of(secret: Secret) -> str:
    """When the content that nobody uses any more goes."""
    from minictl.views.common import timestamp

    for version in secret.versions:
        if version.number == secret.rotation.old_version and version.remove_at_ns:
            return f"; it is removed at {timestamp(version.remove_at_ns // 10**9 * 10**9)}"
    return ""


def _who(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import secret

    (ref,) = parsed.arguments
    response = context.call("Secrets/Who", messages.GetRequest(ref=ref))
    rows = secret.holder_rows(response.holders, now_ns=context.now_ns(), truncate=not parsed["no-trunc"])
    text = listing.render(secret.WHO_LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"])
    context.out.write(text)
    return 0


def _audit(context: Context, parsed: Parsed) -> int:
    if parsed["verify"]:
        return _verify(context, parsed)
    from minictl.client import messages
    from minictl.views import secret

    since_ns = _since(parsed["since"], context.now_ns())
    ref = parsed.arguments[0] if parsed.arguments else ""
    request = messages.AuditRequest(since_ns=since_ns, ref=ref)
    nodes = context.call("Nodes/List", messages.ListRequest()).nodes
    hostnames = {view.node.id: view.status.description.hostname or view.node.id for view in nodes}
    batches = context.channel.stream("Secrets/Audit", request)
    records: list[Any] = []
    while (batch := batches.receive()) is not None:
        records += batch.records
    rows = secret.audit_rows(records, hostnames, truncate=not parsed["no-trunc"])
    context.out.write(listing.render(secret.AUDIT_LAYOUT, rows, format=parsed["format"]))
    return 0


def _verify(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    if parsed.arguments or parsed["since"]:
        raise CliError("--verify looks at the whole ledger: give neither a secret nor --since with it")
    verdict = context.call("Secrets/VerifyAudit", messages.VerifyAuditRequest(), timeout=None)
    from minictl.views.common import timestamp

    counts = f"{verdict.records} records, {verdict.receipts} receipts, {verdict.unconfirmed} deliveries without one"
    if verdict.removed:
        counts += (
            f"; {verdict.removed} older records were removed, at last on {timestamp(verdict.removed_at_ns)}"
        )
    if verdict.whole:
        context.print(f"The ledger is whole: {counts}")
        return 0
    problems = "".join(f"\n - {problem}" for problem in verdict.problems)
    raise CliError(f"the ledger is NOT whole ({counts}):{problems}")


def _since(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of `2026-11-25T20:00:00Z`, or of so long ago: `10m`. Raises CliError."""
    if not text:
        return 0
    from minicommon.errors import InvalidArgumentError
    from minicommon.units import parse_duration

    try:
        return now_ns - parse_duration(text)
    except InvalidArgumentError:
        pass
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"invalid value for --since: {values.quote(text)}: must be a duration such as 10m, or a time such as "
            "2026-11-25T20:00:00Z"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000_000)


COMMANDS = (
    Command(
        "audit",
        "Show the ledger of deliveries, or look whether it is whole",
        _audit,
        arguments="[SECRET]",
        most=1,
        flags=(
            common.LIST_FORMAT,
            common.NO_TRUNC,
            Flag("since", 'Show records since a time or a duration ago (e.g. "10m")', kind=values.STRING),
            Flag("verify", "Look whether records were changed, removed, moved or cut off"),
        ),
    ),
    Command(
        "create",
        "Create a secret from a file or STDIN as content",
        _create,
        arguments="SECRET [file|-]",
        least=1,
        most=2,
        flags=(
            Flag("driver", "Secret driver", short="d", kind=values.STRING),
            content.LABEL,
            content.TEMPLATE_DRIVER,
        ),
    ),
    Command(
        "inspect",
        "Display detailed information on one or more secrets",
        _inspect,
        arguments="SECRET [SECRET...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT, common.PRETTY),
    ),
    Command(
        "ls",
        "List secrets",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl secret ls", "minictl secret list"),
        flags=(common.FILTER, common.LIST_FORMAT, common.quiet_flag()),
    ),
    Command(
        "rm",
        "Remove one or more secrets",
        _rm,
        arguments="SECRET [SECRET...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl secret rm", "minictl secret remove"),
    ),
    Command(
        "rotate",
        "Give a secret a new content and move the services that use it",
        _rotate,
        arguments="SECRET file|-",
        least=2,
        most=2,
        flags=(
            Flag("detach", "Exit immediately instead of waiting for the services", short="d"),
            Flag(
                "grace",
                "How long the old content is kept once no task uses it (ns|us|ms|s|m|h)",
                kind=values.DURATION,
                shown="10m",
            ),
        ),
    ),
    Command(
        "who",
        "List the tasks that have a secret, and which version",
        _who,
        arguments="SECRET",
        least=1,
        most=1,
        flags=(common.LIST_FORMAT, common.NO_TRUNC, common.quiet_flag("task IDs")),
    ),
)
