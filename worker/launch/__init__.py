"""How a phase is started: devices, command line, environment, provenance. No torch."""
