"""Templates: what Go's text/template prints for the same data."""

from __future__ import annotations

from typing import Any

import pytest
from minictl.output import template

DATA: dict[str, Any] = {
    "Name": "web",
    "Count": 3,
    "Zero": 0,
    "Flag": True,
    "Spec": {"Labels": {"b": "2", "a": "1"}, "Args": ["x", "y"], "Ratio": 1.5, "Empty": []},
    "Nothing": None,
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .Spec.Args }}", "[x y]"),
        ("{{.Spec.Labels}}", "map[a:1 b:2]"),
        ("{{.Spec.Labels.a}}", "1"),
        ("{{.Flag}} {{.Count}} {{.Spec.Ratio}}", "true 3 1.5"),
        ("{{.Nothing}}", "<no value>"),
        ("{{json .Spec.Labels}}", '{"b":"2","a":"1"}'),
        ("{{json .Name}}", '"web"'),
        ('{{.Name | upper | printf "%s!"}}', "WEB!"),
        ('{{upper (printf "%s-%d" .Name .Count)}}', "WEB-3"),
        ('{{join .Spec.Args ","}}', "x,y"),
        ('{{range split "a.b" "."}}<{{.}}>{{end}}', "<a><b>"),
        ('{{title "hello big world"}}', "Hello Big World"),
        ("{{truncate .Name 2}}", "we"),
        ("{{pad .Name 1 2}}|", " web  |"),
        ("{{len .Spec.Args}} {{len .Name}}", "2 3"),
        ('{{index .Spec.Args 1}} {{index .Spec.Labels "b"}}', "y 2"),
        ("{{if .Zero}}a{{else if .Flag}}b{{else}}c{{end}}", "b"),
        ('{{if and .Flag (eq .Name "web")}}yes{{end}}', "yes"),
        ("{{if or .Zero .Nothing}}yes{{else}}no{{end}}", "no"),
        ("{{if not .Zero}}none{{end}}", "none"),
        ("{{if gt .Count 2}}many{{end}}", "many"),
        ("{{range $i, $arg := .Spec.Args}}{{$i}}={{$arg}} {{end}}", "0=x 1=y "),
        ("{{range $k, $v := .Spec.Labels}}{{$k}}:{{$v}};{{end}}", "a:1;b:2;"),
        ("{{range .Spec.Empty}}x{{else}}empty{{end}}", "empty"),
        ("{{with .Spec}}{{.Ratio}}{{end}}", "1.5"),
        ("{{with .Nothing}}x{{else}}nothing{{end}}", "nothing"),
        ("{{$n := .Name}}{{with .Spec}}{{$n}}{{$.Count}}{{end}}", "web3"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* a comment */}}x", "x"),
        ('{{"}}"}}', "}}"),
        ("{{`raw \\n`}}", "raw \\n"),
        ('{{"tab\\t"}}|', "tab\t|"),
        ("{{println .Name .Count}}", "web 3\n"),
        ("{{print .Count .Count}}", "3 3"),
        ('{{printf "%5s|%-5s|%q|%03d" .Name .Name .Name .Count}}', '  web|web  |"web"|003'),
        ('{{ne .Name "x"}} {{lt 1 2}} {{le 2 2}} {{ge 1 2}}', "true true true false"),
    ],
)
def test_execute(text: str, result: str) -> None:
    assert template.parse(text).execute(DATA) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Name", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{if .Name}}x", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{nope .Name}}", 'function "nope" not defined'),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name | }}", "missing value for command"),
        ("{{$x}}", 'undefined variable "$x"'),
        ("{{.Name .Count}}", "can't give argument to non-function .Name"),
        ("{{.Name.Sub}}", "can't evaluate field Sub in 'web'"),
        ("{{.Missing}}", 'map has no entry for key "Missing"'),
        ("{{index .Spec.Args 7}}", "error calling index: list index out of range"),
        ("{{range .Count}}{{end}}", "range can't iterate over 3"),
        ("{{#}}", "unexpected '#' in operand"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(template.TemplateError) as error:
        template.parse(text).execute(DATA, strict=True)
    assert str(error.value) == message


def test_headings_pass_through_functions() -> None:
    parsed = template.parse("{{lower .Name}}\t{{truncate .ID 3}}\t{{json .Labels}}")
    assert (
        parsed.execute({"Name": "NAME", "ID": "LONG ID", "Labels": "LABELS"}, heading=True)
        == "NAME\tLONG ID\tLABELS"
    )
