"""The shell around the decisions: watch, snapshot, decide, commit; and who may do so: the leader."""
