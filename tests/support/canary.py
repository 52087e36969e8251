"""Looks for a secret's content where it must not be: on a host's disk and memory file systems, and in its processes."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from support.hosts import Host


class Canary:
    """Contents that are like no others, in the forms in which they could be found."""

    def __init__(self, *texts: str) -> None:
        forms = [form for text in texts for form in (text, text.encode().hex())]
        # base64 looks different for each position
        forms += [
            base64.b64encode(text.encode()[skip:])[: len(text)].decode()
            for text in texts
            for skip in range(3)
        ]
        self._patterns = "\n".join(forms)

    def search(self, host: Host, script: str) -> list[str]:
        """Run a script that prints the names of what it has found; it finds its patterns in standard input."""
        done = host.run(["sh", "-c", script], input=self._patterns, check=False, timeout=120)
        assert done.stderr == ""
        return done.stdout.split()

    def held(self, host: Host) -> list[str]:
        """The files of secrets that have it: where it should be."""
        script = "mkdir -p /run/mini/secrets; cat > /run/p; grep -rlF -f /run/p /run/mini/secrets; rm /run/p"
        return self.search(host, script)

    def elsewhere(self, host: Host, *, but: Sequence[str] = ()) -> list[str]:
        """Whatever else has it: files, other than what secrets are mounted on, command lines and environments.

        Core dumps count, whatever is in them. `but`: a pattern of paths that cannot be read.
        """
        directory = host.directory
        skipped = " ".join(f"! -path '{path}'" for path in ("/run/p", "/run/mini/netns/*", *but))
        files = (
            f"cat > /run/p; find {directory} /run -xdev -type f {skipped} -print0 "
            "| xargs -0 grep -slF -f /run/p; rm /run/p"
        )
        processes = (
            "cat > /run/p; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2> /dev/null | tr '\\0' '\\n' "
            "| grep -aF -f /run/p; rm /run/p"
        )
        cores = f"cat > /dev/null; find {directory} /run -xdev -name 'core*' -type f -size +100k"
        return [found for script in (files, processes, cores) for found in self.search(host, script)]
