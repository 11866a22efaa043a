"""The event log: the port (`port`), its adapters (`embedded`, `kafka`), and the loop of stateful services."""
