"""The coordinator's own `__main__` on two servers as layers; STEP COUNT ends it there, `-` never. Then its flags."""

import os
import sys

from weft.coordinator import __main__ as process
from weft.coordinator import availability
from weft.ledger.layers import EmergencyLayer, HttpxHttp
from weft.model.availability import Role
from weft.testing.failpoints import Failpoint, KilledLayer, KilledList

step, count = sys.argv[1], int(sys.argv[2])
fell = False


def verb_of_primary():
    """What reaches the primary after an outage is brought home."""
    return "bring" if fell else "ship"


def verb_of_fallback():
    global fell
    fell = True
    return "fall"


def open_layers(settings, clock, random, key, directory):
    http = HttpxHttp()
    layers = {
        role: EmergencyLayer(http, clock, os.environ[variable], None)
        for role, variable in ((Role.PRIMARY, "TEST_PRIMARY_URL"), (Role.SECONDARY, "TEST_SECONDARY_URL"))
    }
    if step == "-":
        return layers
    point = Failpoint(step, count)
    KilledList.point = point
    availability.PendingList = KilledList
    verbs = {Role.PRIMARY: verb_of_primary, Role.SECONDARY: verb_of_fallback}
    return {role: KilledLayer(layer, point, verbs[role]) for role, layer in layers.items()}


process.open_layers = open_layers
sys.exit(process.main(sys.argv[3:]))
