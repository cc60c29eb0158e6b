"""What runs in the triggerer: it waits and looks, and holds no worker. No secret goes there, and no device list."""
