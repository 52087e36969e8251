"""`minictl service`."""

from __future__ import annotations

from minicommon.errors import ConflictError, MiniError, NotFoundError

from minictl import network_flags, service_flags, values
from minictl.command import Command
from minictl.commands import common, log_flags
from minictl.errors import ArgumentsError, CliError, FailedError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed

_UPDATE_ATTEMPTS = 5
"""A change is read, applied and written; when somebody else wrote meanwhile it is done again, this often at most."""


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import registry
    from minictl.client import messages

    spec = service_flags.new_spec(parsed, context.environment)
    prepared = registry.prepare(context, spec, parsed)
    request = messages.CreateServiceRequest(spec=spec, registry_auth=prepared.auth)
    response = context.call("Services/Create", request)
    for warning in (*prepared.warnings, *response.warnings):
        context.warn(warning)
    context.print(response.id)
    if parsed["detach"]:
        return 0
    return _wait(context, parsed, response.id, response.revision)


def _wait(
    context: Context, parsed: Parsed, service_id: str, revision: int, *, rolling_back: bool = False
) -> int:
    """Until the service has converged, with the progress that the flags ask for."""
    from minictl.wait import wait_for_service

    return wait_for_service(
        context,
        service_id,
        min_revision=revision,
        quiet=parsed.changed("quiet") and parsed["quiet"],
        plain=parsed.changed("progress") and parsed["progress"] == "plain",
        rolling_back=rolling_back,
    )


