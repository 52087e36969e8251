"""minictl: Docker Swarm's command line, spelled with `minictl`."""
