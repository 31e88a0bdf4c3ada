"""doctor: whether this machine, its settings and the services that they name are in order."""
