"""The pure heart: object model, configuration, plan, schedulers and health, on the standard library alone.

Nothing here touches a socket, a file, a clock or a random source; everything else may import it.
"""
