"""A local Nexthink tenant over real HTTP, for trying things out and for tests.

It stands alone: nothing it answers is computed by the code it is there to test.
"""

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox

__all__ = ["Fault", "Sandbox"]
