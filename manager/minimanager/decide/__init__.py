"""Decisions: pure functions of (snapshot, now) that return actions. Nothing here waits, draws lots or reads a clock."""
