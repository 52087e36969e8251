"""Secrets in a manager under test: short ways to make, use and fetch them."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from minicommon.receipts import receipt_text
from minicommon.rpc.credentials import NodeCredentials
from miniproto.v1 import control_pb2, objects_pb2, secrets_pb2
from support.manager import Client

Use = objects_pb2.SecretUse
Ref = control_pb2.GetRequest


async def make_secret(
    client: Client,
    name: str = "my-password",
    data: bytes = b"first",
    *,
    templating: str = "",
    labels: dict[str, str] | None = None,
) -> str:
    spec = objects_pb2.SecretSpec(name=name, templating=templating, labels=labels or {})
    created = await client.secrets.Create(secrets_pb2.CreateSecretRequest(spec=spec, data=data))
    return created.id


async def make_config(
    client: Client, name: str = "site", data: bytes = b"root = /", *, templating: str = ""
) -> str:
    spec = objects_pb2.ConfigSpec(name=name, templating=templating)
    created = await client.configs.Create(secrets_pb2.CreateConfigRequest(spec=spec, data=data))
    return created.id


def service_spec(
    name: str = "web",
    *,
    secrets: tuple[Use, ...] = (),
    configs: tuple[objects_pb2.ConfigUse, ...] = (),
    env: tuple[str, ...] = (),
    replicas: int = 1,
) -> objects_pb2.ServiceSpec:
    """Restarts and updates without pauses, so that nothing waits on the clock."""
    container = objects_pb2.ContainerSpec(image="whoami:1", secrets=secrets, configs=configs, env=env)
    return objects_pb2.ServiceSpec(
        name=name,
        replicas=replicas,
        task=objects_pb2.TaskSpec(container=container, restart=objects_pb2.RestartPolicy()),
        update=objects_pb2.UpdateConfig(parallelism=1, monitor_ns=1_000_000),
        rollback=objects_pb2.UpdateConfig(parallelism=1, monitor_ns=1_000_000),
    )


async def make_service(client: Client, spec: objects_pb2.ServiceSpec) -> str:
    return (await client.services.Create(control_pb2.CreateServiceRequest(spec=spec))).id


def receipt(credentials: NodeCredentials, record: bytes) -> secrets_pb2.Receipt:
    """As a node makes it."""
    key = load_pem_private_key(credentials.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(credentials.certificate_pem)
    return secrets_pb2.Receipt(
        delivery=secrets_pb2.LedgerRecord.FromString(record).number,
        signature=key.sign(receipt_text(record), ec.ECDSA(hashes.SHA256())),
        certificate=certificate.public_bytes(Encoding.DER),
    )
