"""The agents: which topic flows through which function. `faust -A agents worker` runs them."""

from agents.app import app

# Imported by name: Faust's discovery drops a module that fails to import, silently.
from agents import horizontal, intake, vertical  # isort: skip

__all__ = ["app", "horizontal", "intake", "vertical"]
