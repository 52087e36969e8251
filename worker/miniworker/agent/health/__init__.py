"""Health and readiness checks: `policy` says when to probe and what it means, `probes` asks, `monitor` repeats."""
