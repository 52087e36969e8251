"""Wrong command lines: the message and the exit code, which are Docker's where Docker has the command."""

from __future__ import annotations

import pytest
from minictl import main

CREATE = "\n\nUsage:  minictl service create [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n"
CREATE_RUN = f"{CREATE}Run 'minictl service create --help' for more information\n"
CREATE_SEE = f"{CREATE}See 'minictl service create --help' for more information\n"
SCALE_USAGE = (
    "See 'minictl service scale --help'.\n\n"
    "Usage:  minictl service scale SERVICE=REPLICAS [SERVICE=REPLICAS...]\n\n"
    "Scale one or multiple replicated services\n"
)


def usage(command: str, arguments: str = "", *, see: str = "Run", options: str = " [OPTIONS]") -> str:
    rest = f" {arguments}" if arguments else ""
    path = f"minictl {command}"
    return f"\n\nUsage:  {path}{options}{rest}\n\n{see} '{path} --help' for more information\n"


def invalid(value: str, flag: str, reason: str) -> str:
    return f'invalid argument "{value}" for "{flag}" flag: {reason}{CREATE_RUN}'


NO_DAEMON = "Cannot connect to the mini daemon at unix:///nonexistent.sock. Is mini-worker running?\n"

CASES: list[tuple[list[str], int, str]] = [
    # --- containers ---
    (
        ["exec", "web.1"],
        1,
        "minictl: 'minictl exec' requires at least 2 arguments"
        + usage("exec", "CONTAINER COMMAND [ARG...]", see="See"),
    ),
    (
        ["exec", "--privileged", "web.1", "sh"],
        125,
        "the flag --privileged is not supported by this version of minictl"
        + usage("exec", "CONTAINER COMMAND [ARG...]"),
    ),
    (
        ["run", "-v", "data", "busybox"],
        125,
        'invalid argument "data" for "-v, --volume" flag: invalid volume specification: \'data\': '
        "mount path must be absolute" + usage("run", "IMAGE [COMMAND] [ARG...]"),
    ),
    (["run", "-p", "80", "busybox"], 1, "port 80: say which port of the node it is to be: -p NODE_PORT:80\n"),
    (["cp", "a", "b"], 1, "must specify at least one container source\n"),
    (["cp", "a:/b", "c:/d"], 1, "copying between containers is not supported\n"),
    (
        ["service", "logs", "--tail", "few", "web"],
        1,
        'invalid value for --tail: "few": must be a number or "all"\n',
    ),
    (
        ["service", "logs", "--since", "yesterday", "web"],
        1,
        'failed to parse value as time or duration: "yesterday"\n',
    ),
    (
        ["ps", "--size"],
        125,
        "the flag -s, --size is not supported by this version of minictl" + usage("ps"),
    ),
    # --- the command itself ---
    (["foo"], 1, "minictl: unknown command: minictl foo\n\nRun 'minictl --help' for more information\n"),
    (
        ["service", "foo"],
        1,
        "minictl: unknown command: minictl service foo\n\nUsage:  minictl service\n\n"
        "Run 'minictl service --help' for more information\n",
    ),
    (
        ["service", "-z"],
        125,
        "unknown shorthand flag: 'z' in -z\n\nUsage:  minictl service\n\n"
        "Run 'minictl service --help' for more information\n",
    ),
    (
        ["service", "--foo=1", "ls"],
        125,
        "unknown flag: --foo\n\nUsage:  minictl service\n\nRun 'minictl service --help' for more information\n",
    ),
    (
        ["--foo"],
        125,
        "unknown flag: --foo\n\nUsage:  minictl [OPTIONS] COMMAND [ARG...]\n\n"
        "Run 'minictl --help' for more information\n",
    ),
    (
        ["-H"],
        125,
        "flag needs an argument: 'H' in -H\n\nUsage:  minictl [OPTIONS] COMMAND [ARG...]\n\n"
        "Run 'minictl --help' for more information\n",
    ),
    (
        ["help", "service", "bar"],
        1,
        "minictl: unknown command: minictl service bar\n\nUsage:  minictl service\n\n"
        "Run 'minictl service --help' for more information\n",
    ),
    # --- the daemon ---
    (["service", "ls"], 1, NO_DAEMON),
    (["node", "ps"], 1, NO_DAEMON),
    (["service", "ls", "--filter", "foo=bar"], 1, NO_DAEMON),
    (
        ["-H", "foo://x", "service", "ls"],
        1,
        "invalid host 'foo://x': expected unix:///path/to/mini.sock or tcp://host[:port] (MINI_HOST or --host)\n",
    ),
    (
        ["-H", "tcp://h:99999", "service", "ls"],
        1,
        "invalid host 'tcp://h:99999': expected unix:///path/to/mini.sock or tcp://host[:port] (MINI_HOST or --host)\n",
    ),
    (
        ["-H", "tcp://h", "--tlscacert", "/nonexistent/ca", "service", "ls"],
        1,
        "tcp://h needs TLS, but /nonexistent/ca does not exist (set --tlscacert or MINI_CERT_PATH)\n",
    ),
    # --- numbers of arguments ---
    (
        ["secret", "create"],
        1,
        "minictl: 'minictl secret create' requires at least 1 and at most 2 arguments"
        + usage("secret create", "SECRET [file|-]"),
    ),
    (
        ["secret", "rotate", "key"],
        1,
        "minictl: 'minictl secret rotate' requires 2 arguments" + usage("secret rotate", "SECRET file|-"),
    ),
    (
        ["config", "create", "site"],
        1,
        "minictl: 'minictl config create' requires 2 arguments" + usage("config create", "CONFIG file|-"),
    ),
    (
        ["secret", "rotate", "--grace", "soon", "key", "-"],
        125,
        'invalid argument "soon" for "--grace" flag: time: invalid duration "soon"'
        + usage("secret rotate", "SECRET file|-"),
    ),
    (["service", "ls", "x"], 1, "minictl: 'minictl service ls' accepts no arguments" + usage("service ls")),
    (["service", "create"], 1, "minictl: 'minictl service create' requires at least 1 argument" + CREATE_SEE),
    (
        ["service", "create", "--label", "x"],
        1,
        "minictl: 'minictl service create' requires at least 1 argument" + CREATE_SEE,
    ),
    (
        ["service", "rm"],
        1,
        "minictl: 'minictl service rm' requires at least 1 argument"
        + usage("service rm", "SERVICE [SERVICE...]", see="See", options=""),
    ),
    (
        ["service", "inspect"],
        1,
        "minictl: 'minictl service inspect' requires at least 1 argument"
        + usage("service inspect", "SERVICE [SERVICE...]", see="See"),
    ),
    (
        ["service", "scale"],
        1,
        "minictl: 'minictl service scale' requires at least 1 argument"
        + usage("service scale", "SERVICE=REPLICAS [SERVICE=REPLICAS...]", see="See", options=""),
    ),
    (
        ["swarm", "join-token"],
        1,
        "minictl: 'minictl swarm join-token' requires 1 argument"
        + usage("swarm join-token", "(worker|manager)"),
    ),
    (
        ["swarm", "join"],
        1,
        "minictl: 'minictl swarm join' requires 1 argument" + usage("swarm join", "HOST:PORT"),
    ),
    (
        ["swarm", "backup"],
        1,
        "minictl: 'minictl swarm backup' requires 1 argument" + usage("swarm backup", "FILE"),
    ),
    (
        ["swarm", "backup", "/dev/null"],
        1,
        "/dev/null exists already: choose another name, or replace it with --force\n",
    ),
    (["swarm", "backup", "verify", "/no/file"], 1, "open /no/file: no such file or directory\n"),
    (["swarm", "backup", "verify", "/dev/null"], 1, "/dev/null: the file is not a backup of mini\n"),
    (
        ["swarm", "restore"],
        1,
        "minictl: 'minictl swarm restore' requires 1 argument" + usage("swarm restore", "FILE"),
    ),
    (["swarm", "init", "a"], 1, "minictl: 'minictl swarm init' accepts no arguments" + usage("swarm init")),
    (
        ["task", "why"],
        1,
        "minictl: 'minictl task why' requires 1 argument" + usage("task why", "TASK"),
    ),
    (
        ["node", "update"],
        1,
        "minictl: 'minictl node update' requires 1 argument" + usage("node update", "NODE"),
    ),
    (
        ["images", "a", "b"],
        1,
        "minictl: 'minictl images' requires at most 1 argument" + usage("images", "[REPOSITORY[:TAG]]"),
    ),
    # --- flags ---
    (["service", "create", "--foo", "x"], 125, "unknown flag: --foo" + CREATE_RUN),
    (["service", "create", "-p"], 125, "flag needs an argument: 'p' in -p" + CREATE_RUN),
    (["service", "create", "--replicas"], 125, "flag needs an argument: --replicas" + CREATE_RUN),
    (["service", "ls", "-z"], 125, "unknown shorthand flag: 'z' in -z" + usage("service ls")),
    (["service", "ls", "-qz"], 125, "unknown shorthand flag: 'z' in -z" + usage("service ls")),
    (["service", "ls", "--=x"], 125, "bad flag syntax: --=x" + usage("service ls")),
    (
        ["service", "ls", "--filter", "foo"],
        125,
        'invalid argument "foo" for "-f, --filter" flag: bad format of filter (expected name=value)'
        + usage("service ls"),
    ),
    (
        ["swarm", "init", "--snapshot-interval", "1"],
        125,
        "the flag --snapshot-interval is not supported by this version of minictl" + usage("swarm init"),
    ),
    (
        ["swarm", "ca", "--rotate", "--external-ca", "protocol=cfssl,url=https://ca.example"],
        125,
        "the flag --external-ca is not supported: managers sign by themselves. A root of your own is brought with "
        "`minictl swarm ca --rotate --ca-cert FILE --ca-key FILE`" + usage("swarm ca"),
    ),
    (
        ["service", "update", "--rollback", "--image", "x", "web"],
        1,
        "other flags may not be combined with --rollback: --image\n",
    ),
    (
        ["service", "create", "--update-order", "random", "x"],
        1,
        'invalid --update-order "random": must be one of stop-first, start-first\n',
    ),
    # --- values of flags ---
    (
        ["service", "create", "--replicas", "abc", "x"],
        125,
        invalid("abc", "--replicas", 'strconv.ParseUint: parsing "abc": invalid syntax'),
    ),
    (
        ["service", "create", "--replicas", "-1", "x"],
        125,
        invalid("-1", "--replicas", 'strconv.ParseUint: parsing "-1": invalid syntax'),
    ),
    (
        ["service", "create", "--replicas", str(1 << 64), "x"],
        125,
        invalid(str(1 << 64), "--replicas", f'strconv.ParseUint: parsing "{1 << 64}": value out of range'),
    ),
    (
        ["service", "create", "--detach=foo", "x"],
        125,
        invalid("foo", "-d, --detach", 'strconv.ParseBool: parsing "foo": invalid syntax'),
    ),
    (
        ["service", "create", "--restart-delay", "5", "x"],
        125,
        invalid("5", "--restart-delay", 'time: missing unit in duration "5"'),
    ),
    (
        ["service", "create", "--restart-delay", "-5s", "x"],
        125,
        invalid("-5s", "--restart-delay", "duration cannot be negative"),
    ),
    (
        ["service", "create", "--limit-memory", "abc", "x"],
        125,
        invalid("abc", "--limit-memory", "invalid size: 'abc'"),
    ),
    (
        ["service", "create", "--limit-cpu", "abc", "x"],
        125,
        invalid("abc", "--limit-cpu", "failed to parse abc as a rational number"),
    ),
    (
        ["service", "create", "--limit-cpu", "1.0000000001", "x"],
        125,
        invalid("1.0000000001", "--limit-cpu", "value is too precise"),
    ),
    (
        ["service", "create", "-e", "=x", "x"],
        125,
        invalid("=x", "-e, --env", "invalid environment variable: =x"),
    ),
    (
        ["service", "create", "--entrypoint", '"foo', "x"],
        125,
        invalid('\\"foo', "--entrypoint", "EOF found when expecting closing quote"),
    ),
    (
        ["service", "create", "-p", "99999:80", "x"],
        125,
        invalid("99999:80", "-p, --publish", "invalid hostPort: 99999"),
    ),
    (
        ["service", "create", "-p", "80:80/foo", "x"],
        125,
        invalid("80:80/foo", "-p, --publish", "invalid proto: foo"),
    ),
    (
        ["service", "create", "-p", "abc", "x"],
        125,
        invalid("abc", "-p, --publish", "invalid containerPort: abc"),
    ),
    (
        ["service", "create", "-p", "published=80", "x"],
        125,
        invalid("published=80", "-p, --publish", "missing mandatory field 'target'"),
    ),
    (
        ["service", "create", "-p", "target=80,foo=1", "x"],
        125,
        invalid("target=80,foo=1", "-p, --publish", "invalid field key: foo"),
    ),
    (
        ["service", "create", "-p", "target=80,mode=zzz", "x"],
        125,
        invalid(
            "target=80,mode=zzz",
            "-p, --publish",
            "invalid publish mode value (zzz): must be either 'ingress' or 'host'",
        ),
    ),
    (
        ["service", "create", "-p", "target=x", "x"],
        125,
        invalid(
            "target=x", "-p, --publish", "invalid target port (x): value must be an integer: invalid syntax"
        ),
    ),
    (
        ["service", "create", "-p", "1.2.3.4:80:81", "x"],
        125,
        invalid(
            "1.2.3.4:80:81",
            "-p, --publish",
            "hostip is not supported in the short form: write target=81,published=80,host_ip=1.2.3.4",
        ),
    ),
    (
        ["service", "create", "-p", "target=80,local=here", "x"],
        125,
        invalid(
            "target=80,local=here", "-p, --publish", "invalid local value (here): must be any, prefer or only"
        ),
    ),
    (
        ["service", "create", "-p", "target=80,sticky=very", "x"],
        125,
        invalid(
            "target=80,sticky=very", "-p, --publish", "invalid sticky value (very): must be true or false"
        ),
    ),
    (
        ["service", "create", "-p", "target=80,proxy_protocol=v1", "x"],
        125,
        invalid(
            "target=80,proxy_protocol=v1", "-p, --publish", "invalid proxy_protocol value (v1): must be v2"
        ),
    ),
    (
        ["service", "create", "--network", "alias=db", "x"],
        125,
        invalid("alias=db", "--network", "network name is required: name=NETWORK[,alias=NAME...]"),
    ),
    (
        ["service", "create", "--network", "name=a,alias", "x"],
        125,
        invalid("name=a,alias", "--network", "invalid field alias must be a key=value pair"),
    ),
    (
        ["service", "create", "--network", "name=a,ip=1", "x"],
        125,
        invalid("name=a,ip=1", "--network", "invalid field key ip"),
    ),
    (
        ["service", "create", "--network", "name=a,driver-opt=x", "x"],
        125,
        invalid(
            "name=a,driver-opt=x",
            "--network",
            "invalid field key driver-opt: this version has no options of a single endpoint",
        ),
    ),
    (
        ["service", "create", "--endpoint-mode", "anycast", "x"],
        1,
        'invalid endpoint mode "anycast": must be vip or dnsrr\n',
    ),
    (
        ["trace", "core-02"],
        1,
        'invalid target "core-02": must be NODE:PORT, with a port from 1 to 65535\n',
    ),
    (
        ["network", "trace", "core-02:65536"],
        1,
        'invalid target "core-02:65536": must be NODE:PORT, with a port from 1 to 65535\n',
    ),
    (
        ["trace", "--protocol", "sctp", "core-02:80"],
        125,
        'invalid argument "sctp" for "--protocol" flag: must be tcp or udp, not "sctp"'
        + usage("trace", "NODE:PORT"),
    ),
    (
        ["network", "doctor", "core-02"],
        1,
        "minictl: 'minictl network doctor' accepts no arguments" + usage("network doctor"),
    ),
    (
        ["network", "create"],
        1,
        f"minictl: 'minictl network create' requires 1 argument{usage('network create', 'NETWORK')}",
    ),
    (
        ["network", "create", "--ipam-driver", "dhcp", "x"],
        1,
        'unsupported IPAM driver "dhcp": there is only default\n',
    ),
    (
        ["network", "create", "--scope", "local", "x"],
        1,
        'unsupported scope "local": networks span the swarm\n',
    ),
    (["network", "create", "--ipv6", "x"], 1, "IPv6 networks are not supported\n"),
    (["network", "create", "--ipv4=false", "x"], 1, "networks without IPv4 are not supported\n"),
    (
        ["network", "create", "--subnet", "10.1.0.0/24,10.2.0.0/24", "x"],
        1,
        "--subnet: a network has one IPv4 subnet, 2 values were given\n",
    ),
    (
        ["network", "create", "--config-only", "x"],
        125,
        "the flag --config-only is not supported by this version of minictl"
        f"{usage('network create', 'NETWORK')}",
    ),
    (
        ["network", "connect", "backend"],
        1,
        f"minictl: 'minictl network connect' requires 2 arguments"
        f"{usage('network connect', 'NETWORK CONTAINER')}",
    ),
    (
        ["network", "connect", "--ip", "10.0.1.9", "backend", "one"],
        125,
        "the flag --ip is not supported by this version of minictl"
        f"{usage('network connect', 'NETWORK CONTAINER')}",
    ),
    (
        ["network", "rm"],
        1,
        f"minictl: 'minictl network rm' requires at least 1 argument"
        f"{usage('network rm', 'NETWORK [NETWORK...]', see='See')}",
    ),
    (
        ["network", "prune", "x"],
        1,
        f"minictl: 'minictl network prune' accepts no arguments{usage('network prune')}",
    ),
    (
        ["service", "create", "-p", "80-82:80-81", "x"],
        125,
        invalid(
            "80-82:80-81",
            "-p, --publish",
            "invalid ranges specified for container and host Ports: 80-81 and 80-82",
        ),
    ),
    (
        ["swarm", "init", "--default-addr-pool", "10.0.0.0"],
        125,
        'invalid argument "10.0.0.0" for "--default-addr-pool" flag: invalid CIDR address: 10.0.0.0'
        + usage("swarm init"),
    ),
    # --- what only the command knows ---
    (
        ["service", "create", "--mode", "foo", "x"],
        1,
        'invalid mode "foo": must be "replicated", "global", "replicated-job" or "global-job"\n',
    ),
    (
        ["service", "create", "--mode", "global", "--replicas", "2", "x"],
        1,
        "replicas can only be used with replicated or replicated-job mode\n",
    ),
    (
        ["service", "create", "--mode", "global-job", "--replicas-max-per-node", "2", "x"],
        1,
        "replicas-max-per-node can only be used with replicated or replicated-job mode\n",
    ),
    (
        ["service", "create", "--max-concurrent", "2", "x"],
        1,
        "max-concurrent can only be used with replicated-job mode\n",
    ),
    (
        ["service", "create", "--env-file", "/nonexistent", "x"],
        1,
        "open /nonexistent: no such file or directory\n",
    ),
    (
        ["service", "create", "--restart-condition", "foo", "x"],
        1,
        'invalid restart condition "foo": must be "none", "on-failure" or "any"\n',
    ),
    (["service", "scale", "web"], 1, f"invalid scale specifier 'web'.\n{SCALE_USAGE}"),
    (["service", "scale", "web="], 1, f"invalid scale specifier 'web='.\n{SCALE_USAGE}"),
    (
        ["service", "scale", "web=x"],
        1,
        'web: invalid replicas value x: strconv.ParseUint: parsing "x": invalid syntax\n',
    ),
    (
        ["service", "scale", "web=-1"],
        1,
        'web: invalid replicas value -1: strconv.ParseUint: parsing "-1": invalid syntax\n',
    ),
    (["swarm", "join-token", "foo"], 1, "unknown role foo\n"),
    (
        ["swarm", "init", "--availability", "sleepy"],
        1,
        'invalid availability "sleepy", only active, pause and drain are supported\n',
    ),
    (
        ["service", "inspect", "--pretty", "-f", "{{.ID}}", "x"],
        1,
        "--format is incompatible with human friendly format\n",
    ),
    (["service", "inspect", "-f", "{{.ID", "x"], 64, "template parsing error: unclosed action\n"),
    (["image", "load", "-i", "/nonexistent"], 1, "open /nonexistent: no such file or directory\n"),
    (
        ["image", "ls", "--filter", "since=x"],
        1,
        "invalid filter 'since': only reference and dangling are supported\n",
    ),
    (["swarm", "update"], 1, "nothing to update: give a flag (see 'minictl swarm update --help')\n"),
]


@pytest.mark.parametrize(("words", "code", "message"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_wrong_invocation(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(words, {"MINI_HOST": "unix:///nonexistent.sock", "HOME": "/nonexistent"}) == code
    printed = capsys.readouterr()
    assert printed.err == message
    assert printed.out == ""
