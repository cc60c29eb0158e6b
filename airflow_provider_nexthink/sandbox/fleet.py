"""The generated fleet: fictitious devices, with the names that real fleets have."""

import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# Names that CSV, pandas, JSON or Jinja may drop or change.
ODD_NAMES = (
    "NA",
    "00123",
    "Büro-PC-ä",
    "None",
    "1E10",
    "Sales, Desk 4",
    "null",
    "NaN",
    "True",
    "株式会社-01",
    "Kiosk-🖥️",
    'The "big" screen',
    "LAB;7",
    " PC-BLANK-BEFORE",
    "PC-BLANK-AFTER ",
    "{{ 7*7 }}",
    "N/A",
    "-",
    "=1+1",
)
# Reimaged machines: the old record is stale, the new one in use.
REIMAGED = ("REIMAGED-01", "REIMAGED-02", "REIMAGED-03")
# Virtual desktops that were created twice and then abandoned: both records are stale.
BUILT_TWICE = ("VDI-TWIN-01", "VDI-TWIN-01", "VDI-TWIN-02", "VDI-TWIN-02")

# The names of the first stale devices and of the first fresh ones; numbered names follow.
STALE_NAMES = [ODD_NAMES[0], *BUILT_TWICE[:2], REIMAGED[0], *ODD_NAMES[1:], *BUILT_TWICE[2:], *REIMAGED[1:]]
FRESH_NAMES = [ODD_NAMES[0], REIMAGED[0], *ODD_NAMES[1:], *REIMAGED[1:]]

# Device number n takes prefix n modulo their count. VIP- and SRV- are there to be excluded.
PREFIXES = (
    "LAPTOP-",
    "DESKTOP-",
    "LAPTOP-",
    "SRV-",
    "LAPTOP-",
    "VDI-",
    "LAPTOP-",
    "VIP-",
    "MAC-",
    "DESKTOP-",
)
ENTITIES = ("Lausanne", "Zurich / Sales", "Boston", "Madrid", "Singapore")
SYSTEMS = (
    ("Windows 11 Enterprise 24H2 (64 bits)", "Windows"),
    ("Windows 10 Enterprise 22H2 (64 bits)", "Windows"),
    ("macOS Sequoia 15.5", "macOS"),
)

REFERENCE_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Device:
    """One device of the generated fleet.

    :param uid: What NQL calls ``device.uid``: a UUID in canonical lower-case text. Deletions
        identify a device by it.
    :param collector_uid: What NQL calls ``device.collector.uid``: another UUID, which deletions
        do not recognize.
    :param name: The device's name; not unique.
    :param days_since_last_seen: Whole days.
    :param last_seen: ISO 8601 in UTC, such as ``2025-09-30T12:00:00Z``.
    :param entity: Where the device belongs.
    :param os_name: Its operating system.
    :param platform: ``Windows`` or ``macOS``.
    """

    uid: str
    collector_uid: str
    name: str
    days_since_last_seen: int
    last_seen: str
    entity: str
    os_name: str
    platform: str


def generate_fleet(devices: int, stale: int, seed: int, *, now: datetime = REFERENCE_TIME) -> list[Device]:
    """Generate a fleet; the same arguments give the same devices.

    Up to half of the stale devices, and up to half of the others, have a name from the lists
    above; the rest have numbered names.

    :param devices: Number of devices.
    :param stale: How many of them were last seen 90 to 400 days ago. The others were seen within
        the last 29 days: no device was last seen 30 to 89 days ago.
    :param seed: Determines uids, ages and order.
    :param now: The time from which ages are counted back.
    :returns: The devices, in random order.
    :raises ValueError: If not ``devices >= stale >= 0``.
    """
    if not devices >= stale >= 0:
        raise ValueError(f"a fleet needs devices >= stale >= 0, not devices={devices}, stale={stale}")
    rng = random.Random(seed)
    fleet = []
    for number in range(devices):
        if number < stale:
            position, size, listed = number, stale, STALE_NAMES
            days = rng.randint(90, 400)
        else:
            position, size, listed = number - stale, devices - stale, FRESH_NAMES
            days = rng.randint(0, 29)
        if position < min(len(listed), size // 2):
            name = listed[position]
        else:
            name = f"{PREFIXES[number % len(PREFIXES)]}{number:06d}"
        last_seen = now - timedelta(days=days, seconds=rng.randrange(86_400))
        os_name, platform = SYSTEMS[2] if name.startswith("MAC-") else rng.choice(SYSTEMS[:2])
        fleet.append(
            Device(
                uid=_uuid(rng),
                collector_uid=_uuid(rng),
                name=name,
                days_since_last_seen=days,
                last_seen=f"{last_seen:%Y-%m-%dT%H:%M:%SZ}",
                entity=rng.choice(ENTITIES),
                os_name=os_name,
                platform=platform,
            )
        )
    rng.shuffle(fleet)
    return fleet


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
