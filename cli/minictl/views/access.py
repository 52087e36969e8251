"""Who may come in, and what they did: tokens, client certificates and audit records in lists."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.security_pb2 import AuditRecord, ListClientsResponse, ListTokensResponse

ROLES = ("worker", "manager")
CLIENT_ROLES = ("viewer", "operator", "admin")

TOKENS = Layout(
    {
        "ID": "ID",
        "Label": "LABEL",
        "Role": "ROLE",
        "State": "STATE",
        "Uses": "USES",
        "Expires": "EXPIRES",
        "CreatedAt": "CREATED AT",
    },
    ("ID", "Label", "Role", "State", "Uses", "Expires"),
)

CLIENTS = Layout(
    {
        "ID": "ID",
        "Name": "NAME",
        "Role": "ROLE",
        "State": "STATE",
        "Expires": "EXPIRES",
        "CreatedAt": "CREATED AT",
    },
    ("ID", "Name", "Role", "State", "Expires"),
)

RECORDS = Layout(
    {
        "Time": "TIME",
        "Caller": "CALLER",
        "Name": "NAME",
        "Address": "ADDRESS",
        "Method": "METHOD",
        "Object": "OBJECT",
        "Result": "RESULT",
        "Error": "ERROR",
        "Duration": "DURATION",
        "Manager": "MANAGER",
        "Certificate": "CERTIFICATE",
    },
    ("Time", "Caller", "Name", "Address", "Method", "Object", "Result"),
    quiet="Method",
)


def token_rows(answer: ListTokensResponse, *, everything: bool, truncate: bool) -> list[dict[str, Any]]:
    """One row per token, oldest first; without `everything` only those that still let a node in."""
    rows = []
    for token in answer.tokens:
        state = "active"
        if token.revoked_at_ns:
            state = "revoked"
        elif token.expires_at_ns and answer.now_ns >= token.expires_at_ns:
            state = "expired"
        elif token.max_uses and token.uses >= token.max_uses:
            state = "used up"
        elif token.root_digest != answer.root_digest:
            state = "other root"
        if everything or state == "active":
            rows.append(
                {
                    "CreatedAt": common.timestamp(token.meta.created_at_ns),
                    "Expires": _left(token.expires_at_ns, answer.now_ns) if token.expires_at_ns else "never",
                    "ID": token.id[: common.SHORT_ID] if truncate else token.id,
                    "Label": token.label,
                    "Role": ROLES[token.role],
                    "State": state,
                    "Uses": f"{token.uses}/{token.max_uses}" if token.max_uses else str(token.uses),
                }
            )
    return rows


def client_rows(answer: ListClientsResponse, *, everything: bool, truncate: bool) -> list[dict[str, Any]]:
    """One row per certificate, by name; without `everything` only those that are let in."""
    rows = []
    for client in answer.clients:
        state = "active"
        if client.revoked_at_ns:
            state = "revoked"
        elif answer.now_ns >= client.expires_at_ns:
            state = "expired"
        elif client.issuer != answer.issuer:
            state = "other root"
        if everything or state in ("active", "other root"):
            rows.append(
                {
                    "CreatedAt": common.timestamp(client.meta.created_at_ns),
                    "Expires": _left(client.expires_at_ns, answer.now_ns),
                    "ID": client.id[: common.SHORT_ID] if truncate else client.id,
                    "Name": client.name,
                    "Role": CLIENT_ROLES[client.role],
                    "State": state,
                }
            )
    return rows


def audit_rows(records: Iterable[AuditRecord], *, truncate: bool) -> list[dict[str, Any]]:
    """One row per call, oldest first."""
    return [
        {
            "Address": record.address,
            "Caller": record.caller,
            "Certificate": record.certificate,
            "Duration": units.human_duration(record.duration_ns),
            "Error": record.error,
            "Manager": record.manager,
            "Method": record.method,
            "Name": record.name[: common.SHORT_ID] if truncate and len(record.name) == _ID else record.name,
            "Object": record.object[:_SHORT] if truncate else record.object,
            "Result": record.result,
            "Time": common.timestamp(record.at_ns),
        }
        for record in records
    ]


_ID = 25
"""Characters of an object's id."""

_SHORT = 32
"""Characters of an object's name in a table."""


def _left(at_ns: int, now_ns: int) -> str:
    """`in 29 days`, `2 hours ago`."""
    if at_ns > now_ns:
        return f"in {units.human_duration(at_ns - now_ns).lower()}"
    return f"{units.human_duration(now_ns - at_ns).lower()} ago"
