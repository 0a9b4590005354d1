"""What the device is (identity), in which state it is, and how far its times can be trusted.

Everything is read below a root folder, so that recorded trees can be read as well; docs/device.md
says which files, and what each decides.
"""

from .counters import counters
from .heat import throttle_events
from .processor import allowed_cpus, pick_cpus
from .record import SCHEMA, device_record
from .sensors import find_sensors
from .watch import Watch

__all__ = [
    "SCHEMA",
    "Watch",
    "allowed_cpus",
    "counters",
    "device_record",
    "find_sensors",
    "pick_cpus",
    "throttle_events",
]
