"""An application that suspends once: `await asyncio.sleep(0)`."""

from harness.figures import at_most
from harness.loads import Load

LOAD = Load(apps={"asgi": "raw_asgi:sleep_0"}, connections=256, yardstick={"asgi": []}, goals={"asgi": at_most(10)})
