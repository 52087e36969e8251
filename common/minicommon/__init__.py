"""What every process shares: errors, ids, units, time, supervised tasks, identity, channels and logs."""

__version__ = "0.1.0"
