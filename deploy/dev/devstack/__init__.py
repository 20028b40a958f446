"""The dev stack manager: sets up, starts, watches and stops the real servers that SomaAgentHub talks with.

It is a process manager for a developer's machine and CI. It is not for production and restarts nothing by itself:
a part that died is reported, so that a fault is seen instead of hidden.
"""
