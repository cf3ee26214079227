"""When a record was written: the fields of its date.

With a the months since the user's first dated record, m the month and w the day of the week,

    v = [log(1 + a), sin(2 pi m / 12), cos(2 pi m / 12), sin(2 pi w / 7), cos(2 pi w / 7)]

Dates as fields of an item beside its text: M2TRec (ID-free metadata transformer), transferred to a user's records.
"""

from __future__ import annotations

import math
from datetime import date

import numpy as np
from numpy.typing import NDArray

from persona.formats.times import day_of
from persona.records import Profile
from persona.soft_prompts.parts.base import View

_DAYS_IN_MONTH = 30.0


class TimeView(View):
    """Age, month and day of the week of each record; zeros without a date, or where the date does not say."""

    dim = 5

    def read(self, profile: Profile) -> NDArray[np.float32]:
        """See the module.  # (records, 5)"""
        read = np.zeros((len(profile), self.dim), np.float32)
        days = [day_of(record.time) for record in profile]
        begun = min((day for day in days if day is not None), default=0)
        for row, (record, day) in enumerate(zip(profile, days, strict=True)):
            if day is None:
                continue
            when, precision = date.fromordinal(day), len(record.time or "")
            month, week = 2 * math.pi * when.month / 12, 2 * math.pi * when.weekday() / 7
            read[row, 0] = math.log1p((day - begun) / _DAYS_IN_MONTH)
            if precision >= 7:
                read[row, 1:3] = math.sin(month), math.cos(month)
            if precision >= 10:
                read[row, 3:5] = math.sin(week), math.cos(week)
        return read