def _roll_back(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (ref,) = parsed.arguments
    request = messages.RollBackServiceRequest(ref=ref, revision=parsed["to"] or 0)
    response = context.call("Services/RollBack", request)
    context.print(ref)
    if parsed["detach"]:
        return 0
    return _wait(context, parsed, ref, response.revision, rolling_back=True)


def _history(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import rollout

    (ref,) = parsed.arguments
    response = context.call("Services/History", messages.GetRequest(ref=ref))
    for line in rollout.history(response.revisions, context.now_ns()):
        context.print(line)
    return 0


def _diff(context: Context, parsed: Parsed) -> int:
    """From one revision to another: by default from the one before the present to the present."""
    import difflib
    import json

    from minictl.client import messages
    from minictl.views import service

    ref, *numbers = parsed.arguments
    revisions = list(context.call("Services/History", messages.GetRequest(ref=ref)).revisions)
    known = {str(revision.number): revision for revision in revisions}
    for number in numbers:
        if number not in known:
            raise CliError(f"service {ref} has no revision {number}, only {', '.join(known)}")
    if not numbers and len(revisions) < 2:
        raise CliError(f"service {ref} has had no other specification")
    old = known[numbers[0]] if numbers else revisions[-2]
    new = known[numbers[1]] if len(numbers) > 1 else revisions[-1]
    before, after = (
        json.dumps(service.spec_json(each.spec), indent=4, ensure_ascii=False).splitlines()
        for each in (old, new)
    )
    names = (f"revision {old.number}", f"revision {new.number}")
    for line in difflib.unified_diff(before, after, *names, lineterm=""):
        context.print(line)
    return 0


def _pause(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (ref,) = parsed.arguments
    context.call("Services/Pause", messages.PauseServiceRequest(ref=ref, paused=True))
    context.print(ref)
    return 0


def _resume(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (ref,) = parsed.arguments
    response = context.call("Services/Pause", messages.PauseServiceRequest(ref=ref))
    context.print(ref)
    if parsed["detach"]:
        return 0
    service = context.call("Services/Get", messages.GetRequest(ref=ref, min_revision=response.revision))
    return _wait(context, parsed, ref, response.revision, rolling_back=service.service.rolling_back)


def _update(context: Context, parsed: Parsed) -> int:
    from minictl import registry
    from minictl.client import messages

    (ref,) = parsed.arguments
    if parsed["rollback"]:
        return _update_back(context, parsed)
    for attempt in range(1, _UPDATE_ATTEMPTS + 1):
        service = context.call("Services/Get", messages.GetRequest(ref=ref)).service
        service_flags.change_spec(service.spec, parsed, context.environment)
        if parsed.changed("network-add", "network-rm"):
            network_flags.apply_change(service.spec, parsed, lambda ref: common.network_id(context, ref))
        prepared = registry.prepare(context, service.spec, parsed, new_image=parsed.changed("image"))
        request = messages.UpdateServiceRequest(
            ref=service.id,
            version=service.meta.version,
            spec=service.spec,
            registry_auth=prepared.auth,
        )
        try:
            response = context.call("Services/Update", request)
            break
        except ConflictError:
            if attempt == _UPDATE_ATTEMPTS:
                raise
    for warning in (*prepared.warnings, *response.warnings):
        context.warn(warning)
    context.print(ref)
    if parsed["detach"]:
        return 0
    return _wait(context, parsed, service.id, response.revision)


def _update_back(context: Context, parsed: Parsed) -> int:
    """`update --rollback`: nothing else can be changed with it."""
    from minictl.client import messages

    others = sorted(parsed.given() - {"rollback", "detach", "progress", "quiet"})
    if others:
        raise CliError(f"other flags may not be combined with --rollback: --{others[0]}")
    (ref,) = parsed.arguments
    response = context.call("Services/RollBack", messages.RollBackServiceRequest(ref=ref))
    context.print(ref)
    if parsed["detach"]:
        return 0
    return _wait(context, parsed, ref, response.revision, rolling_back=True)


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import service

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    response = context.call("Services/List", request)
    rows = service.rows(response.services)
    context.out.write(listing.render(service.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _ps(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.commands.task import print_tasks

    found: list[str] = []
    missing: list[str] = []
    for ref in parsed.arguments:
        try:
            found.append(context.call("Services/Get", messages.GetRequest(ref=ref)).service.id)
        except NotFoundError:
            missing.append(f"no such service: {ref}")
    if found:
        pairs = [_node_filter(context, key, value) for key, value in parsed["filter"]]
        pairs += [("service", service_id) for service_id in found]
        response = context.call("Tasks/List", messages.ListRequest(filters=common.filters(pairs)))
        print_tasks(context, parsed, response.tasks)
    if missing:
        raise FailedError("\n".join(missing))
    return 0


def _node_filter(context: Context, key: str, value: str) -> tuple[str, str]:
    return (key, common.node_reference(context, value)) if key == "node" else (key, value)


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import service

    def get(ref: str) -> Any:
        return context.call("Services/Get", messages.GetRequest(ref=ref))

    if parsed["pretty"]:
        if parsed["format"]:
            raise CliError("--format is incompatible with human friendly format")
        return common.for_each(parsed.arguments, lambda ref: _print_pretty(context, ref))

    def load(ref: str) -> dict[str, Any]:
        view = get(ref)
        networks = common.networks(context) if view.service.virtual_addresses else {}
        return service.to_json(view, networks)

    return inspect(context, parsed.arguments, "service", load, format=parsed["format"])


def _print_pretty(context: Context, ref: str) -> None:
    from minictl.client import messages
    from minictl.views import service_pretty

    try:
        view = context.call("Services/Get", messages.GetRequest(ref=ref))
    except NotFoundError:
        raise CliError(f"no such service: {ref}") from None
    networks = common.networks(context) if view.service.spec.task.networks else {}
    context.print(service_pretty.render(view, networks, now_ns=context.now_ns()))


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def remove(ref: str) -> None:
        context.call("Services/Remove", messages.RemoveServiceRequest(ref=ref))
        context.print(ref)

    return common.for_each(parsed.arguments, remove)


def _scale(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    for argument in parsed.arguments:
        name, _, count = argument.partition("=")
        if not name or not count:
            raise ArgumentsError(_scale_usage(argument))
    scaled: list[tuple[str, int]] = []

    def scale(argument: str) -> None:
        from minictl.main import describe
        from minictl.values import parse_uint

        ref, _, text = argument.partition("=")
        try:
            replicas = parse_uint(text)
        except ValueError as error:
            raise CliError(f"{ref}: invalid replicas value {text}: {error}") from None
        try:
            response = context.call(
                "Services/Scale", messages.ScaleServiceRequest(ref=ref, replicas=replicas)
            )
        except MiniError as error:
            raise CliError(f"{ref}: {describe(error)}") from error
        for warning in response.warnings:
            context.warn(warning)
        context.print(f"{ref} scaled to {replicas}")
        scaled.append((ref, response.revision))

    codes = [0]

    def wait(ref: str) -> None:
        codes.append(_wait(context, parsed, ref, dict(scaled)[ref]))

    failure = None
    try:
        common.for_each(parsed.arguments, scale)
    except FailedError as error:
        failure = error
    if not parsed["detach"]:
        common.for_each([ref for ref, _ in scaled], wait)
    if failure is not None:
        raise failure
    return max(codes)


def _scale_usage(argument: str) -> str:
    path = "minictl service scale"
    return (
        f"invalid scale specifier '{argument}'.\nSee '{path} --help'.\n\n"
        f"Usage:  {path} SERVICE=REPLICAS [SERVICE=REPLICAS...]\n\nScale one or multiple replicated services"
    )


def _logs(context: Context, parsed: Parsed) -> int:
    from minictl.commands import logs

    return logs.service_logs(context, parsed)


_QUIET = Flag("quiet", "Suppress progress output", short="q")

COMMANDS = (
    Command(
        "diff",
        "Show what changed from one revision of a service's specification to another",
        _diff,
        arguments="SERVICE [FROM [TO]]",
        least=1,
        most=3,
    ),
    Command(
        "history",
        "List the revisions of a service's specification",
        _history,
        arguments="SERVICE",
        least=1,
        most=1,
    ),
    Command(
        "pause",
        "Hold the update of a service",
        _pause,
        arguments="SERVICE",
        least=1,
        most=1,
    ),
    Command(
        "resume",
        "Go on with the update of a service that was paused",
        _resume,
        arguments="SERVICE",
        least=1,
        most=1,
        flags=(common.DETACH, service_flags.PROGRESS, _QUIET),
    ),
    Command(
        "rollback",
        "Revert changes to a service's configuration",
        _roll_back,
        arguments="SERVICE",
        least=1,
        most=1,
        flags=(
            common.DETACH,
            service_flags.PROGRESS,
            _QUIET,
            Flag("to", "Revision to go back to (default: the one before the present)", kind=values.UINT),
        ),
    ),
    Command(
        "create",
        "Create a new service",
        _create,
        arguments="IMAGE [COMMAND] [ARG...]",
        least=1,
        most=None,
        flags=service_flags.CREATE_FLAGS,
        interspersed=False,
    ),
    Command(
        "inspect",
        "Display detailed information on one or more services",
        _inspect,
        arguments="SERVICE [SERVICE...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT, common.PRETTY),
    ),
    Command(
        "logs",
        "Fetch the logs of a service or task",
        _logs,
        arguments="SERVICE|TASK",
        least=1,
        most=1,
        flags=log_flags.SERVICE_FLAGS,
    ),
    Command(
        "ls",
        "List services",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl service ls", "minictl service list"),
        flags=(common.FILTER, common.LIST_FORMAT, common.quiet_flag()),
    ),
    Command(
        "ps",
        "List the tasks of one or more services",
        _ps,
        arguments="SERVICE [SERVICE...]",
        least=1,
        most=None,
        flags=common.TASK_FLAGS,
    ),
    Command(
        "rm",
        "Remove one or more services",
        _rm,
        arguments="SERVICE [SERVICE...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl service rm", "minictl service remove"),
    ),
    Command(
        "scale",
        "Scale one or multiple replicated services",
        _scale,
        arguments="SERVICE=REPLICAS [SERVICE=REPLICAS...]",
        least=1,
        most=None,
        flags=(common.DETACH, service_flags.PROGRESS),
        show_options=False,
    ),
    Command(
        "update",
        "Update a service",
        _update,
        arguments="SERVICE",
        least=1,
        most=1,
        flags=service_flags.UPDATE_FLAGS,
    ),
)
