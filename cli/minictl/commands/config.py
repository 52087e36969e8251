"""`minictl config`."""

from __future__ import annotations

from minictl.command import Command
from minictl.commands import common, content
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minictl.context import Context
    from minictl.flags import Parsed


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import keyvalues
    from minictl.client import messages

    name, path = parsed.arguments
    spec = messages.ConfigSpec(
        name=name, labels=keyvalues.labels(parsed["label"]), templating=parsed["template-driver"]
    )
    request = messages.CreateConfigRequest(spec=spec, data=content.read(path))
    context.print(context.call("Configs/Create", request).id)
    return 0


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import secret

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    rows = secret.config_rows(context.call("Configs/List", request).configs, now_ns=context.now_ns())
    text = listing.render(secret.CONFIG_LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"])
    context.out.write(text)
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import secret

    if parsed["pretty"]:
        return content.inspect_pretty(
            context,
            parsed.arguments,
            kind="config",
            format=parsed["format"],
            show=lambda ref: secret.config_pretty(context.call("Configs/Get", messages.GetRequest(ref=ref))),
        )
    return inspect(
        context,
        parsed.arguments,
        "config",
        lambda ref: secret.config_json(context.call("Configs/Get", messages.GetRequest(ref=ref))),
        format=parsed["format"],
    )


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    return content.remove(
        context,
        parsed.arguments,
        lambda ref: context.call("Configs/Remove", messages.RemoveConfigRequest(ref=ref)),
    )


COMMANDS = (
    Command(
        "create",
        "Create a config from a file or STDIN",
        _create,
        arguments="CONFIG file|-",
        least=2,
        most=2,
        flags=(content.LABEL, content.TEMPLATE_DRIVER),
    ),
    Command(
        "inspect",
        "Display detailed information on one or more configs",
        _inspect,
        arguments="CONFIG [CONFIG...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT, common.PRETTY),
    ),
    Command(
        "ls",
        "List configs",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl config ls", "minictl config list"),
        flags=(common.FILTER, common.LIST_FORMAT, common.quiet_flag()),
    ),
    Command(
        "rm",
        "Remove one or more configs",
        _rm,
        arguments="CONFIG [CONFIG...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl config rm", "minictl config remove"),
    ),
)
