"""A Flink cluster as child processes of a dev stack's home, and a client of its SQL gateway. Standard library only."""
