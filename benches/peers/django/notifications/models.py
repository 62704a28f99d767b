from django.db import models


class Notification(models.Model):
    user = models.CharField(max_length=255, db_index=True)
    number = models.BigIntegerField()
    message = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
