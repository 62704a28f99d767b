from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Notification


@receiver(post_save, sender=Notification)
def tell(instance, created, **kwargs):
    if not created:
        return
    notification = {
        "type": "info",
        "message": instance.message,
        "id": str(instance.pk),
        "event": "bench.happened",
        "data": {"n": instance.number},
        "created_at": instance.created_at.isoformat(),
    }
    event = {"type": "notify", "notification": notification}
    async_to_sync(get_channel_layer().group_send)(f"user_{instance.user}", event)
