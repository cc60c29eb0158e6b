"""Triggers: they wait and poll in the triggerer, and hold no worker slot. They get no secret and no device list."""
