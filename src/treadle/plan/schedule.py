"""Times of day for `at:`: five cron fields or HH:MM, then optionally an IANA time zone.

cronsim walks the calendar, with Debian cron's treatment of the hours that daylight saving time
skips or repeats. Without a zone, UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo

from treadle.base.clock import UTC

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")


@dataclass(frozen=True)
class Schedule:
    """A cron expression of five fields and the zone it is meant in."""

    cron: str
    zone: str = "UTC"


def parse(at: str) -> Schedule:
    """The schedule that `at` names; ValueError says in a sentence what is wrong with it."""
    from cronsim import CronSim, CronSimError

    words = at.split()
    if not words:
        raise ValueError(
            "a time is five cron fields or HH:MM, then a time zone: 05:00 Europe/Berlin"
        )
    clock = _CLOCK.fullmatch(words[0])
    if clock:
        hour, minute, rest = int(clock[1]), int(clock[2]), words[1:]
        if hour > 23 or minute > 59:
            raise ValueError(f"{words[0]} is no time of day: 00:00 to 23:59")
        cron = f"{minute} {hour} * * *"
    else:
        if len(words) < 5:
            raise ValueError(
                f"{at!r} is no time: five cron fields (minute hour day month weekday) or HH:MM, "
                "then a time zone"
            )
        cron, rest = " ".join(words[:5]), words[5:]
    if len(rest) > 1:
        raise ValueError(f"after the time stands one time zone, not {' '.join(rest)!r}")
    zone = rest[0] if rest else "UTC"
    _zone(zone)
    try:
        # 29 February at most eight years ahead: whatever finds no moment in cronsim's 50 never will.
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"{cron!r}: {error}") from None
    except StopIteration:
        raise ValueError(f"{cron!r} names a moment that never comes") from None
    return Schedule(cron, zone)


def next_time(at: str, after: datetime) -> datetime:
    """The first moment of the schedule that is later than `after`, in UTC."""
    from cronsim import CronSim

    schedule = parse(at)
    local = after.astimezone(_zone(schedule.zone))
    for moment in CronSim(schedule.cron, local):
        found: datetime = moment.astimezone(UTC)
        # In the hour that is repeated in autumn wall-clock order and true order differ.
        if found > after:
            return found
    raise ValueError(f"{at!r} names no moment after {after.isoformat()}")


def due(at: str, last: datetime | None, now: datetime) -> bool:
    """Whether a moment of the schedule has come since `last`; what never ran is due at once.

    Several missed moments are one: a machine that slept a week runs once.
    """
    if last is None:
        return True
    return next_time(at, last) <= now


def _zone(name: str) -> tzinfo:
    import zoneinfo

    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        from treadle.plan.mistakes import did_you_mean

        known = zoneinfo.available_timezones()
        # People know their city better than the continent that the database files it under.
        cities = {zone.rpartition("/")[2]: zone for zone in sorted(known)}
        hint = f"; did you mean `{cities[name]}`?" if name in cities else ""
        meant = did_you_mean(name, known)
        hint = hint or (f"; {meant}" if meant else "; write one such as Europe/Berlin")
        raise ValueError(f"{name!r} is no time zone{hint}") from None
