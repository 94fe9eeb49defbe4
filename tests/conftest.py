"""Every test runs with asyncio's debug mode on: slow callbacks, forgotten awaits and wrong threads are reported."""

import os

os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
