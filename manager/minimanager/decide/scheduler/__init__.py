"""Placement: which nodes may take a task, and which of them do. Filter, then spread, a whole group at a time."""
