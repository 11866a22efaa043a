"""Running the plant: `plant` starts services, `supervisor` restarts them, the rest sets up the process."""
