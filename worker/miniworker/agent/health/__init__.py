"""Health and readiness checks: `policy` says when to probe and what a result means, `probes` asks, `monitor` does it over time."""
