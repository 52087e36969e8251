"""`--secret` and `--config`, short and long, on create and update."""

from __future__ import annotations

import pytest
from minictl import flags, service_flags
from minictl.client import messages
from minictl.errors import UsageError
from miniproto.v1 import objects_pb2 as objects

File = objects.FileTarget


def create(*words: str) -> objects.ContainerSpec:
    parsed = flags.parse(service_flags.CREATE_FLAGS, [*words, "img"], interspersed=False)
    spec = service_flags.new_spec(parsed, {})
    return objects.ServiceSpec.FromString(spec.SerializeToString()).task.container


def update(container: objects.ContainerSpec, *words: str) -> objects.ContainerSpec:
    spec = objects.ServiceSpec(task=objects.TaskSpec(container=container))
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    service_flags.change_spec(changed, flags.parse(service_flags.UPDATE_FLAGS, words), {})
    return objects.ServiceSpec.FromString(changed.SerializeToString()).task.container


@pytest.mark.parametrize(
    ("text", "ref", "file"),
    [
        ("key", "key", File(name="key", mode=0o444)),
        ("source=key", "key", File(name="key", mode=0o444)),
        ("src=key,target=/etc/k", "key", File(name="/etc/k", mode=0o444)),
        ("source=key,uid=5,gid=6,mode=0400", "key", File(name="key", uid=5, gid=6, mode=0o400)),
        ("Source=key,mode=256", "key", File(name="key", mode=0o400)),  # decimal, as Docker reads it
    ],
)
@pytest.mark.parametrize("kind", ["secret", "config"])
def test_what_is_asked_for(kind: str, text: str, ref: str, file: File) -> None:
    container = create(f"--{kind}", text)
    (use,) = container.secrets if kind == "secret" else container.configs
    assert (getattr(use, kind), use.file) == (ref, file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target=/x", "source is required"),
        ("source=a,b", "invalid field 'b' must be a key=value pair"),
        ("source=a,size=1", "invalid field in secret request: size"),
        ("source=a,uid=root", "invalid uid specified: root: must be a number"),
        ("source=a,mode=rw", 'invalid mode specified: strconv.ParseUint: parsing "rw": invalid syntax'),
        ("source=a,mode=0", "invalid mode specified: 0: must be 0001 to 7777"),
        ("source=a,mode=010000", "invalid mode specified: 010000"),
    ],
)
def test_what_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="--secret") as caught:
        create("--secret", text)
    assert words in str(caught.value)


def test_update_adds_and_removes_by_name_or_id() -> None:
    container = objects.ContainerSpec(
        secrets=[
            objects.SecretUse(secret="id-a", name="a", version=2),
            objects.SecretUse(secret="id-b", name="b", version=1),
        ],
        configs=[objects.ConfigUse(config="id-c", name="c")],
    )
    changed = update(container, "--secret-rm", "a", "--secret-add", "z", "--config-rm", "id-c")
    assert [(use.secret, use.version) for use in changed.secrets] == [("id-b", 1), ("z", 0)]
    assert not changed.configs
    again = update(container, "--secret-rm", "b", "--secret-add", "source=b,target=other")
    assert [(use.secret, use.file.name) for use in again.secrets] == [("id-a", ""), ("b", "other")]
    assert update(container, "--hostname", "h").secrets == container.secrets
