"""Backups: everything of a cluster at one revision, made, looked through, and put back. ADR 0015 says why keys."""
