"""The tutorial's images, built from programs of this machine, without any engine. Only the standard library is used.

An image here is a list of layers, and a layer is a mapping of paths to files. `busybox-static` is in all of them; the
servers are a page of Perl, which every Debian and Ubuntu has (perl-base), run without any module.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CREATED = "2024-01-02T03:04:05Z"
_MTIME = 1704164645

BUSYBOX = Path("/bin/busybox")
PERL = Path("/usr/bin/perl")
REDIS = Path("/usr/bin/redis-server")
REDIS_CLI = Path("/usr/bin/redis-cli")

_PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
_GROUP = "root:x:0:\nweb:x:1000:\nadm:x:4:web\nnogroup:x:65534:\n"

_WHOAMI = r"""
# An HTTP server in one process: "/" answers the host name, "/peer" the client's address as it is seen here.
# Keep-alive; on SIGTERM it takes no more connections, says "Connection: close" with the next answer on each that it
# has, closes those that have been idle for a while, and ends when none is left.
$0 = 'httpd';
$| = 1;
my ($port, $host) = ($ARGV[0] // 4567, `hostname`);
my $leaving = 0;
$SIG{TERM} = $SIG{INT} = sub { $leaving = 1 };
$SIG{PIPE} = 'IGNORE';
socket(my $listener, 2, 1, 6) or die "socket: $!";
setsockopt($listener, 1, 2, pack('i', 1)) or die "setsockopt: $!";
bind($listener, pack('S n a4 x8', 2, $port, "\0" x 4)) or die "bind: $!";
listen($listener, 1024) or die "listen: $!";
fcntl($listener, 4, 2048);
my %open;
print "listening on $port\n";
while (!$leaving || %open || $listener) {
    my ($read, $write) = ('', '');
    vec($read, fileno($listener), 1) = 1 if $listener;
    for my $c (values %open) {
        vec($read, $c->{fd}, 1) = 1;
        vec($write, $c->{fd}, 1) = 1 if length $c->{out};
    }
    my $ready = select($read, $write, undef, 1);  # a signal just before it is heard a second later
    for my $c ($leaving && !$ready ? values %open : ()) { delete $open{$c->{fd}} unless length($c->{out}) }
    if ($listener && ($leaving || $ready > 0 && vec($read, fileno($listener), 1))) {
        while (my $from = accept(my $client, $listener)) {
            fcntl($client, 4, 2048);
            my (undef, undef, $address) = unpack('S n a4', $from);
            $open{fileno($client)} = { fh => $client, fd => fileno($client), in => '', out => '', close => 0,
                                       peer => join('.', unpack('C4', $address)) };
        }
        undef $listener if $leaving;
    }
    next if $ready <= 0;
    for my $c (values %open) {
        if (vec($read, $c->{fd}, 1)) {
            my $got = sysread($c->{fh}, $c->{in}, 65536, length $c->{in});
            if (defined $got ? $got == 0 : $!+0 != 11) { delete $open{$c->{fd}}; next }
            while ($c->{in} =~ s/^(\S+) (\S+) HTTP\/1\.([01])\r?\n(.*?)\r?\n\r?\n//s
                   || $c->{in} =~ s/^(\S+) (\S+) HTTP\/1\.([01])()\r?\n\r?\n//s) {
                my ($method, $path, $minor, $headers) = ($1, $2, $3, $4);
                my ($status, $body) = $path =~ m{^/(\?.*)?$} ? ('200 OK', $host)
                                    : $path =~ m{^/peer(\?.*)?$} ? ('200 OK', "$c->{peer}\n")
                                    : ('404 Not Found', "not found\n");
                my ($wish) = $headers =~ /^connection:\s*(\S+)/mi;
                my $keep = lc($wish // ($minor ? 'keep-alive' : 'close')) eq 'keep-alive';
                $keep = 0 if $leaving;
                $c->{close} = 1 unless $keep;
                $c->{out} .= "HTTP/1.1 $status\r\nContent-Type: text/plain\r\nContent-Length: " . length($body)
                    . "\r\nConnection: " . ($keep ? 'keep-alive' : 'close') . "\r\n\r\n"
                    . ($method eq 'HEAD' ? '' : $body);
            }
        }
        if (length $c->{out}) {
            my $sent = syswrite($c->{fh}, $c->{out});
            if (!defined $sent) { delete $open{$c->{fd}} if $!+0 != 11; next }
            substr($c->{out}, 0, $sent) = '';
        }
        delete $open{$c->{fd}} if $c->{close} && !length $c->{out};
    }
}
"""

_WHOAMI_UDP = r"""
# Answers every datagram with "<host name> <client's address>".
$0 = 'udpd';
$SIG{TERM} = $SIG{INT} = sub { exit 0 };
chomp(my $host = `hostname`);
socket(my $s, 2, 2, 17) or die "socket: $!";
bind($s, pack('S n a4 x8', 2, $ARGV[0] // 4567, "\0" x 4)) or die "bind: $!";
while (1) {
    my $from = recv($s, my $data, 65536, 0) // next;
    my (undef, undef, $address) = unpack('S n a4', $from);
    send($s, "$host " . join('.', unpack('C4', $address)) . "\n", 0, $from);
}
"""


_COUNTER = r"""
# An HTTP server: each request adds one to this host's field of a hash in the redis server that REDIS_HOST names, and
# is answered with all its fields.
$0 = 'counterd';
$| = 1;
$SIG{TERM} = $SIG{INT} = sub { exit 0 };
my $redis = $ENV{REDIS_HOST} // 'redis';
chomp(my $host = `hostname`);
sub line { my ($from) = @_; my $line = ''; while (sysread($from, my $c, 1)) { $line .= $c; last if $c eq "\n" }
           $line =~ s/\r\n$//; return $line }
sub ask {
    my ($server, @words) = @_;
    syswrite($server, '*' . @words . "\r\n" . join('', map { '$' . length($_) . "\r\n$_\r\n" } @words));
    my ($kind, $rest) = line($server) =~ /^(.)(.*)$/ or die "no answer\n";
    die "$rest\n" if $kind eq '-';
    return $rest if $kind eq ':';
    return map { line($server); line($server) } 1 .. $rest;
}
sub page {
    my $address = gethostbyname($redis) or die "$redis: unknown host\n";
    socket(my $server, 2, 1, 6) or die "socket: $!\n";
    connect($server, pack('S n a4 x8', 2, 6379, $address)) or die "$redis: $!\n";
    my $count = ask($server, 'HINCRBY', 'counter', $host, 1);
    print "request $count\n";
    my %counts = ask($server, 'HGETALL', 'counter');
    return join('', map { "$_ > $counts{$_}\n" } sort keys %counts);
}
socket(my $listener, 2, 1, 6) or die "socket: $!";
setsockopt($listener, 1, 2, pack('i', 1)) or die "setsockopt: $!";
bind($listener, pack('S n a4 x8', 2, 4567, "\0" x 4)) or die "bind: $!";
listen($listener, 1024) or die "listen: $!";
print "counting in $redis\n";
while (1) {
    accept(my $client, $listener) or next;
    sysread($client, my $request, 65536);
    my $body = eval { page() };
    my $status = defined $body ? '200 OK' : '502 Bad Gateway';
    $body //= $@;
    syswrite($client, "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body");
}
"""

_SECRET = (
    _WHOAMI.replace("('200 OK', $host)", "content()")
    + r"""
sub content {
    open(my $file, '<', $ENV{SECRET_PATH}) or return ('404 Not Found', "$!
");
    local $/;
    return ('200 OK', scalar <$file>);
}
"""
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of a layer; with `link` a symbolic link, with `hardlink` another name of a file of the layer."""

    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    hardlink: str = ""
    directory: bool = False
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


Layer = Mapping[str, File]


@dataclass(frozen=True, slots=True)
class Image:
    """What an archive or a registry is given."""

    reference: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    """The `config` part of the image's configuration: Entrypoint, Cmd, Env, ..."""
    machine: str = ""
    """The architecture that it says it is for; by default this machine's."""

    def tars(self) -> tuple[bytes, ...]:
        return tuple(layer_tar(layer) for layer in self.layers)

    def configuration(self) -> bytes:
        return json.dumps(
            {
                "architecture": self.machine or architecture(),
                "os": "linux",
                "created": CREATED,
                "config": dict(self.config),
                "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in self.tars()]},
            }
        ).encode()


def architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def foreign(image: Image) -> Image:
    """The same for machines that are not like this one."""
    return replace(image, machine="amd64" if architecture() == "arm64" else "arm64")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_tar(layer: Layer) -> bytes:
    """The layer as an uncompressed tar; the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, file in layer.items():
            archive.addfile(_entry(path, file), io.BytesIO(file.data))
    return buffer.getvalue()


def _entry(path: str, file: File) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.mtime, entry.mode, entry.uid, entry.gid = _MTIME, file.mode, file.uid, file.gid
    entry.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in file.xattrs.items()
    }
    if file.directory:
        entry.type = tarfile.DIRTYPE
    elif file.link:
        entry.type, entry.linkname = tarfile.SYMTYPE, file.link
    elif file.hardlink:
        entry.type, entry.linkname = tarfile.LNKTYPE, file.hardlink
    else:
        entry.size = len(file.data)
    return entry


def directory(mode: int = 0o755, *, uid: int = 0) -> File:
    return File(mode=mode, uid=uid, gid=uid, directory=True)


def program(path: Path) -> Layer:
    """A program of this machine with the shared libraries it needs, at the same places."""
    found = {str(path).lstrip("/"): File(path.read_bytes(), 0o755)}
    listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"(/[^\s]+) \(0x", listed):
        found[name.lstrip("/")] = File(Path(name).read_bytes(), 0o755)
    return found


def base_layer() -> Layer:
    """busybox under all its names, and what a root directory usually has."""
    applets = subprocess.run(
        [str(BUSYBOX), "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    layer: dict[str, File] = {
        "bin": directory(),
        "etc": directory(),
        "tmp": directory(0o1777),
        "root": directory(0o700),
        "home": directory(),
        "home/web": directory(uid=1000),
        "bin/busybox": File(BUSYBOX.read_bytes(), 0o755),
        "etc/passwd": File(_PASSWD.encode()),
        "etc/group": File(_GROUP.encode()),
    }
    for applet in applets:
        if applet != "busybox":
            layer[f"bin/{applet}"] = File(link="busybox", mode=0o777)
    return layer


def busybox(reference: str = "busybox:latest", **config: Any) -> Image:
    """A shell and its friends; `config` adds to the image's configuration."""
    return Image(reference, (base_layer(),), {"Cmd": ["sh"], **config})


def whoami(reference: str = "whoami:1") -> Image:
    """HTTP on 4567: `/` answers the host name, `/peer` the client's address."""
    return _perl(reference, "whoami.pl", _WHOAMI, "4567/tcp")


def whoami_udp(reference: str = "whoami-udp:1") -> Image:
    """UDP on 4567: answers `<host name> <client's address>`."""
    return _perl(reference, "whoami-udp.pl", _WHOAMI_UDP, "4567/udp")


def counter(reference: str = "counter:latest") -> Image:
    """HTTP on 4567: counts its requests in redis on `REDIS_HOST`, answers `<host> > <count>` for each host."""
    return _perl(reference, "counter.pl", _COUNTER, "4567/tcp")


def secret(reference: str = "secret:latest") -> Image:
    """HTTP on 4567: `/` answers the content of the file that SECRET_PATH names, as it is at that moment."""
    return _perl(reference, "secret.pl", _SECRET, "4567/tcp")


def _perl(reference: str, name: str, script: str, port: str) -> Image:
    layers = (base_layer(), program(PERL), {f"srv/{name}": File(script.encode())})
    config = {"Entrypoint": ["/usr/bin/perl", f"/srv/{name}"], "ExposedPorts": {port: {}}}
    return Image(reference, layers, config)


def redis(reference: str = "redis:latest") -> Image:
    """redis-server on 6379, open to its network, nothing on disk; and its client."""
    command = [str(REDIS), "--protected-mode", "no", "--save", "", "--bind", "0.0.0.0"]
    return Image(
        reference,
        (base_layer(), program(REDIS), program(REDIS_CLI)),
        {"Entrypoint": command, "ExposedPorts": {"6379/tcp": {}}},
    )


def write_docker_archive(path: Path, *images: Image) -> Path:
    """What `docker save` writes."""
    parts: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for image in images:
        config = image.configuration()
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        parts[config_name] = config
        names = []
        for tar in image.tars():
            name = f"{hashlib.sha256(tar).hexdigest()}/layer.tar"
            parts[name] = tar
            names.append(name)
        tags = [image.reference] if image.reference else None
        entries.append({"Config": config_name, "RepoTags": tags, "Layers": names})
    parts["manifest.json"] = json.dumps(entries).encode()
    return _write_tar(path, parts)


def write_oci_archive(path: Path, *images: Image) -> Path:
    """An OCI image layout with gzip layers, in a tar."""
    blobs: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for image in images:
        manifest, parts = manifest_of(image)
        blobs |= parts
        blobs[digest_of(manifest)] = manifest
        annotations = {"org.opencontainers.image.ref.name": image.reference} if image.reference else {}
        entries.append({**_descriptor(manifest, OCI_MANIFEST), "annotations": annotations})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    parts = {f"blobs/sha256/{digest.partition(':')[2]}": data for digest, data in blobs.items()}
    parts["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    parts["index.json"] = json.dumps(index).encode()
    return _write_tar(path, parts)


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def manifest_of(image: Image) -> tuple[bytes, dict[str, bytes]]:
    """An OCI manifest, and the blobs it names by digest."""
    config = image.configuration()
    layers = [gzip.compress(tar, compresslevel=1, mtime=0) for tar in image.tars()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(config, _OCI_CONFIG),
        "layers": [_descriptor(layer, _OCI_LAYER) for layer in layers],
    }
    return json.dumps(manifest).encode(), {digest_of(blob): blob for blob in (config, *layers)}


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _write_tar(path: Path, parts: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), _MTIME
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_tutorial_archives(folder: Path) -> dict[str, Path]:
    """One docker-archive for each image of the tutorial's first part, by reference."""
    images: Sequence[Image] = (whoami(), whoami_udp(), busybox(), secret())
    return {
        image.reference: write_docker_archive(folder / f"{image.reference.replace(':', '-')}.tar", image)
        for image in images
    }
