"""Steering vectors made on demand from the profiles of requests: how an evaluation answers each question with its own.

`ProfileSteering` makes one for each profile, `EverybodysSteering` answers with the mean of all other users': what that
brings is the task's style and not the user's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from persona.adapters.bank import AdapterBank
from persona.adapters.from_profiles import owner_of
from persona.channels import Ask, Channel, Contribution, summed
from persona.protocols import STEERING
from persona.records import Profile
from persona.steering.channel import SteeringChannel
from persona.steering.contrast import Contrast
from persona.steering.users import steer_users
from persona.store.profile_store import ProfileStore


class ProfileSteering(Channel):
    """Answers each request with the vectors that are made from the profile in it.

    They are kept in a database of the folder: a run that was stopped goes on.

    Args:
        contrast: makes them.
        folder: where they are kept.
        progress: called with the number of profiles that are done, and how many there will be.
    """

    name = "steering"
    requires = STEERING

    def __init__(
        self, contrast: Contrast, folder: Path, *, progress: Callable[[int, int], object] = lambda done, total: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(repr((contrast.fingerprint, contrast.options)).encode(), digest_size=8).hexdigest()
        self._url = f"sqlite:///{folder / f'steering-{digest}.db'}"
        self._contrast, self._progress = contrast, progress
        self._made: dict[str, Contribution] = {}

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The vectors of each profile, which are made if they are not there yet."""
        return self.of([ask.profile for ask in asks])

    def of(self, profiles: Sequence[Profile]) -> list[Contribution]:
        """The vectors of profiles."""
        owners = [owner_of(profile) for profile in profiles]
        missing = {owner: each for owner, each in zip(owners, profiles, strict=True) if owner not in self._made}
        if missing:
            with ProfileStore(self._url) as store:
                bank, family = AdapterBank(store), self._contrast.family
                store.upsert((owner, record) for owner, profile in missing.items() for record in profile)
                bank.add_family(family)
                stale = [owner for owner in bank.stale_users(family) if owner in missing]
                there = len(missing) - len(stale)
                steer_users(
                    bank,
                    self._contrast,
                    user_ids=stale,
                    progress=lambda done: self._progress(there + done, len(missing)),
                )
                channel = SteeringChannel(bank, family)
                self._made |= {owner: channel.of(owner) for owner in missing}
        return [self._made[owner] for owner in owners]


class EverybodysSteering(Channel):
    """Answers each request with the mean of the vectors of all other users; who has none counts as zero.

    Args:
        steering: makes the vectors.
        profiles: of all users; of one who has several, the last counts.
    """

    name = "steering"
    requires = STEERING

    def __init__(self, steering: ProfileSteering, profiles: Sequence[Profile]) -> None:
        self._steering = steering
        self._profiles = {profile.user_id: profile for profile in profiles}

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The mean of the others, for each request."""
        users = list(self._profiles)
        made = dict(zip(users, self._steering.of([self._profiles[user] for user in users]), strict=True))
        return [self._mean([made[user] for user in users if user != ask.profile.user_id]) for ask in asks]

    def _mean(self, others: Sequence[Contribution]) -> Contribution:
        whole = summed([each.steering for each in others]) or {}
        return Contribution(steering={block: vector / len(others) for block, vector in whole.items()}, personal=False)
