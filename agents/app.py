"""The Faust app for the bus that the environment names (DEPTBUS_BOOTSTRAP)."""

from deptbus.stream.application import app_from_environment

app = app_from_environment()
