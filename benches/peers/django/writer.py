"""The application that writes: saves a row for each line `user number` it reads, and answers when that was committed.

`save` commits before `post_save` is sent, so the receiver connected here, the first, sees the time of the commit.
"""

import os
import sys
import time

import django
from django.core.management import call_command
from django.db.models.signals import post_save

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
committed = []


def note(**kwargs):
    committed.append(time.time_ns())


post_save.connect(note)
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)

from notifications.models import Notification  # noqa: E402  (after Django is set up)

print("ready", flush=True)
for line in sys.stdin:
    user, number = line.split()
    Notification.objects.create(user=user, number=int(number), message=f"Number {number} happened.")
    print(committed.pop(), flush=True)
