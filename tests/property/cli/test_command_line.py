"""Round trips: what is written as a command line, a port or a table is read back as it was."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from minictl import flags, ports, values
from minictl.flags import Flag
from minictl.output import template
from minictl.output.table import align
from minictl.views.common import natural_key

FLAGS = (
    Flag("name", "", short="n", kind=values.STRING),
    Flag("count", "", short="c", kind=values.UINT),
    Flag("item", "", short="i", kind=values.LIST),
    Flag("quiet", "", short="q"),
    Flag("detach", "", short="d"),
)
_WORD = st.text(st.characters(codec="utf-8"), max_size=6)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[list[str], dict[str, object], list[str]]:
    """A command line, the flags it means, and its arguments."""
    words: list[str] = []
    meaning: dict[str, object] = {}
    arguments: list[str] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["name", "count", "item", "bools", "argument"]))
        if kind == "argument":
            word = draw(_WORD.filter(lambda text: not text.startswith("-") or text == "-"))
            words.append(word)
            arguments.append(word)
        elif kind == "bools":
            meaning |= {"quiet": True, "detach": True}
            words += draw(st.sampled_from([["-qd"], ["-q", "-d"], ["--quiet", "--detach=true"], ["-dq=1"]]))
        else:
            value = str(draw(st.integers(0, 99))) if kind == "count" else draw(_WORD)
            letter = kind[0]
            forms = [
                [f"--{kind}", value],
                [f"--{kind}={value}"],
                [f"-{letter}", value],
                [f"-{letter}={value}"],
            ]
            if value and not value.startswith("="):
                forms.append([f"-q{letter}{value}"])
            form = draw(st.sampled_from(forms))
            words += form
            if form[0].startswith("-q"):
                meaning["quiet"] = True
            if kind == "item":
                before = meaning.get("item", [])
                assert isinstance(before, list)
                meaning["item"] = [*before, value]
            else:
                meaning[kind] = int(value) if kind == "count" else value
    return words, meaning, arguments


@given(command_lines(), st.lists(_WORD, max_size=3))
def test_flags_and_arguments_are_sorted_out(
    line: tuple[list[str], dict[str, object], list[str]], rest: list[str]
) -> None:
    words, meaning, arguments = line
    parsed = flags.parse(FLAGS, [*words, "--", *rest])
    assert parsed.arguments == [*arguments, *rest]
    assert parsed.given() == set(meaning)
    for name, value in meaning.items():
        assert parsed[name] == value


@given(st.lists(_WORD, min_size=1))
def test_after_the_image_everything_belongs_to_the_container(words: list[str]) -> None:
    assume(not words[0].startswith("-"))
    assert flags.parse(FLAGS, ["-q", *words], interspersed=False).arguments == words


_PORT = st.integers(1, 65535)


@given(_PORT, _PORT, st.sampled_from([0, 1]), st.sampled_from([0, 1]))
def test_long_form(target: int, published: int, protocol: int, mode: int) -> None:
    fields = {"mode": ports.MODE_NAMES[mode], "target": target, "published": published}
    fields["protocol"] = ports.PROTOCOL_NAMES[protocol]
    text = ",".join(f"{name}={value}" for name, value in fields.items())
    assert ports.parse_publish(text) == [ports.Port(target, published, protocol, mode)]


@given(st.integers(1, 60000), st.integers(1, 60000), st.integers(0, 20), st.sampled_from(["tcp", "udp"]))
def test_short_form_with_ranges(target: int, published: int, more: int, protocol: str) -> None:
    text = f"{published}-{published + more}:{target}-{target + more}/{protocol}"
    expected = [
        ports.Port(target + step, published + step, ports.PROTOCOL_NAMES.index(protocol), 0)
        for step in range(more + 1)
    ]
    assert ports.parse_publish(text) == expected


@given(st.text(max_size=20))
def test_any_text_is_ports_or_an_error(text: str) -> None:
    try:
        parsed = ports.parse_publish(text)
    except ValueError:
        return
    assert all(0 < port.target < 65536 and 0 <= port.published < 65536 for port in parsed)


_CELL = st.text("abcXYZ 0", max_size=15)


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(_CELL, min_size=width, max_size=width), min_size=1)
    )
)
def test_columns_of_a_table_begin_where_they_should(rows: list[list[str]]) -> None:
    """Every cell of a column begins at the same place, at least three spaces after the longest before it."""
    lines = align(rows).removesuffix("\n").split("\n")
    at = 0
    for column in range(len(rows[0])):
        for row, line in zip(rows, lines, strict=True):
            assert line[at : at + len(row[column])] == row[column]
        at += max(10, *(len(row[column]) + 3 for row in rows))


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_is_itself(text: str) -> None:
    assert template.parse(text).execute({}) == text


@given(st.dictionaries(st.from_regex(r"[A-Z][a-z]{0,5}", fullmatch=True), _WORD, min_size=1))
def test_fields_are_shown_as_they_are(data: dict[str, str]) -> None:
    text = "|".join(f"{{{{.{name}}}}}" for name in data)
    assert template.parse(text).execute(data) == "|".join(data.values())


@given(st.text(max_size=30))
def test_any_template_is_read_or_refused(text: str) -> None:
    try:
        template.parse("{{" + text).execute({"A": "x"})
    except template.TemplateError:
        return


@given(st.lists(st.integers(0, 10_000), unique=True))
def test_natural_order_is_the_order_of_numbers(numbers: list[int]) -> None:
    names = [f"web.{number}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"web.{number}" for number in sorted(numbers)]
