"""`minictl client-cert`."""

from __future__ import annotations

import os

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed

ROLES = ("viewer", "operator", "admin")


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import contexts
    from minictl.client import messages

    (name,) = parsed.arguments
    role = _role(parsed["role"])
    directory = parsed["out"] or name
    csr, key = _request(parsed["csr"])
    files = ("cert.pem", "ca.pem") if key is None else ("cert.pem", "ca.pem", "key.pem")
    for file in files:
        if os.path.exists(os.path.join(directory, file)):
            raise CliError(
                f"{os.path.join(directory, file)} already exists: choose another directory with --out"
            )
    request = messages.IssueClientRequest(name=name, role=role, csr_pem=csr, lifetime_ns=parsed["expiry"])
    answer = context.call("ClientCertificates/Issue", request)
    contents = {"cert.pem": answer.certificate_pem, "ca.pem": answer.root_ca_pem, "key.pem": key}
    for file in files:
        contexts.write(os.path.join(directory, file), contents[file])
    context.print(answer.client.id)
    if parsed["quiet"]:
        return 0
    manager = answer.managers[0] if answer.managers else "MANAGER:2378"
    given = ",".join(f"{option}={directory}/{option}.pem" for option in ("ca", "cert", "key"))
    context.warn(
        f"Certificate of {name} ({ROLES[role]}) written to {directory}/. To use it, there or on another machine:\n\n"
        f"    minictl context create {name} --mini host=tcp://{manager},{given}\n"
        f"    minictl --context {name} node ls"
    )
    return 0


def _role(text: str) -> Any:
    if text not in ROLES:
        raise CliError(f"--role: must be viewer, operator or admin, got {values.quote(text)}")
    return ROLES.index(text)


def _request(path: str) -> tuple[bytes, bytes | None]:
    """A certificate request, and the new key that it is for; no key when the request was made elsewhere."""
    if not path:
        from minicommon.identity.requests import new_request

        made = new_request()
        return made.csr_pem, made.key_pem
    try:
        with open(path, "rb") as file:
            return file.read(), None
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import access

    answer = context.call("ClientCertificates/List", messages.ListClientsRequest())
    rows = access.client_rows(answer, everything=parsed["all"], truncate=not parsed["no-trunc"])
    context.out.write(listing.render(access.CLIENTS, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _revoke(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def revoke(ref: str) -> None:
        answer = context.call("ClientCertificates/Revoke", messages.RevokeClientRequest(ref=ref))
        for client in answer.revoked:
            context.print(client.id)

    return common.for_each(parsed.arguments, revoke)


COMMANDS = (
    Command(
        "create",
        "Create a certificate for a person or a program",
        _create,
        arguments="NAME",
        least=1,
        most=1,
        flags=(
            Flag(
                "csr",
                "Certificate request (a PEM file) of a key that stays where it is; without it a key is made here",
                kind=values.STRING,
            ),
            Flag(
                "expiry",
                "Validity period (ns|us|ms|s|m|h)",
                kind=values.DURATION,
                default=720 * 3600 * 1_000_000_000,
                shown="720h0m0s",
            ),
            Flag("out", "Directory for cert.pem, key.pem and ca.pem (default: NAME)", kind=values.STRING),
            Flag("quiet", "Only display the ID", short="q"),
            Flag(
                "role",
                'What it may do ("viewer", "operator", "admin")',
                kind=values.STRING,
                default="",
                shown="",
            ),
        ),
    ),
    Command(
        "ls",
        "List certificates",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl client-cert ls", "minictl client-cert list"),
        flags=(
            Flag("all", "Show revoked and expired ones, too", short="a"),
            common.LIST_FORMAT,
            common.NO_TRUNC,
            common.quiet_flag(),
        ),
    ),
    Command(
        "revoke",
        "Refuse one or more certificates from now on",
        _revoke,
        arguments="NAME|ID [NAME|ID...]",
        least=1,
        most=None,
        aliases=("rm",),
        shown_aliases=("minictl client-cert revoke", "minictl client-cert rm"),
    ),
)
