"""A local Nexthink tenant over real HTTP, for trying things out and for tests.

It is independent of the code under test: none of its responses is computed by that code.
"""

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox

__all__ = ["Fault", "Sandbox"]
