"""Every place where `app` uses another room: opening logs and stores, starting vendors and the sandbox."""
