"""The routes: HTTP to Django, sockets of pages of this site to the consumer."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
http = get_asgi_application()

from notifications.consumers import NotificationConsumer  # noqa: E402  (after Django is set up)

sockets = URLRouter([path("ws/notifications/<str:user>/", NotificationConsumer.as_asgi())])
application = ProtocolTypeRouter({"http": http, "websocket": AllowedHostsOriginValidator(sockets)})
