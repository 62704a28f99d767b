from channels.generic.websocket import AsyncJsonWebsocketConsumer


class NotificationConsumer(AsyncJsonWebsocketConsumer):
    """A socket is in its user's group."""

    async def connect(self):
        self.group = f"user_{self.scope['url_route']['kwargs']['user']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "info", "message": "Connected to real-time notifications", "connected": True})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def notify(self, event):
        await self.send_json(event["notification"])
