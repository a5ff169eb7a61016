"""Durable jobs: what was asked for, which state it is in, and the one process that moves it on."""
