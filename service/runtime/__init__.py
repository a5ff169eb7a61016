"""What runs a graph. `port` says what a runtime is; each other module is one."""
