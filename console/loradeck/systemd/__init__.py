"""Loradeck as services of systemd: what a process tells it, and the units that `install-service` writes."""
