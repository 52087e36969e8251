"""Names, targets and templates of secrets and configs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minimanager.domain import content_template as template
from minimanager.domain.content_template import Supplies
from minimanager.domain.objects import ConfigUse, ContainerSpec, FileTarget, Mount, SecretUse
from minimanager.domain.secrets import check_object_name, check_targets, config_path, normal_uses, secret_path
from minimanager.domain.template import TemplateContext


@pytest.mark.parametrize("name", ["a", "A9", "my-password", "a.b_c-d", "a" * 64])
def test_good_names(name: str) -> None:
    check_object_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", ".a", "a_", "a b", "a/b", "ä", "a\n", "a" * 65])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_object_name(name)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("", "/run/secrets/key"),
        ("other", "/run/secrets/other"),
        ("a/b", "/run/secrets/a/b"),
        ("/etc/key", "/etc/key"),
        ("/etc//./key", "/etc/key"),
    ],
)
def test_where_a_secret_is(target: str, path: str) -> None:
    assert secret_path(SecretUse("id", "key", 1, FileTarget(target))) == path


def test_where_a_config_is() -> None:
    assert config_path(ConfigUse("id", "site")) == "/site"
    assert config_path(ConfigUse("id", "site", FileTarget("etc/site"))) == "/etc/site"


@pytest.mark.parametrize("target", ["../x", "a/../../x", "a/..", "a/", "/", "a\0b"])
def test_targets_that_are_no_file(target: str) -> None:
    with pytest.raises(InvalidArgumentError, match="target must be the path of a file"):
        normal_uses(ContainerSpec(secrets=(SecretUse("id", file=FileTarget(target)),)))


def test_a_mode_of_zero_means_the_default() -> None:
    (use,) = normal_uses(ContainerSpec(secrets=(SecretUse("id", file=FileTarget("x", mode=0)),))).secrets
    assert use.file.mode == 0o444


def test_one_path_has_one_thing() -> None:
    secret, config = SecretUse("a", "key", 1), ConfigUse("b", "site", FileTarget("/run/secrets/key"))
    with pytest.raises(
        InvalidArgumentError, match=r"config 'site' and secret 'key' have a conflicting target"
    ):
        check_targets(ContainerSpec(secrets=(secret,), configs=(config,)))
    with pytest.raises(InvalidArgumentError, match="secret 'key' and a mount have a conflicting target"):
        check_targets(ContainerSpec(secrets=(secret,), mounts=(Mount(target="/run/secrets/key/"),)))
    check_targets(ContainerSpec(secrets=(secret,), configs=(ConfigUse("b", "site"),)))


# --- templates ---

CONTEXT = TemplateContext({".Task.Slot": "3"}, {"a": "b"})


def expand(text: bytes, supplies: Supplies | None = None) -> bytes:
    template.check_content(text)
    return template.expand_content(text, CONTEXT, supplies or Supplies())


def test_actions() -> None:
    supplies = Supplies({"MODE": "on"}, {"pw": b"\xff\x00"}, {"site": b"s"})
    text = b'{{.Task.Slot}}{{ env "MODE" }}{{secret `pw`}}{{config "site"}}{{.Service.Labels.a}}{{env "NO"}}'
    assert expand(text, supplies) == b"3on\xff\x00sb"


@pytest.mark.parametrize(
    "text",
    [
        b"{{.Nope}}",
        b"{{if .Task.Slot}}",
        b"{{secret}}",
        b"{{secret x}}",
        b'{{file "x"}}',
        b"{{",
        b"{{.Task.ID}} {{",
    ],
)
def test_what_is_no_action_is_refused_without_the_content(text: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        template.check_content(b"canary" + text)
    assert "canary" not in caught.value.message


def test_what_the_task_does_not_use_is_not_there() -> None:
    with pytest.raises(FailedPreconditionError, match="config target x not found"):
        expand(b'{{config "x"}}')


def test_supplies_do_not_show_their_contents() -> None:
    assert "canary" not in repr(Supplies({}, {"key": b"canary"}, {"site": b"canary"}))


@given(st.binary(max_size=200))
def test_a_content_without_actions_stays_byte_for_byte(data: bytes) -> None:
    if b"{{" not in data:
        assert expand(data) == data


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_is_filled_in_is_never_expanded(before: bytes, filled: bytes) -> None:
    """A secret's content cannot become an action, whatever it is."""
    before = before.replace(b"{", b"").replace(b"}", b"")
    assert expand(before + b'{{secret "x"}}', Supplies(secrets={"x": filled})) == before + filled


@given(st.binary(max_size=120))
def test_any_bytes_are_expanded_or_refused(data: bytes) -> None:
    try:
        template.check_content(data)
    except InvalidArgumentError:
        return
    try:
        template.expand_content(data, CONTEXT, Supplies())
    except FailedPreconditionError:
        return
